"""What we use of Detectron2, imported in this file alone: without it the import says how to get it."""

import logging
import warnings

from celltransfer import not_installed

with warnings.catch_warnings():
    # torch.jit.script and pkg_resources, both deprecated, both used while Detectron2 is imported
    warnings.simplefilter("ignore")
    try:
        from detectron2.config import CfgNode
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import BACKBONE_REGISTRY, Backbone
        from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
        from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
        from detectron2.modeling.box_regression import Box2BoxTransform
        from detectron2.modeling.matcher import Matcher
        from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
        from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
        from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
        from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
        from detectron2.modeling.roi_heads.roi_heads import Res5ROIHeads, ROIHeads, StandardROIHeads
        from detectron2.structures import Boxes, ImageList, Instances
        from detectron2.utils.events import EventStorage
    except ImportError as error:
        raise not_installed("an engine of Detectron2", "detectron2", "detectron2", error) from error

# PyTorch warns of its anchors, which give no `indexing`, and of its pooler, which asks whether it is traced.
warnings.filterwarnings("ignore", message="torch.meshgrid")
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: "is_fx_tracing" not in record.getMessage()
)

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "RPN",
    "Backbone",
    "Box2BoxTransform",
    "Boxes",
    "CfgNode",
    "DefaultAnchorGenerator",
    "EventStorage",
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "ImageList",
    "Instances",
    "LastLevelMaxPool",
    "Matcher",
    "ROIHeads",
    "ROIPooler",
    "Res5ROIHeads",
    "ShapeSpec",
    "StandardROIHeads",
    "StandardRPNHead",
    "convert_boxes_to_pooler_format",
]
