"""A detector's file and what it finds: `Detector.load(path)(images)`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import weights
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


def test_a_tensor_of_another_type_is_refused(trained):
    detector = Detector.load(trained[0] / "detector.safetensors", device="cpu")
    with pytest.raises(ValueError, match=r"an image tensor is of torch\.int64, expected uint8, or a float"):
        detector([torch.zeros(3, 40, 40, dtype=torch.int64)])


def test_weights_that_are_not_finite_are_refused_and_named(trained, scenes, tmp_path):
    detector = Detector.load(trained[0] / "detector.safetensors", device="cpu")
    with torch.no_grad():
        detector.engine.box_head.class_logits.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"box_head\.class_logits\.bias of the detector holds numbers that"):
        predict_all(detector, open_split(scenes, "val"), workers=0)
    detector.save(tmp_path / "broken.safetensors", {})
    with pytest.raises(ValueError, match=r"broken\.safetensors: box_head\.class_logits\.bias of"):
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
        ({"engine": "yolo"}, "engine = yolo, expected one of torchvision_fpn"),
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
            "safetensors: preprocessing.std = .*expected 4 values",
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
