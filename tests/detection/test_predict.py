"""`python -m detection.predict` on the digit scenes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from detection import predict
from detection.detector import Detector
from detection.scenes import CATEGORY_IDS

REPOSITORY = Path(__file__).resolve().parents[2]


def test_predict_draws_lists_and_tabulates(trained, scenes, tmp_path, capsys):
    images = scenes.prepare() / "val"
    paths = sorted(str(path) for path in images.iterdir())[:2]
    output = tmp_path / "out"
    weights_file = str(trained[0] / "detector.safetensors")
    found = Detector.load(weights_file, "cpu")([Image.open(path) for path in paths])
    least = float(torch.cat([one["scores"] for one in found]).median())
    arguments = ["--output", str(output), "--min-score", str(least), "--device", "cpu"]
    assert predict.main([weights_file, *paths, *arguments]) == 0
    content = json.loads((output / "detections.json").read_text())
    expected = [
        (
            number,
            path,
            name,
            pytest.approx(score, abs=1e-6),
            pytest.approx([x, y, right - x, low - y], abs=1e-3),
        )
        for number, (path, one) in enumerate(zip(paths, found, strict=True), start=1)
        for name, score, (x, y, right, low) in zip(
            one["names"], one["scores"].tolist(), one["boxes"].tolist(), strict=True
        )
        if score >= least
    ]
    assert expected
    keys = ("image_id", "file_name", "category", "score", "bbox")
    assert [tuple(detection[key] for key in keys) for detection in content] == expected
    ids = dict(zip((str(digit) for digit in range(10)), CATEGORY_IDS, strict=True))
    assert all(detection["category_id"] == ids[detection["category"]] for detection in content)
    assert sorted(path.name for path in output.iterdir()) == [
        *(f"{i}_{Path(path).stem}.png" for i, path in enumerate(paths, start=1)),
        "detections.json",
    ]
    drawn = Image.open(output / f"1_{Path(paths[0]).stem}.png")
    assert drawn.size == Image.open(paths[0]).size
    assert drawn.tobytes() != Image.open(paths[0]).convert("RGB").tobytes()
    assert Path(paths[0]).name in capsys.readouterr().out


def test_predict_names_an_unreadable_image_before_anything_is_written(trained, scenes, tmp_path, capsys):
    good = str(next((scenes.prepare() / "val").iterdir()))
    (tmp_path / "broken.png").write_bytes(Path(good).read_bytes()[:200])
    arguments = [str(trained[0] / "detector.safetensors"), good, str(tmp_path / "broken.png")]
    assert predict.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert "broken.png: cannot be read as an image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predict_names_what_is_not_there(trained, tmp_path, capsys):
    weights_file = str(trained[0] / "detector.safetensors")
    assert predict.main([weights_file, "none.png", "--output", str(tmp_path)]) == 1
    assert predict.main(["none.safetensors", str(REPOSITORY / "README.md"), "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == ["none.png: no such image or folder", "none.safetensors: no such detector file"]


def test_a_device_that_is_none_is_named_without_a_traceback(trained, scenes, tmp_path, capsys):
    file = str(trained[0] / "detector.safetensors")
    arguments = [file, str(scenes.prepare() / "val"), "--output", str(tmp_path / "out"), "--device", "foo"]
    assert predict.main(arguments) == 1
    assert capsys.readouterr().err.startswith("device = 'foo', expected auto, cpu, cuda")
    assert not (tmp_path / "out").exists()
