"""What `detection.deployment.runner` refuses to open."""

import json
from types import SimpleNamespace

import pytest

from detection.deployment.runner import Runner


@pytest.mark.parametrize(
    ("name", "runtime", "message"),
    [
        ("a.pt2", None, "expected an exported file that ends in .onnx or .xml"),
        ("a.xml", "onnx", "expected an exported file that ends in .onnx"),
        ("a.onnx", "tensorrt", "runtime = 'tensorrt', expected one of onnx, openvino"),
        ("a.onnx", None, "a.onnx: onnx cannot read it"),
        ("a.xml", None, "a.xml: openvino cannot read it"),
    ],
)
def test_what_is_no_exported_file_is_refused(tmp_path, name, runtime, message):
    (tmp_path / name).write_text("nothing")
    with pytest.raises(ValueError) as refusal:
        Runner.open(tmp_path / name, runtime)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "preprocessing",
            {"size": {"min_size": 64, "max_size": 96}, "multiple": 32},
            "preprocessing.least is missing",
        ),
        ("preprocessing", {"size": {"min_size": 64, "max_size": 96}, "multiple": 0, "least": 96}, "multiple"),
        ("preprocessing", {"size": {"min_size": 0, "max_size": 96}, "multiple": 32, "least": 96}, "min_size"),
        ("categories", [{"id": 1}], "name"),
        ("categories", 5, "categories"),
        ("score_threshold", "high", "score_threshold"),
        ("detections_per_image", None, "detections_per_image"),
    ],
)
def test_damaged_words_of_an_exported_file_are_named(key, value, message):
    said = {
        "categories": [{"id": 1, "name": "cell"}],
        "preprocessing": {
            "size": {"min_size": 64, "max_size": 96},
            "multiple": 32,
            "least": 96,
            "mean": [0.5],
        },
        "score_threshold": 0.05,
        "detections_per_image": 100,
        "weights": "0",
    }
    program = SimpleNamespace(metadata={name: json.dumps(said[name]) for name in said})
    assert Runner.of(program, "d.onnx").least == 96
    program.metadata[key] = json.dumps(value)
    with pytest.raises(ValueError, match=f"d.onnx: its metadata: .*{message}"):
        Runner.of(program, "d.onnx")
