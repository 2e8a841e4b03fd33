"""The names of a detector's weights in each engine: prefixes that replace each other, one to one."""

from collections.abc import Mapping, Sequence

from torch import Tensor

Pairs = Sequence[tuple[str, str]]

_RPN = (
    ("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv."),
    ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
    ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
)
_PREDICTOR = (
    ("box_head.class_logits.", "roi_heads.box_predictor.cls_score."),
    ("box_head.box_deltas.", "roi_heads.box_predictor.bbox_pred."),
)

TORCHVISION_AND_DETECTRON2: Mapping[str, Pairs] = {
    "fpn": (
        ("backbone.", "backbone."),
        *((f"fpn.inner_blocks.{level - 2}.0.", f"fpn.fpn_lateral{level}.") for level in range(2, 6)),
        *((f"fpn.layer_blocks.{level - 2}.0.", f"fpn.fpn_output{level}.") for level in range(2, 6)),
        *_RPN,
        ("box_head.fc1.", "roi_heads.box_head.fc1."),
        ("box_head.fc2.", "roi_heads.box_head.fc2."),
        *_PREDICTOR,
    ),
    "c4": (("backbone.", "backbone."), *_RPN, *_PREDICTOR),
}
"""By kind of detector (`EngineConfig.head`)."""

ENGINE_AND_PLAIN: Pairs = (
    ("backbone.", "backbone.bottom_up.network."),
    ("fpn.", "backbone."),
    ("proposal_generator.", "proposal_generator."),
    ("roi_heads.", "roi_heads."),
)
"""Our Detectron2 engine with a pyramid, and Detectron2's own `GeneralizedRCNN` over our backbone."""


def rename(tensors: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """The same tensors with a pair's second prefix in place of its first; the first pair that fits counts.

    Raises ValueError for a name that no pair fits."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in pairs:
            if name.startswith(old):
                renamed[new + name.removeprefix(old)] = tensor
                break
        else:
            known = ", ".join(f"{old}*" for old, _ in pairs)
            raise ValueError(f"unknown weight {name!r}, expected {known}")
    return renamed


def reverse(pairs: Pairs) -> Pairs:
    """Pairs for the way back."""
    return [(new, old) for old, new in pairs]
