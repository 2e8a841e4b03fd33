"""A detector that looks at an image in tenths of a second, with weights that make its detections differ."""

import torch

from backbones.base import Classifier
from backbones.build import build
from backbones.factory import create
from backbones.genotype import Block, Cell, Genotype
from backbones.spec import NetworkSpec, Preprocessing
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import ShortestEdge
from detection.detector import Detector
from detection.engines.config import TorchvisionC4Config, TorchvisionFpnConfig
from detection.model.config import BoxHeadConfig, C4HeadConfig, RpnConfig

# Few operators, so that an export is a matter of seconds.
BRIEF = Genotype(
    normal=Cell((Block(0, 1, "conv_1x1", "identity"),), (2,)),
    reduction=Cell((Block(0, 0, "avg_pool_3x3", "identity"),), (2,)),
)
SMALL = {"stem_filters": 4, "image_size": 64}


def _brief() -> Classifier:
    return build(NetworkSpec(BRIEF, 1, 8, stem="imagenet", **SMALL), 1)


def small_detector(
    categories: list[CategoryEntry], *, side: int = 96, brief: bool = False, **box_head
) -> Detector:
    """Untrained; box_head: keys of its configuration. brief: of few operators. Seeds torch."""
    torch.manual_seed(0)
    backbone = _brief() if brief else create("nasnet_a_mobile", cells_per_stage=1, filters=8, **SMALL)
    backbone.remove_classifier()
    config = TorchvisionFpnConfig(
        fpn_channels=8,
        rpn=RpnConfig(anchor_sizes=[16, 32, 64, 96, 128], pre_nms_test=50, post_nms_test=30),
        box_head=BoxHeadConfig(**{"width": 16, "pooled_size": 3, "score_threshold": 0.05} | box_head),
    )
    backbone.preprocessing = Preprocessing(64, (0.5,) * 3, (0.25,) * 3)
    engine = config.build(backbone, len(categories))
    with torch.no_grad():  # as fresh, some of its numbers would be huge and others nearly equal
        for layer, gain in (
            (engine.rpn.head.cls_logits, 10),
            (engine.rpn.head.bbox_pred, 0.5),
            (engine.box_head.class_logits, 0.3),
            (engine.box_head.box_deltas, 1),
        ):
            layer.weight *= gain
    return Detector(engine, config, categories, ShortestEdge((side,), 2 * side))


def small_c4_detector(categories: list[CategoryEntry]) -> Detector:
    """The same on one map. Seeds torch."""
    torch.manual_seed(0)
    backbone = _brief()
    backbone.remove_classifier()
    rpn = RpnConfig(anchor_sizes=[16, 32, 64], pre_nms_test=50, post_nms_test=30)
    config = TorchvisionC4Config(rpn_channels=8, rpn=rpn, box_head=C4HeadConfig(crop_size=5), roi_chunk=7)
    backbone.preprocessing = Preprocessing(64, (0.5,) * 3, (0.25,) * 3)
    engine = config.build(backbone, len(categories))
    with torch.no_grad():  # as fresh, all scores would be nearly equal
        engine.box_head.class_logits.weight *= 50
        engine.rpn.head.cls_logits.weight *= 50
    return Detector(engine, config, categories, ShortestEdge((96,), 192))
