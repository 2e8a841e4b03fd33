"""Exported programs find what the detector finds; they are read by the runtimes they are for."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_detectors import small_c4_detector, small_detector

from backbones import processor
from backbones.runtimes import open_program, openvino_core, save_openvino
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import Fixed, ShortestEdge
from detection.deployment import int8
from detection.deployment.comparison import compare
from detection.deployment.export import export, pattern
from detection.deployment.fixed import FixedDetector
from detection.deployment.program import TorchProgram, described, traced, write
from detection.deployment.runner import Runner
from detection.detector import Detector
from detection.export import main
from runtime.digests import digest

CATEGORIES = [CategoryEntry(3, "red"), CategoryEntry(7, "b"), CategoryEntry(90, "c")]


SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
CUT_OFF = "truncated or damaged image (image file is truncated)"


def brief_detector(categories):
    return small_detector(categories, brief=True)


def opened(path: Path) -> Runner:
    return Runner.of(TorchProgram(path) if path.suffix == ".pt2" else open_program(path), path)


def words_of(path):
    """What an exported file says of itself."""
    return {key: json.loads(text) for key, text in opened(path).program.metadata.items()}


@pytest.fixture(scope="module")
def program():
    """A detector, its program, and what files of it say of themselves."""
    detector = brief_detector(CATEGORIES)
    return detector, traced(detector), described(detector, "ab12")


@pytest.fixture(scope="module")
def files(tmp_path_factory, program) -> Path:
    """A folder with `detector.safetensors` and `detector.onnx` and `.xml` of it."""
    folder = tmp_path_factory.mktemp("files")
    detector, trace, said = program
    detector.save(folder / "detector.safetensors", {})
    write(trace, folder / "detector.onnx", "onnx", said)
    # As `write` does, which would make the ONNX file, half of the work, once more.
    save_openvino(openvino_core().read_model(folder / "detector.onnx"), folder / "detector.xml", said)
    return folder


@pytest.fixture(
    scope="module", params=[".onnx", ".xml", pytest.param(".pt2", marks=pytest.mark.slow)], ids=lambda s: s
)
def exported(request, files, program) -> Path:
    """One of the files."""
    path = files / f"detector{request.param}"
    if not path.exists():
        write(program[1], path, "torch", program[2])
    return path


def test_each_file_finds_what_the_detector_finds_in_pictures_of_any_size(exported):
    detector = Detector.load(exported.with_suffix(".safetensors"), "cpu")
    runner = opened(exported)
    sizes = [(96, 96), (60, 128), (300, 200), (75, 100)]
    pictures = [pattern(*size, seed) for seed, size in enumerate(sizes)]
    assert len(runner(pattern(20, 200))["names"]) > 5  # 19 x 192, padded to 96 x 192
    found = compare(detector, runner, pictures)
    assert (found.pictures, found.alone) == (4, 0)
    assert found.found > 100
    assert found.box < 1e-3
    for image in pictures:
        wanted, answer = detector(image)[0], runner(image)
        assert answer["names"] == wanted["names"]
        np.testing.assert_allclose(answer["boxes"], wanted["boxes"], rtol=0, atol=1e-3)
    high = runner(pictures[0], threshold=float(wanted["scores"][0]))
    assert len(high["scores"]) < len(runner(pictures[0])["scores"])


def test_each_file_says_what_it_is(exported):
    metadata = words_of(exported)
    assert metadata["categories"] == [{"id": c.id, "name": c.name} for c in CATEGORIES]
    assert metadata["preprocessing"] == {
        "size": {"min_size": 96, "max_size": 192, "keep_aspect": True},
        "multiple": 32,
        "least": 96,
        "channels": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    assert (metadata["score_threshold"], metadata["detections_per_image"]) == (0.05, 100)
    assert metadata["weights"] == "ab12"


def test_files_name_no_place_of_the_machine_that_wrote_them(exported):
    for path in exported.parent.iterdir():  # OpenVINO's are two
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), path.name


def test_openvino_reads_the_onnx_file_too(files):
    image = pattern(96, 128)
    found = [
        Runner.open(files / name, "openvino", threads=1)(image) for name in ("detector.onnx", "detector.xml")
    ]
    np.testing.assert_array_equal(found[0]["boxes"], found[1]["boxes"])
    assert len(found[0]["names"]) > 5


def test_the_reader_in_the_documentation_finds_the_same_without_torch(files, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "detection.md").read_text()
    (code,) = re.findall(r"```python\n(import json\n.*?)```", text, re.DOTALL)
    Image.fromarray(pattern(75, 100)).save(tmp_path / "photo.png")
    runner = Runner.open(files / "detector.onnx")
    threshold = float(runner(pattern(75, 100))["scores"][3:5].mean())
    found = runner(pattern(75, 100), threshold)
    assert len(found["names"]) == 4
    code = code.replace("score >= 0.5", f"score >= {threshold}")
    code = code.replace("detector.onnx", str(files / "detector.onnx"))
    code = code.replace("photo.jpg", str(tmp_path / "photo.png"))
    script = f"import sys\nsys.modules['torch'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == found["names"]
    np.testing.assert_allclose([[float(x) for x in line[2:]] for line in lines], found["boxes"], atol=0.06)


def numbered_pictures(folder: Path, count: int, damaged: tuple[int, ...] = ()) -> Path:
    """A folder of `00.png`, `01.png`, …, of which some are cut off."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:02}.png"
        Image.fromarray(pattern(75, 100, number)).save(path)
        if number in damaged:
            path.write_bytes(path.read_bytes()[:-30])
    return folder


@pytest.fixture
def known_file(files, monkeypatch):
    """The export takes the file that is there, which spares its minutes."""
    monkeypatch.setattr("detection.deployment.export.traced", lambda detector: None)
    copied = lambda trace, path, *_: shutil.copy(files / "detector.onnx", path)  # noqa: E731
    monkeypatch.setattr("detection.deployment.export.write", copied)


@pytest.mark.parametrize(
    ("count", "damaged", "told"),
    [
        (17, (), "16 of 17 pictures in {images}"),
        (40, (1, 39), "16 of 40 pictures in {images}"),  # neither is among the 16
        (3, (1,), "2 of 3 pictures in {images} (left out: 01.png: {why})"),
    ],
)
def test_it_compares_on_16_pictures_and_names_those_left_out(
    files, known_file, tmp_path, capsys, count, damaged, told
):
    images = numbered_pictures(tmp_path / "images", count, damaged)
    words = [str(files / "detector.safetensors"), "--format", "onnx", "--output", str(tmp_path / "d.onnx")]
    assert main([*words, "--images", str(images)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"compared on {told.format(images=images, why=CUT_OFF)}: boxes within ")
    compared = told.partition(" ")[0]
    assert f"export: comparing {compared}/{compared}, " in err


def test_pictures_of_which_none_can_be_decoded_are_refused_before_any_work(files, tmp_path, capsys):
    images = numbered_pictures(tmp_path / "images", 2, (0, 1))
    words = [str(files / "detector.safetensors"), "--format", "onnx", "--output", str(tmp_path / "d.onnx")]
    assert main([*words, "--images", str(images)]) == 1
    told = f"{images}: 2 of 2 pictures cannot be decoded, such as 00.png: {CUT_OFF}\n"
    assert capsys.readouterr().err.endswith(told)


@pytest.mark.slow
def test_the_command_compares_with_the_users_pictures_and_tells_its_stages(files, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "detection")
    (tmp_path / "images").mkdir()
    for seed in range(2):
        Image.fromarray(pattern(75, 100, seed)).save(tmp_path / "images" / f"{seed}.png")
    words = [str(files / "detector.safetensors"), "--format", "torch"]
    path = tmp_path / "out" / "d.pt2"
    assert main([*words, "--output", str(path), "--images", str(tmp_path / "images")]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"compared on 2 of 2 pictures in {tmp_path}/images: boxes within \S+ px and scores within \S+ of "
        r"\d+ detections, none found by one alone",
        first,
    )
    assert last == str(path)
    assert caplog.messages == ["export: building the program", "export: writing the program of torch.export"]
    assert words_of(path)["weights"] == digest(files / "detector.safetensors")
    assert [file.name for file in path.parent.iterdir()] == ["d.pt2"]


@pytest.mark.slow
def test_a_file_that_finds_something_else_is_not_written_and_removes_nothing(files, tmp_path, monkeypatch):
    class Other(FixedDetector):
        def __init__(self, engine):
            super().__init__(engine)
            engine.box_head.class_logits.weight.neg_()

    monkeypatch.setattr("detection.deployment.program.FixedDetector", Other)
    (tmp_path / "a.pt2").write_text("old")
    detector = Detector.load(files / "detector.safetensors", "cpu")
    with pytest.raises(
        ValueError, match=r"a.pt2 was not written: on 3 coloured patterns, \d+ of \d+ detections"
    ):
        export(detector, tmp_path / "a.pt2", "torch")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.pt2", "old")]


@pytest.mark.slow
def test_a_detector_that_finds_nothing_is_exported_with_a_warning(files, tmp_path, caplog):
    detector = Detector.load(files / "detector.safetensors", "cpu")
    torch.nn.init.zeros_(detector.engine.box_head.class_logits.weight)
    torch.nn.init.constant_(detector.engine.box_head.class_logits.bias[-1:], 1000.0)
    export(detector, tmp_path / "a.pt2", "torch")
    assert "finds nothing on 3 coloured patterns" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("rule", [Fixed(70), ShortestEdge((96,), 192)], ids=["one size", "any size"])
def test_a_detector_on_one_map_is_exported_too(rule, format, tmp_path):
    """At one size it is not padded, as it is not by `predict`."""
    detector = small_c4_detector(CATEGORIES)
    detector.input_size = rule
    path = tmp_path / f"a{SUFFIXES[format]}"
    report = export(detector, path, format)
    assert report.comparison.alone == 0
    assert report.comparison.found > 30
    image = pattern(120, 90)
    found = Runner.open(path)(image)
    inputs = Runner.open(path).prepare(image)
    assert inputs.image.shape == ((1, 3, 70, 70) if isinstance(rule, Fixed) else (1, 3, 128, 96))
    if isinstance(rule, Fixed):
        np.testing.assert_allclose(found["boxes"], detector(image)[0]["boxes"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_deep_backbone_with_the_padding_of_tensorflow_is_exported(tmp_path):
    """Sizes of its maps are -(-H // 2), which PyTorch's exporter divides towards zero."""
    report = export(small_detector(CATEGORIES), tmp_path / "a.xml", "openvino")
    assert report.comparison.alone == 0
    assert report.comparison.found > 30


@pytest.mark.parametrize(
    ("format", "name", "options", "message"),
    [
        ("onnx", "a.pt2", {}, "a file of format onnx must end in .onnx"),
        ("torch", "a.onnx", {}, "a file of format torch must end in .pt2"),
        ("tflite", "a.xml", {}, "format = 'tflite', expected one of onnx, openvino, torch"),
        ("torch", ".pt2", {}, "must end in .pt2"),
        ("onnx", "a.onnx", {"int8": True}, "format = 'onnx', but int8 is written for openvino"),
        ("openvino", "a.xml", {"int8": True}, "int8 is calibrated on pictures like those it is for"),
        ("openvino", "a.xml", {"annotations": Path("a.json")}, "tell what int8 costs, so give --int8, too"),
        ("openvino", "a.xml", {"images": Path("nowhere")}, "nowhere: no such image or folder"),
    ],
)
def test_a_wrong_request_is_refused_before_any_work(
    files, tmp_path, format, name, options, message, monkeypatch
):
    monkeypatch.setattr("detection.deployment.export.traced", None)
    detector = Detector.load(files / "detector.safetensors", "cpu")
    with pytest.raises(ValueError) as refusal:
        export(detector, tmp_path / name, format, **options)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("missing", "format", "options", "message"),
    [
        ("onnx", "onnx", {}, r"format onnx needs onnx, .* -m pip install -e .*\[export\]"),
        ("nncf", "openvino", {"int8": True, "images": Path()}, r"int8 needs nncf, .*\[deploy\]"),
    ],
)
def test_a_missing_package_is_named_with_the_command(
    files, monkeypatch, tmp_path, missing, format, options, message
):
    monkeypatch.setitem(sys.modules, missing, None)
    detector = Detector.load(files / "detector.safetensors", "cpu")
    with pytest.raises(ModuleNotFoundError, match=message):
        export(detector, tmp_path / f"a{SUFFIXES[format]}", format, **options)


@pytest.mark.slow
def test_int8_tells_what_it_costs(files, tmp_path, monkeypatch, capsys):
    pytest.importorskip("nncf")
    images = tmp_path / "images"
    images.mkdir()
    detector = Detector.load(files / "detector.safetensors", "cpu")
    annotations = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c.id, "name": c.name} for c in CATEGORIES],
    }
    for number in range(4):
        image = pattern(96, 128, number)
        Image.fromarray(image).save(images / f"{number}.png")
        size = {"height": 96, "width": 128}
        annotations["images"].append({"id": number, "file_name": f"{number}.png", **size})
        found = detector(image)[0]
        for box, label in zip(found["boxes"][:5].tolist(), found["labels"][:5].tolist(), strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            one = {"id": len(annotations["annotations"]) + 1, "image_id": number, "iscrowd": 0}
            one |= {"category_id": CATEGORIES[label].id, "bbox": [box[0], box[1], width, height]}
            annotations["annotations"].append(one | {"area": width * height})
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    monkeypatch.setattr(
        int8, "CONFIDENT", float(found["scores"][3])
    )  # a detector trained briefly is never sure
    path = tmp_path / "int8.xml"
    words = [str(files / "detector.safetensors"), "--format", "openvino", "--output", str(path), "--int8"]
    words += ["--images", str(images)]
    assert main(words) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert (
        told := re.fullmatch(
            r"int8, calibrated on 4 pictures: finds (\d+) of the (\d+) detections of .*", line
        )
    )
    # Untrained weights: most is found again on a processor with VNNI, hardly anything on one with AVX2 alone.
    vnni = (processor.features() or {}).get("VNNI")
    assert int(told[2]) >= int(told[1]) > (int(told[2]) / 2 if vnni else 0)
    assert main([*words, "--annotations", str(tmp_path / "a.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (told := re.fullmatch(r"int8, calibrated on 4 pictures: AP ([\d.]+) → ([\d.]+)", lines[1]))
    assert float(told[1]) > 70
    if vnni:
        assert float(told[1]) / 2 < float(told[2])
    assert [line.split()[0] for line in lines[2:-1]] == [c.name for c in CATEGORIES]
    assert path.with_suffix(".bin").stat().st_size < 0.6 * (files / "detector.bin").stat().st_size
