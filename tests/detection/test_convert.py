"""A detector that one engine trained is the same detector in the other."""

import dataclasses
import importlib
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from backbones import weights
from backbones.factory import create
from detection import convert
from detection.data.images import open_split
from detection.detector import Detector
from detection.engines import conversion
from detection.engines.config import (
    Detectron2C4Config,
    Detectron2FpnConfig,
    EngineConfig,
    TorchvisionC4Config,
    TorchvisionFpnConfig,
)
from detection.evaluation.run import predict_all
from detection.evaluation.scoring import evaluate
from detection.model.config import BoxHeadConfig, C4HeadConfig, RpnConfig
from detection.train import run as train
from detection.training.config import BackboneSource

pytest.importorskip("detectron2", reason="needs Detectron2: run make detectron2")

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # Detectron2's


def rpn(anchor_sizes: list[int], **keys) -> RpnConfig:
    counts = {"pre_nms_train": 100, "pre_nms_test": 100, "post_nms_train": 50, "post_nms_test": 30}
    return RpnConfig(anchor_sizes=anchor_sizes, batch_size_per_image=64, **counts, **keys)


def fpn(kind: type[EngineConfig]) -> EngineConfig:
    head = BoxHeadConfig(width=32, batch_size_per_image=32, pooled_size=5, score_threshold=0.0)
    return kind(fpn_channels=16, rpn=rpn([16, 32, 64, 96, 128]), box_head=head)


def c4(kind: type[EngineConfig]) -> EngineConfig:
    head = C4HeadConfig(crop_size=7, batch_size_per_image=16)
    return kind(rpn_channels=16, rpn=rpn([16, 32, 64], box_loss_weight=2.0), box_head=head, roi_chunk=7)


QUICK = {
    "fpn": ("nasnet_a_mobile", fpn(Detectron2FpnConfig), "torchvision", 4),
    "c4-timm": ("timm/test_resnet", c4(TorchvisionC4Config), "detectron2", 4),
}
LONG = {
    "fpn-long": ("nasnet_a_mobile", fpn(TorchvisionFpnConfig), "detectron2", 60),
    "fpn-resnet18": ("timm/resnet18", fpn(Detectron2FpnConfig), "torchvision", 60),
    "c4-long": ("nasnet_a_mobile", c4(Detectron2C4Config), "torchvision", 60),
    "c4-resnet18": ("timm/resnet18", c4(TorchvisionC4Config), "detectron2", 60),
}
"""Network, the engine that trains, the other one, steps."""
EACH = pytest.mark.parametrize(
    "trained_and_converted",
    [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)],
    indirect=True,
)


@pytest.fixture(scope="module")
def trained_and_converted(request, tmp_path_factory, small_config, scenes):
    """Two files, the second converted from the first; the family of the second's engine; the data."""
    name, detector, other, steps = (QUICK | LONG)[request.param]
    # Looked at again in evaluation: so few steps find something in known pictures alone.
    shown = {"val_images": scenes.train_images, "val_annotations": scenes.train_annotations}
    few = dataclasses.replace(scenes, train_limit=4, val_limit=4, **shown)
    folder = tmp_path_factory.mktemp("convert")
    torch.manual_seed(0)
    size = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4} if name == "nasnet_a_mobile" else {}
    weights.save(create(name, 10, image_size=64, **size), folder / "backbone.safetensors")
    config = small_config(folder / "run", folder / "backbone.safetensors", few, steps=steps)
    config.detector = detector
    config.backbone = BackboneSource(
        weights=str(folder / "backbone.safetensors"), from_scratch=True, batch_norm_momentum=0.3
    )
    train(config)
    source, target = folder / "run" / "detector.safetensors", folder / "converted.safetensors"
    conversion.convert(source, other, target)
    return source, target, other, few


def detectors(paths, images):
    """Detectors and the images at their size."""
    loaded = [Detector.load(path, "cpu") for path in paths]
    return loaded, loaded[0].prepare(images)


@EACH
def test_boxes_and_scores_are_the_same(trained_and_converted):
    *paths, _, data = trained_and_converted
    pair, images = detectors(paths, open_split(data, "val"))
    found = 0
    for index in range(len(images)):
        ours, theirs = (one.predict(images[(0, index)]["image"], (96, 96)) for one in pair)
        found += len(ours["labels"])
        assert ours["labels"].tolist() == theirs["labels"].tolist()
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-4)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-4)
    assert found > 100


@pytest.mark.slow
@pytest.mark.parametrize("trained_and_converted", LONG, indirect=True)
def test_the_number_of_detections_and_cocos_twelve_are_the_same(trained_and_converted):
    *paths, _, data = trained_and_converted
    pair, images = detectors(paths, open_split(data, "val"))
    ours, theirs = (predict_all(one, images, 0) for one in pair)
    assert len(ours) == len(theirs)
    metrics = evaluate(images.coco, ours).metrics
    assert metrics["AP"] > 0.02
    assert metrics == evaluate(images.coco, theirs).metrics


@EACH
def test_losses_of_the_same_sample_are_the_same(trained_and_converted):
    source, target, _, data = trained_and_converted
    samples = [open_split(data, "train")[(0, index)] for index in range(3)]
    images = [sample["image"].float() / 255 for sample in samples]
    engines = [Detector.load(path, "cpu").engine.train() for path in (source, target)]

    def losses(engine, first_seed):
        targets = [{**sample["target"], "seed": first_seed + place} for place, sample in enumerate(samples)]
        with torch.no_grad():
            return {name: float(loss) for name, loss in engine.losses(images, targets).items()}

    ours, theirs = (losses(engine, 5) for engine in engines)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert losses(engines[1], 6) != pytest.approx(theirs, abs=1e-4)  # other anchors and regions are drawn


@EACH
def test_the_way_there_and_back_changes_no_byte(trained_and_converted, tmp_path):
    source, target, other, _ = trained_and_converted
    family = "torchvision" if other == "detectron2" else "detectron2"
    conversion.convert(target, family, tmp_path / "back.safetensors")
    before, after = load_file(source), load_file(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    headers = []
    for path in (source, tmp_path / "back.safetensors"):
        with safe_open(path, "pt") as file:
            headers.append(file.metadata())
    assert headers[0] == headers[1]


@pytest.fixture
def untrained(trained, tmp_path):
    """Returns a function that writes the conftest's detector with changes to tensors or metadata."""

    def write(drop: str = "", **changes):
        tensors, metadata = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
        tensors = {name: tensor for name, tensor in tensors.items() if name != drop}
        path = tmp_path / "detector.safetensors"
        weights.write_safetensors(path, "detector", tensors, {**metadata, **changes})
        return path

    return write


def test_the_command_prints_the_engine_that_loads_the_file(untrained, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    assert convert.main([str(untrained()), "--engine", "detectron2", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: detector=detectron2_fpn\n"
    assert Detector.load(output, "cpu").config.name == "detectron2_fpn"


def test_without_an_output_the_file_lies_beside_and_the_source_is_never_overwritten(untrained, capsys):
    source = untrained()
    before = source.read_bytes()
    beside = source.with_name("detector_detectron2.safetensors")
    assert convert.main([str(source), "--engine", "detectron2"]) == 0
    assert capsys.readouterr().out == f"{beside}: detector=detectron2_fpn\n"
    assert Detector.load(beside, "cpu").config.name == "detectron2_fpn"
    itself = source.parent / ".." / source.parent.name / source.name
    assert convert.main([str(source), "--engine", "detectron2", "--output", str(itself)]) == 1
    assert capsys.readouterr().err == f"{source}: would be overwritten, give another --output\n"
    assert source.read_bytes() == before


def zero_overlap(metadata):
    return {**metadata, "rpn": {**metadata["rpn"], "iou_low": 0.0}}


def test_what_cannot_be_converted_is_refused_by_name_and_nothing_is_written(untrained, tmp_path, capsys):
    output = tmp_path / "out.safetensors"
    _, metadata = weights.read_safetensors(untrained(), "detector")
    cases = [
        ({}, "torchvision", "is a detector of torchvision_fpn already"),
        ({"drop": "rpn.head.cls_logits.bias"}, "detectron2", "missing rpn.head.cls_logits.bias"),
        ({"engine": "detectron2_fpn"}, "torchvision", "name = 'torchvision_fpn'"),
        ({"detector": zero_overlap(metadata["detector"])}, "detectron2", "Detectron2 needs it above 0"),
    ]
    for changes, engine, message in cases:
        path = untrained(**changes)
        assert convert.main([str(path), "--engine", engine, "--output", str(output)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"{path}: ")
        assert message in error
    assert convert.main(["none.safetensors", "--engine", "torchvision", "--output", str(output)]) == 1
    assert capsys.readouterr().err == "none.safetensors: no such detector file\n"
    assert not output.exists()
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    assert convert.main([str(loop), "--engine", "torchvision", "--output", str(output)]) == 1
    expected = "expected a detector file, but too many levels of symbolic links"
    assert capsys.readouterr().err == f"{loop}: {expected}\n"


def test_without_detectron2_all_but_its_engines_works_and_they_say_what_to_run(
    untrained, tmp_path, monkeypatch
):
    output = tmp_path / "out.safetensors"
    for name in [name for name in sys.modules if name.startswith("detection.engines.detectron2_")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("detectron2", "detectron2.config"):
        monkeypatch.setitem(sys.modules, name, None)
    config = importlib.import_module("detection.engines.config")
    assert config.Detectron2FpnConfig().name == "detectron2_fpn"
    conversion.convert(untrained(), "detectron2", output)
    with pytest.raises(ImportError, match=r"Detectron2 needs detectron2, .* \(.*\): make -C .* detectron2$"):
        Detector.load(output, "cpu")
