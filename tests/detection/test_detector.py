"""A detector's file and what it finds: `Detector.load(path)(images)`."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from small_detectors import small_c4_detector, small_detector

from backbones import weights
from detection.data.coco_file import CategoryEntry
from detection.data.images import open_split
from detection.detector import Detector
from detection.evaluation.config import EvaluateConfig
from detection.evaluation.run import predict_all
from detection.evaluation.run import run as evaluate


def test_the_weights_alone_give_the_numbers_of_the_run(trained, scenes, tmp_path, capsys):
    folder, result = trained
    config = EvaluateConfig(weights=str(folder / "detector.safetensors"), data=scenes, output=str(tmp_path))
    assert evaluate(config)["metrics"] == result["metrics"]
    assert json.loads((tmp_path / "predictions.json").read_text()) == json.loads(
        (folder / "predictions.json").read_text()
    )


def test_the_detector_file_describes_itself_as_the_backbone_file_does(trained, backbone_file):
    _, ours = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    _, theirs = weights.read_safetensors(backbone_file, "backbone")
    assert (ours["engine"], ours["head"]) == ("torchvision_fpn", "fpn")
    assert ours["input"] == {"min_size": 96, "max_size": 192, "keep_aspect": True}
    for key in ("network", "preprocessing"):
        assert ours[key] == theirs[key]
    assert ours["categories"][:2] == [{"id": 1, "name": "0"}, {"id": 3, "name": "1"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["network"].update(cells_per_stage=10**6),
            "cells_per_stage = 1000000, but the file holds",
        ),
        (lambda m: m["network"].update(filters=10**6), "the weights do not fit the network: "),
        (lambda m: m["categories"].append({"id": 91, "name": "more"}), r"is \(11, .*expected \(12, "),
    ],
)
def test_sizes_that_a_file_claims_are_held_against_its_tensors_first(trained, tmp_path, change, message):
    tensors, metadata = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    change(metadata)
    weights.write_safetensors(tmp_path / "detector.safetensors", "detector", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        Detector.load(tmp_path / "detector.safetensors", device="cpu")


def test_a_detector_looks_at_pictures_and_tensors_alike(trained, scenes):
    detector = Detector.load(trained[0] / "detector.safetensors", device="cpu")
    images = open_split(scenes, "val")
    picture = images.read(0).resize((300, 200))
    tensor = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(200, 300, 3).permute(2, 0, 1)
    )
    by_picture, by_bytes, by_floats = (detector([image])[0] for image in (picture, tensor, tensor / 255))
    assert len(by_picture["boxes"]) > 0
    for other in (by_bytes, by_floats):
        assert torch.equal(by_picture["boxes"], other["boxes"])
        assert torch.equal(by_picture["scores"], other["scores"])
    boxes = by_picture["boxes"]
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 300).all()
    assert (boxes[:, [1, 3]] <= 200).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert by_picture["names"] == [detector.categories[label].name for label in by_picture["labels"].tolist()]
    assert by_picture["scores"].tolist() == sorted(by_picture["scores"].tolist(), reverse=True)


@pytest.fixture
def detector(trained):
    return Detector.load(trained[0] / "detector.safetensors", device="cpu")


def same(one, other):
    return one["names"] == other["names"] and all(
        torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels")
    )


def test_a_picture_comes_in_any_form_alone_or_in_a_list(detector, scenes, tmp_path):
    picture = open_split(scenes, "val").read(0)
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
    (expected,) = detector([picture])
    assert len(expected["boxes"]) > 0
    forms = (picture, str(tmp_path / "a.png"), tmp_path / "a.png", array, array / 255, tensor, tensor / 255)
    for form in forms:
        for images in (form, [form], (one for one in (form,))):
            (found,) = detector(images)
            assert same(found, expected), type(form)
    for batch in (torch.stack([tensor, tensor]), np.stack([array, array])):
        one, other = detector(batch)
        assert same(one, expected)
        assert same(other, expected)
    assert all(same(found, expected) for found in detector(list(forms)))
    assert detector([]) == []


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (
            [torch.zeros(3, 40, 40), torch.zeros(3, 40, 40).long()],
            ValueError,
            r"images\[1\]: pixels of int64, exp",
        ),
        (
            [torch.full((3, 40, 40), 200.0)],
            ValueError,
            r"images\[0\]: floating-point pixels in 200\.\.200, expected",
        ),
        ([torch.full((3, 40, 40), torch.nan)], ValueError, r"images\[0\]: pixels that are not finite"),
        (torch.full((3, 40, 40), torch.nan), ValueError, "pixels that are not finite"),
        (torch.zeros(40, 40, 3), ValueError, r"a tensor of shape \(40, 40, 3\) is no picture"),
        ([Image.new("RGB", (0, 4))], ValueError, r"images\[0\]: an image of 0x4 pixels has none"),
        ([None], TypeError, r"images\[0\]: expected a PIL image, .* not NoneType"),
        (None, TypeError, "expected a picture or several in a list, not NoneType"),
        ({"a": 1}, TypeError, "expected a picture or several in a list, not dict"),
        (b"\x89PNG", TypeError, "expected a picture or several in a list, not bytes"),
        (io.BytesIO(), TypeError, "expected a picture or several in a list, not BytesIO"),
        ("none.png", FileNotFoundError, "^none.png: no such image file"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(detector, images, kind, message):
    with pytest.raises(kind, match=message) as refusal:
        detector(images)
    assert "\n" not in str(refusal.value)


def test_a_threshold_leaves_out_what_scores_less(detector, scenes):
    picture = open_split(scenes, "val").read(0)
    (everything,) = detector(picture)
    least = float(everything["scores"].median())
    (found,) = detector(picture, threshold=least)
    count = int((everything["scores"] >= least).sum())
    assert 0 < count < len(everything["scores"])
    assert same(found, {key: value[:count] for key, value in everything.items()})
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"threshold = {threshold}, must be in 0..1"):
            detector(picture, threshold=threshold)
    for threshold in ("0.5", [0.5]):
        with pytest.raises(TypeError, match=f"threshold = {re.escape(repr(threshold))}, expected a number"):
            detector(picture, threshold=threshold)


def test_a_picture_for_predict_has_8_bits(detector):
    with pytest.raises(ValueError, match=r"an image of torch\.float32, expected torch\.uint8"):
        detector.predict(torch.zeros(3, 40, 40), (40, 40))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_file_of_another_precision_is_read_in_float32(trained, scenes, tmp_path, dtype):
    tensors, metadata = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    stored = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    weights.write_safetensors(tmp_path / "detector.safetensors", "detector", stored, metadata)
    detector = Detector.load(tmp_path / "detector.safetensors", device="cpu")
    assert {parameter.dtype for parameter in detector.engine.parameters()} == {torch.float32}
    (found,) = detector(open_split(scenes, "val").read(0))
    assert len(found["boxes"]) > 0
    if dtype == torch.float64:
        whole = Detector.load(trained[0] / "detector.safetensors", device="cpu")
        assert same(found, whole(open_split(scenes, "val").read(0))[0])


def test_weights_that_are_not_finite_are_refused_and_named(detector, scenes, tmp_path):
    with torch.no_grad():
        detector.engine.box_head.class_logits.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"the detector: box_head\.class_logits\.bias holds numbers that"):
        predict_all(detector, open_split(scenes, "val"), workers=0)
    detector.save(tmp_path / "broken.safetensors", {})
    with pytest.raises(ValueError, match=r"broken\.safetensors: box_head\.class_logits\.bias holds"):
        Detector.load(tmp_path / "broken.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("suffix", "value", "message"),
    [
        ("running_var", -1e-3, r"running_var holds a variance of -0\.001, expected 0 or more"),
        ("running_mean", torch.inf, "running_mean holds numbers that are not finite"),
    ],
)
def test_statistics_that_cannot_be_are_refused_and_named(trained, tmp_path, suffix, value, message):
    tensors, metadata = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    next(tensor for name, tensor in tensors.items() if name.endswith(suffix))[0] = value
    weights.write_safetensors(tmp_path / "broken.safetensors", "detector", tensors, metadata)
    with pytest.raises(ValueError, match=rf"broken\.safetensors: backbone\..*{message}"):
        Detector.load(tmp_path / "broken.safetensors", device="cpu")


def test_a_16_bit_picture_is_seen_as_its_8_bits(trained, scenes):
    detector = Detector.load(trained[0] / "detector.safetensors", device="cpu")
    grey = open_split(scenes, "val").read(0).convert("L")
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    one, other = detector([grey, deep])
    assert len(one["boxes"]) > 0
    assert torch.equal(one["boxes"], other["boxes"])


def test_files_that_are_no_detector_are_refused_with_the_key(trained, backbone_file, tmp_path):
    with pytest.raises(ValueError, match=r"backbone\.safetensors: kind = 'backbone', expected 'detector'"):
        Detector.load(backbone_file)
    tensors, metadata = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    path = tmp_path / "detector.safetensors"

    def changed(**values):
        return metadata["preprocessing"] | values

    for changes, message in (
        ({"engine": "yolo"}, "engine = 'yolo', expected one of torchvision_fpn"),
        ({"categories": [{"id": "one", "name": "1"}]}, r"categories\[0\].id = 'one', expected int"),
        (
            {"categories": metadata["categories"][:3]},
            r"box_head.class_logits.weight is \(11, 16\), expected \(4, 16\)",
        ),
        (
            {"detector": {**metadata["detector"], "fpn_channels": 0}},
            "safetensors: detector.fpn_channels = 0, must be at least 1",
        ),
        (
            {"input": {"min_size": 0, "max_size": 192}},
            "safetensors: input.min_size = 0, must be in 32..10000",
        ),
        ({"input": {"min_size": 96}}, "safetensors: input.max_size is missing"),
        (
            {"preprocessing": changed(mean=[0.5] * 4)},
            "safetensors: preprocessing.std = .*expected 4 finite values",
        ),
        ({"preprocessing": changed(mean=[0.5], std=[0.5])}, "preprocessing.mean has 1 values, expected 3"),
        ({"preprocessing": changed(std=[0.5, 0.5, 0])}, "safetensors: preprocessing.std = "),
        (
            {"preprocessing": changed(mean="grey")},
            "preprocessing.mean = 'grey', expected array",
        ),
    ):
        weights.write_safetensors(path, "detector", tensors, metadata | changes)
        with pytest.raises(ValueError, match=message) as refusal:
            Detector.load(path)
        assert str(refusal.value).startswith(f"{path}: ")
    rpn = metadata["detector"]["rpn"]
    for changes in (  # a megabyte in the file is none on the terminal
        {"engine": [0] * 100_000},
        {"detector": {**metadata["detector"], "rpn": {**rpn, "anchor_sizes": [0] * 100_000}}},
        {"detector": {**metadata["detector"], "rpn": {**rpn, "aspect_ratios": [1] * 100_000 + [0]}}},
        {"preprocessing": changed(std=[0] * 100_000)},
        {"preprocessing": changed(interpolation="x" * 100_000)},
    ):
        weights.write_safetensors(path, "detector", tensors, metadata | changes)
        with pytest.raises(ValueError) as refusal:
            Detector.load(path)
        assert str(refusal.value).startswith(f"{path}: ")
        assert len(str(refusal.value)) < len(str(path)) + 400


@pytest.mark.parametrize("make", [small_detector, small_c4_detector], ids=["fpn", "c4"])
def test_a_detector_works_under_autocast_and_exactly_again_without(make):
    detector = make([CategoryEntry(1, "a"), CategoryEntry(2, "b")])
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = detector.predict(image, (96, 128))
    with torch.autocast("cpu", torch.bfloat16):
        rough = detector.predict(image, (96, 128))
    assert rough["boxes"].dtype == rough["scores"].dtype == torch.float32
    assert 1e-5 < (rough["scores"][:5] - exact["scores"][:5]).abs().max() < 0.1
    again = detector.predict(image, (96, 128))
    assert all(torch.equal(again[key], exact[key]) for key in exact)
