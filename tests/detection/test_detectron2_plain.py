"""What docs/detectron2.md promises to users of plain Detectron2."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from detection.data.images import open_split
from detection.detector import Detector
from detection.engines.conversion import convert
from detection.model.norms import FrozenStatistics

pytest.importorskip("detectron2", reason="needs Detectron2: run make detectron2")

import detection.engines.detectron2 as nasnet

# isort: split
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNN, build_model

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # Detectron2's

DOCUMENT = (REPOSITORY / "docs" / "detectron2.md").read_text()
BY_CONFIG, LAZY, CONVERTED = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def run(snippet: str, **names):
    """What a snippet of the document defines."""
    exec(compile(snippet, "docs/detectron2.md", "exec"), names)
    return names


def features(model, image):
    """The pyramid of one image of values in 0..255."""
    with torch.no_grad():
        return model.eval().backbone(((image - model.pixel_mean) / model.pixel_std)[None])


def test_the_registry_builds_a_backbone_with_the_weights_of_its_file(backbone_file, monkeypatch):
    monkeypatch.chdir(backbone_file.parent)
    model = run(BY_CONFIG)["model"]
    assert isinstance(model, GeneralizedRCNN)
    stored = load_file(backbone_file)
    ours = model.backbone.bottom_up.network.state_dict()
    assert all(torch.equal(stored[name], tensor) for name, tensor in ours.items())
    assert features(model, torch.rand(3, 64, 96) * 255)["p3"].shape == (1, 256, 8, 12)


def test_the_lazy_config_builds_the_same_detector():
    model = run(LAZY)["model"]
    assert isinstance(model, GeneralizedRCNN)
    images = [{"image": torch.rand(3, 64, 96) * 255, "height": 64, "width": 96}]
    with torch.no_grad():
        (found,) = model.eval()(images)
    assert found["instances"].image_size == (64, 96)
    shapes = {name: tuple(level.shape[1:]) for name, level in features(model, images[0]["image"]).items()}
    assert shapes == {f"p{k}": (256, -(-64 // 2**k), -(-96 // 2**k)) for k in range(2, 7)}


def test_a_network_of_timm_and_a_size_of_ones_own_come_from_the_registry_too():
    cfg = get_cfg()
    nasnet.add_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_nasnet_backbone"
    cfg.MODEL.NASNET.NAME = "timm/test_resnet"
    shape = nasnet.ShapeSpec(channels=3)
    assert nasnet.build_nasnet_backbone(cfg, shape).network.spec.timm == "test_resnet"
    cfg.MODEL.NASNET.NAME = "nasnet_a_mobile"
    cfg.MODEL.NASNET.CELLS_PER_STAGE, cfg.MODEL.NASNET.FILTERS = 1, 8
    cfg.MODEL.NASNET.BATCH_NORM_MOMENTUM = 0.2
    spec = nasnet.build_nasnet_backbone(cfg, shape).network.spec
    assert (spec.cells_per_stage, spec.filters, spec.batch_norm_momentum) == (1, 8, 0.2)


@pytest.mark.parametrize(("asked", "of_fresh", "of_a_file"), [(None, 0, 1), (True, 1, 1), (False, 0, 0)])
def test_statistics_are_those_stored_where_the_name_is_a_weights_file(
    asked, of_fresh, of_a_file, backbone_file
):
    cfg = get_cfg()
    nasnet.add_config(cfg)
    if asked is not None:
        cfg.MODEL.NASNET.FREEZE_STATISTICS = asked
    shares = []
    for name in ("timm/test_resnet", str(backbone_file)):
        cfg.MODEL.NASNET.NAME = name
        network = nasnet.build_nasnet_backbone(cfg, nasnet.ShapeSpec(channels=3)).network
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        shares.append(sum(isinstance(norm, FrozenStatistics) for norm in norms) / len(norms))
    assert shares == [of_fresh, of_a_file]


def test_a_detector_of_ours_finds_the_same_in_plain_detectron2(
    trained, backbone_file, scenes, tmp_path, monkeypatch
):
    """Scores need not be equal to the bit: ours come from folded norms."""
    source = trained[0] / "detector.safetensors"
    detector = Detector.load(source, "cpu")
    head, rpn = detector.config.box_head, detector.config.rpn
    settings = BY_CONFIG.removesuffix("model = build_model(cfg)\n")
    cfg = run(settings.replace("backbone.safetensors", str(backbone_file)))["cfg"]
    cfg.MODEL.FPN.OUT_CHANNELS = detector.config.fpn_channels
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in rpn.anchor_sizes]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = rpn.pre_nms_test, rpn.post_nms_test
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(detector.categories)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = head.score_threshold
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = head.width, head.pooled_size
    model = build_model(cfg).eval()
    convert(source, "detectron2", tmp_path / "detector_detectron2.safetensors")
    monkeypatch.chdir(tmp_path)
    run(CONVERTED, model=model, nasnet=nasnet)

    image = open_split(scenes, "val")[(0, 0)]["image"]
    size = tuple(image.shape[1:])
    ours = detector.predict(image, size)
    with torch.no_grad():
        theirs = model([{"image": image.float(), "height": size[0], "width": size[1]}])[0]["instances"]
    assert len(theirs) > 10
    torch.testing.assert_close(ours["scores"], theirs.scores, rtol=1e-3, atol=1e-4)
    # Of detections whose scores are equal but for rounding, either may come first.
    equal = torch.isclose(ours["scores"][:, None], theirs.scores, rtol=1e-3, atol=1e-4)
    equal &= ours["labels"][:, None] == theirs.pred_classes
    boxes = ours["boxes"][:, None], theirs.pred_boxes.tensor
    equal &= torch.isclose(*torch.broadcast_tensors(*boxes), rtol=1e-3, atol=1e-2).all(dim=2)
    assert equal.any(dim=1).all()
    assert equal.any(dim=0).all()


@pytest.mark.slow
@pytest.mark.parametrize("with_weights", [False, True])
def test_the_example_trains_evaluates_and_continues_with_detectron2s_own_trainer(
    with_weights, tmp_path, backbone_file
):
    output = tmp_path / "out"
    command = [sys.executable, str(REPOSITORY / "docs" / "detectron2_train.py"), "--output", str(output)]
    if with_weights:
        command += ["--weights", str(backbone_file)]
    for steps in ("20", "40"):  # the second goes on at 20
        subprocess.run([*command, "--steps", steps], check=True, capture_output=True, cwd=REPOSITORY)
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = {row["iteration"]: row["total_loss"] for row in rows if "total_loss" in row}
    assert list(losses) == [19, 39]
    assert all(math.isfinite(loss) for loss in losses.values())
    assert sum("bbox/AP" in row for row in rows) == 2  # nan where nothing is found yet
