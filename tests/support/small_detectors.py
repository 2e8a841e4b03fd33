"""A detector that looks at an image in tenths of a second, with weights that make its detections differ."""

import torch

from backbones.factory import create
from backbones.spec import Preprocessing
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import ShortestEdge
from detection.detector import Detector
from detection.engines.config import TorchvisionFpnConfig
from detection.model.config import BoxHeadConfig, RpnConfig


def small_detector(categories: list[CategoryEntry], *, side: int = 96, **box_head) -> Detector:
    """Untrained; box_head: keys of its configuration. Seeds torch."""
    torch.manual_seed(0)
    backbone = create("nasnet_a_mobile", cells_per_stage=1, filters=8, stem_filters=4, image_size=64)
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
