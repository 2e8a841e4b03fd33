"""Faster R-CNN of Detectron2's parts as an engine of ours: what the pyramid and the C4 detector share.

The parts are built with explicit arguments, not through Detectron2's global configuration. Two of its hooks
are overridden: the anchors and the proposals for the losses are drawn by `detection.model.boxes.sample`, so
that a target's seed decides them as it does in the other engine. What is computed from boxes and scores is
computed in float32.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.engines.base import Engine
from detection.engines.detectron2_parts import (
    RPN,
    Box2BoxTransform,
    Boxes,
    DefaultAnchorGenerator,
    EventStorage,
    FastRCNNOutputLayers,
    ImageList,
    Instances,
    Matcher,
    ROIHeads,
    ShapeSpec,
    StandardRPNHead,
)
from detection.formats import Prediction, Target
from detection.model import boxes as box_ops
from detection.model.config import RpnConfig, SecondStageConfig
from detection.model.heads import SecondStage
from detection.model.rpn import RegionProposals


class _RPNHead(StandardRPNHead):
    """Speaks float32, in which scores seldom tie, whatever the precision of the maps."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(features)
        return [level.float() for level in logits], [level.float() for level in deltas]


class _OutputLayers(FastRCNNOutputLayers):
    """The same for the second stage."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class SeededRPN(RPN):
    """seeds: of the images of the next batch, one is taken for each."""

    seeds: Iterator[int | None]

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Leaves the sampled anchors their label, 1 or 0, and sets the others to -1, in place."""
        generator = box_ops.generator(next(self.seeds), 0)
        positive, negative = box_ops.sample(
            label == 1, label == 0, self.batch_size_per_image, self.positive_fraction, generator
        )
        label.fill_(box_ops.IGNORED)
        label[positive] = 1
        label[negative] = 0
        return label


class SeededROIHeads(ROIHeads):
    """Goes before one of Detectron2's heads among the bases; seeds: as in `SeededRPN`."""

    seeds: Iterator[int | None]

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Indices of the sampled proposals, and their classes, K for the background."""
        generator = box_ops.generator(next(self.seeds), 1)
        positive, negative = box_ops.sample(
            matched_labels == 1,
            matched_labels == 0,
            self.batch_size_per_image,
            self.positive_fraction,
            generator,
        )
        background = torch.full_like(negative, self.num_classes)
        return torch.cat([positive, negative]), torch.cat([gt_classes[matched_idxs[positive]], background])


def proposal_network(
    config: RpnConfig,
    channels: int,
    strides: Mapping[str, int],
    sizes: Sequence[Sequence[float]],
    hidden: int = -1,
) -> SeededRPN:
    """The first stage. channels: of every map. strides: by the names of the maps.

    sizes: of the anchors on each map. hidden: width of the 3x3 convolution, -1: as much as it reads."""
    return SeededRPN(
        in_features=list(strides),
        head=_RPNHead(
            in_channels=channels,
            num_anchors=len(sizes[0]) * len(config.aspect_ratios),
            conv_dims=[hidden],
        ),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[list(level) for level in sizes],
            aspect_ratios=[list(config.aspect_ratios)],
            strides=list(strides.values()),
            offset=0.0,
        ),
        anchor_matcher=Matcher(
            [config.iou_low, config.iou_high], [0, box_ops.IGNORED, 1], allow_low_quality_matches=True
        ),
        box2box_transform=Box2BoxTransform(RegionProposals.WEIGHTS),
        batch_size_per_image=config.batch_size_per_image,
        positive_fraction=config.positive_fraction,
        pre_nms_topk=(config.pre_nms_train, config.pre_nms_test),
        post_nms_topk=(config.post_nms_train, config.post_nms_test),
        nms_thresh=config.nms_threshold,
        loss_weight={"loss_rpn_cls": 1.0, "loss_rpn_loc": config.box_loss_weight},
    )


def box_predictor(config: SecondStageConfig, channels: int, num_classes: int) -> FastRCNNOutputLayers:
    """Scores and boxes of the second stage. channels: of what it is given for each region."""
    return _OutputLayers(
        ShapeSpec(channels=channels),
        box2box_transform=Box2BoxTransform(SecondStage.WEIGHTS),
        num_classes=num_classes,
        test_score_thresh=config.score_threshold,
        test_nms_thresh=config.nms_threshold,
        test_topk_per_image=config.detections_per_image,
        loss_weight={"loss_cls": 1.0, "loss_box_reg": config.box_loss_weight},
    )


class Detectron2Engine(Engine):
    """What Detectron2's `GeneralizedRCNN` does, between our formats and Detectron2's."""

    proposal_generator: SeededRPN
    roi_heads: SeededROIHeads

    @abstractmethod
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The maps that the two stages read, by name. images: `[N, 3, H, W]`, normalised and padded."""

    def compute_losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        batch, objects = self._batch(images), _instances(images, targets)
        seeds = [target.get("seed") for target in targets]
        self.proposal_generator.seeds, self.roi_heads.seeds = iter(seeds), iter(seeds)
        maps = self.maps(batch.tensor)
        with EventStorage():  # for the counts that Detectron2 logs whether or not somebody reads them
            proposals, losses = self.proposal_generator(batch, maps, objects)
            _, of_boxes = self.roi_heads(batch, _float(maps), proposals, objects)
        return losses | of_boxes

    def detect(self, images: list[Tensor]) -> list[Prediction]:
        batch = self._batch(images)
        maps = self.maps(batch.tensor)
        proposals, _ = self.proposal_generator(batch, maps)
        found, _ = self.roi_heads(batch, _float(maps), proposals)
        predictions: list[Prediction] = []
        for instances in found:
            kept = instances[instances.pred_boxes.nonempty()]
            predictions.append(
                {"boxes": kept.pred_boxes.tensor, "scores": kept.scores, "labels": kept.pred_classes}
            )
        return predictions

    def _batch(self, images: list[Tensor]) -> ImageList:
        batch = ImageList.from_tensors([(image - self.mean) / self.std for image in images], self.divisor)
        (height, width), found = self.batch_sides(batch.image_sizes), batch.tensor.shape[-2:]
        padded = F.pad(batch.tensor, (0, width - found[1], 0, height - found[0]))
        return ImageList(padded, batch.image_sizes)


def _float(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In half precision Detectron2's RoIAlign would round the boxes to several pixels with the maps."""
    return {name: features.float() for name, features in maps.items()}


def _instances(images: list[Tensor], targets: list[Target]) -> list[Instances]:
    """Targets in Detectron2's form."""
    return [
        Instances(tuple(image.shape[1:]), gt_boxes=Boxes(target["boxes"]), gt_classes=target["labels"])
        for image, target in zip(images, targets, strict=True)
    ]
