"""`python -m detection.predict`: files, folders and patterns in; drawings, JSON and a table out."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from small_detectors import small_c4_detector, small_detector

from celltransfer import install_command
from detection.data.coco_file import CategoryEntry
from detection.evaluation.file_detections import predict
from detection.predict import main
from runtime.video import VideoWriter, frames, header

CATEGORIES = [CategoryEntry(3, "[red] cell"), CategoryEntry(7, "b"), CategoryEntry(90, "c")]


@pytest.fixture(scope="module")
def detector():
    return small_detector(CATEGORIES, side=64)


@pytest.fixture(scope="module")
def weights(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    detector.save(path, {})
    return str(path)


def exif(entries: list[tuple[int, int, int, int]]) -> bytes:
    """entries: tag, type, count, value or offset."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


DAMAGED = {
    "garbage": b"Exif\0\0" + bytes(range(200)),
    "cut off": exif([(0x0112, 3, 1, 1)] * 9)[:40],
    "a number that is text": exif([(0x0106, 2, 4, 0x41414141), (0x0112, 3, 1, 1)]),
    "an offset beyond the end": exif([(0x010F, 2, 100, 1 << 31), (0x0112, 3, 1, 1)]),
    "an orientation that is text": exif([(0x0112, 2, 4, 0x41414141)]),
    "an orientation out of range": exif([(0x0112, 3, 1, 77)]),
    "itself": exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)]),
}
"""EXIF that says nothing of use."""


def picture(seed: int, width: int = 90, height: int = 60) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def images(tmp_path):
    """A folder of two, one of them below another folder."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    picture(1).save(folder / "a.png")
    picture(2).save(folder / "more" / "a.jpg")
    return folder


def expected(detector, paths, least):
    """COCO's entries with names, of what the detector finds in the files."""
    entries = []
    for number, path in enumerate(paths, start=1):
        (found,) = detector([Image.open(path)])
        rows = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        for (x, y, right, low), label, score in rows:
            if score >= least:
                entries.append(
                    {
                        "image_id": number,
                        "category_id": CATEGORIES[label].id,
                        "bbox": pytest.approx([x, y, right - x, low - y], abs=1e-3),
                        "score": pytest.approx(score, abs=1e-6),
                        "file_name": str(path),
                        "category": CATEGORIES[label].name,
                    }
                )
    return entries


def test_images_are_drawn_listed_and_tabulated(detector, weights, images, tmp_path, capsys):
    paths = [images / "a.png", images / "more" / "a.jpg"]
    output = tmp_path / "out"
    scores = torch.cat([one["scores"] for one in detector([Image.open(path) for path in paths])])
    least = float(scores.median())
    arguments = ["--output", str(output), "--min-score", str(least), "--device", "cpu"]
    assert main([weights, str(images), *arguments]) == 0
    content = json.loads((output / "detections.json").read_text())
    assert content == expected(detector, paths, least)
    assert 0 < len(content) < len(scores)
    assert sorted(path.name for path in output.iterdir()) == ["1_a.png", "2_a.png", "detections.json"]
    for number, path in enumerate(paths, start=1):
        drawn, shown = Image.open(output / f"{number}_a.png"), Image.open(path).convert("RGB")
        assert drawn.size == shown.size
        assert drawn.tobytes() != shown.tobytes()
    shown = capsys.readouterr().out
    assert "[red] cell" in shown
    rows = [line for line in shown.splitlines() if str(images) in line]
    assert [row.split("│")[-2].strip() for row in rows] == ["1_a.png", "2_a.png"]
    assert shown.endswith(f"{output}: 2 drawings\n{output}/detections.json\n")


def test_json_is_all_that_stands_on_stdout(detector, weights, images, capsys):
    assert main([weights, str(images / "**" / "*.*g"), "--json", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    paths = [images / "a.png", images / "more" / "a.jpg"]
    assert json.loads(printed.out) == expected(detector, paths, 0.3)
    assert printed.err == ""


def test_one_of_drawings_and_json_is_asked_for(weights, images, capsys):
    with pytest.raises(SystemExit) as refusal:
        main([weights, str(images)])
    assert refusal.value.code == 2
    assert "give --output DIR, or --json, or both" in capsys.readouterr().err


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_rotated_image_is_seen_upright(detector, tmp_path, orientation):
    """As cameras write them: pixels on their side, and how to turn them."""
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = picture(3)
    upright.save(tmp_path / "upright.png")
    upright.transpose(turn[orientation]).save(tmp_path / "turned.png", exif=exif)
    plain, turned = predict(detector, [tmp_path / "upright.png", tmp_path / "turned.png"], tmp_path / "out")
    assert plain.results
    keys = ("bbox", "score", "category_id")
    assert [[getattr(r, key) for key in keys] for r in turned.results] == [
        [getattr(r, key) for key in keys] for r in plain.results
    ]
    assert Image.open(tmp_path / "out" / "2_turned.png").size == upright.size


def test_what_cannot_be_read_is_named_and_the_rest_is_looked_at(detector, weights, images, tmp_path, capsys):
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:200])
    assert main([weights, str(images), "--json", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert {entry["image_id"] for entry in json.loads(printed.out)} == {1, 3}
    line, count = printed.err.splitlines()
    assert line.startswith(f"{images / 'broken.png'}: cannot be read as an image")
    assert count == "1 of 3 could not be read"


def test_a_missing_file_does_not_lose_the_others(weights, images, tmp_path, capsys):
    words = ["none.png", str(images / "a.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([weights, *words]) == 1
    printed = capsys.readouterr()
    assert "none.png│││nosuchimageorfolder" in "".join(printed.out.split())
    assert printed.err.splitlines() == ["none.png: no such image or folder", "1 of 2 could not be read"]
    assert {
        entry["image_id"] for entry in json.loads((tmp_path / "out" / "detections.json").read_text())
    } == {1}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of the pictures that the test itself opens
@pytest.mark.parametrize("exif", DAMAGED, ids=list(DAMAGED))
def test_damaged_exif_costs_nothing(detector, tmp_path, exif):
    """Neither the file, nor the others, nor the call in Python; the picture is seen as it is stored."""
    picture(6).save(tmp_path / "plain.jpg", quality=95)
    picture(6).save(tmp_path / "exif.jpg", quality=95, exif=DAMAGED[exif])
    plain, damaged = predict(detector, [tmp_path / "plain.jpg", tmp_path / "exif.jpg"])
    assert plain.results
    assert [one.bbox for one in damaged.results] == [one.bbox for one in plain.results]
    found = detector([Image.open(tmp_path / "exif.jpg")])[0]["boxes"]
    torch.testing.assert_close(found, detector([Image.open(tmp_path / "plain.jpg")])[0]["boxes"])


def test_a_picture_with_a_long_name_is_drawn(detector, tmp_path):
    path = tmp_path / f"{'ä' * 120}.png"  # 244 bytes of the 255 that a name may have
    picture(7).save(path)
    (found,) = predict(detector, [path] * 1, tmp_path / "out")
    assert found.error is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"1_{'ä' * 100}.png"]


def test_a_name_that_is_not_utf_8_is_written_as_its_bytes(weights, images, capsys):
    os.rename(images / "a.png", os.fsencode(images) + b"/caf\xe9.png")
    assert main([weights, str(images), "--json", "--device", "cpu"]) == 0
    names = {entry["file_name"] for entry in json.loads(capsys.readouterr().out)}
    assert os.fsencode(images) + b"/caf\xe9.png" in {os.fsencode(name) for name in names}


def test_the_table_has_whole_names_where_it_goes_to_a_file(weights, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = images / f"{'long-' * 40}.png"
    os.rename(images / "a.png", name)
    words = [weights, str(images), "gone" * 40, "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 2 drawings\n" in shown  # of the files that were read
    assert (str(name) in shown, "gone" * 40 in shown) == (True, True)


def test_the_table_shows_such_a_name_on_a_strict_terminal(weights, images, tmp_path):
    os.rename(images / "a.png", os.fsencode(images) + b"/caf\xe9.png")
    command = [
        sys.executable,
        "-m",
        "detection.predict",
        weights,
        str(images),
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert r"caf\udce9.png" in done.stdout.decode()


def test_a_decompression_bomb_is_refused_by_name(weights, tmp_path, capsys, monkeypatch):
    """A limit below the picture's size, in place of a picture above the limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture(4).save(tmp_path / "huge.png")
    assert main([weights, str(tmp_path / "huge.png"), "--json", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "[]\n"
    assert printed.err.startswith(
        f"{tmp_path / 'huge.png'}: cannot be read as an image: Image size (5400 pixels)"
    )


@pytest.mark.parametrize("make", [small_detector, small_c4_detector])
def test_an_image_of_any_shape_is_looked_at(make, tmp_path):
    detector = make(CATEGORIES)
    for number, size in enumerate(((1, 1), (1000, 2), (3, 300))):
        picture(5, *size).save(tmp_path / f"{number}.png")
    found = list(predict(detector, sorted(tmp_path.glob("*.png")), tmp_path / "out", 0.0))
    assert [one.error for one in found] == [None, None, None]


def test_what_is_not_there_is_named(weights, images, capsys):
    good = str(images / "a.png")
    assert main([weights, "none.png", "--json"]) == 1
    assert main(["none.safetensors", good, "--json"]) == 1
    assert main([weights, good, "--json", "--device", "foo"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[:2] == ["none.png: no such image or folder", "none.safetensors: no such detector file"]
    assert lines[2].startswith("device = 'foo', expected auto, cpu, cuda")


def test_a_video_is_its_frames(detector, weights, images, tmp_path, capsys):
    clip = tmp_path / "clip.MOV"
    with VideoWriter(clip, Fraction(10)) as writer:
        for seed in range(3):
            writer.write(picture(seed))
    output = tmp_path / "out"
    words = [str(images / "a.png"), str(clip), "--output", str(output), "--min-score", "0", "--device", "cpu"]
    assert main([weights, *words]) == 0
    entries = json.loads((output / "detections.json").read_text())
    shown = [Image.open(images / "a.png"), *frames(clip)]
    for image_id, (found, frame) in enumerate(zip(detector(shown), (None, 1, 2, 3), strict=True), start=1):
        own = [entry for entry in entries if entry["image_id"] == image_id]
        assert [entry["score"] for entry in own] == pytest.approx(found["scores"].tolist(), abs=1e-6)
        assert {entry.get("frame") for entry in own} == {frame}
    assert header(output / "2_clip.mp4") == (3, 10)
    drawn = list(frames(output / "2_clip.mp4"))
    difference = np.abs(np.asarray(drawn[0], np.int16) - np.asarray(shown[1], np.int16))
    assert difference.max() > 100  # boxes
    printed = "".join(capsys.readouterr().out.split())
    assert "(3frames)" in printed
    assert "2_clip.mp4│" in printed
    assert f"{output}:2drawings" in printed


def test_a_video_that_cannot_be_read_costs_itself_alone(weights, images, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert main([weights, str(broken), str(images / "a.png"), "--json", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert {entry["image_id"] for entry in json.loads(printed.out)} == {2}
    assert printed.err.startswith(f"{broken}: cannot be read as a video: ")


def test_a_video_needs_its_extra(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "clip.mp4").touch()
    assert main([weights, str(tmp_path / "clip.mp4"), "--json"]) == 1
    assert f"clip.mp4 needs av, which is not installed: {install_command('video')}" in capsys.readouterr().err


def test_an_engine_is_for_exported_files(weights, images, tmp_path, capsys):
    words = [str(images / "a.png"), "--json"]
    assert main([weights, *words, "--engine", "openvino"]) == 1
    assert main([str(tmp_path / "none.onnx"), *words]) == 1
    assert main([str(tmp_path / "none.onnx"), *words, "--device", "cuda"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        f"{weights}: --engine openvino runs exported files, which end in .onnx or .xml; "
    )
    assert lines[1] == f"{tmp_path / 'none.onnx'}: no such exported file"
    assert lines[2] == "--device cuda: exported files run on the CPU"
