"""The torchvision engine computes what Detectron2 computes; expected values come from Detectron2 itself."""

import pytest
import torch

from backbones.factory import create
from detection.engines.config import TorchvisionFpnConfig
from detection.engines.renaming import TORCHVISION_AND_DETECTRON2, rename, reverse
from detection.model import boxes as box_ops
from detection.model.config import BoxHeadConfig, RpnConfig
from detection.model.heads import RoIAlignPyramid
from detection.model.norms import freeze_statistics

pytest.importorskip("detectron2", reason="needs Detectron2: run make detectron2")

import detection.engines.detectron2 as nasnet

# isort: split
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")  # Detectron2's

NUM_CLASSES = 3
SIZES = [8, 16, 32, 64, 128]


def random_boxes(count: int, extent: float = 160.0) -> torch.Tensor:
    corners = torch.rand(count, 2) * extent
    return torch.cat([corners, corners + 1 + torch.rand(count, 2) * extent], dim=1)


def detectron2_config():
    cfg = get_cfg()
    nasnet.add_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_nasnet_fpn_backbone"
    cfg.MODEL.NASNET.FREEZE_STATISTICS = True  # of fresh weights, as those of ours below
    cfg.MODEL.NASNET.CELLS_PER_STAGE = 1
    cfg.MODEL.NASNET.FILTERS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in SIZES]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.0
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 200, 100
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 100, 50
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 64
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.2
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 2, 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [0.5] * 3  # of 0..1, so that both engines round alike
    return cfg


@pytest.fixture(scope="module")
def pair():
    """The same detector in both: Detectron2's from its own registry, ours with its weights."""
    torch.manual_seed(0)
    theirs = build_model(detectron2_config())
    # The maps of an untrained network are large: at the initial size every score would be 0 or 1.
    torch.nn.init.normal_(theirs.roi_heads.box_predictor.cls_score.weight, std=3e-4)
    config = TorchvisionFpnConfig(
        fpn_channels=16,
        rpn=RpnConfig(
            anchor_sizes=SIZES, pre_nms_train=200, pre_nms_test=100, post_nms_train=100, post_nms_test=50
        ),
        box_head=BoxHeadConfig(width=32, batch_size_per_image=64, score_threshold=0.2),
    )
    network = create("nasnet_a_mobile", cells_per_stage=1, filters=8)
    network.remove_classifier()
    ours = config.build(freeze_statistics(network), NUM_CLASSES)
    names = reverse(TORCHVISION_AND_DETECTRON2["fpn"])
    ours.load_state_dict(rename(nasnet.engine_state(theirs.state_dict()), names))
    return theirs, ours


@pytest.fixture(scope="module")
def batch():
    """Two images of different size, the second without objects."""
    torch.manual_seed(1)
    images = [torch.rand(3, 100, 150), torch.rand(3, 128, 90)]
    boxes = torch.tensor([[10.0, 12, 60, 50], [70, 20, 140, 95], [0, 0, 20, 14]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([2, 0, 1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


def as_detectron2_input(images, targets):
    inputs = []
    for image, target in zip(images, targets, strict=True):
        instances = Instances(tuple(image.shape[1:]))
        instances.gt_boxes = Boxes(target["boxes"].clone())
        instances.gt_classes = target["labels"].clone()
        inputs.append({"image": image, "instances": instances})
    return inputs


def test_plain_detectron2_builds_our_backbone_and_trains_it(batch):
    torch.manual_seed(0)
    model = build_model(detectron2_config()).train()
    with EventStorage():
        losses = model(as_detectron2_input(*batch))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    gradients = [p.grad for p in model.backbone.bottom_up.network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_losses_equal_detectron2(pair, batch):
    theirs, ours = (model.train() for model in pair)
    torch.manual_seed(3)
    with EventStorage():
        expected = theirs(as_detectron2_input(*batch))
    torch.manual_seed(3)
    losses = ours.losses(*batch)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_detections_equal_detectron2(pair, batch):
    theirs, ours = (model.eval() for model in pair)
    with torch.no_grad():
        expected = theirs(as_detectron2_input(*batch))
        predictions = ours.predict(batch[0])
    assert sum(len(p["boxes"]) for p in predictions) > 10
    for prediction, output in zip(predictions, expected, strict=True):
        instances = output["instances"]
        torch.testing.assert_close(prediction["boxes"], instances.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(prediction["scores"], instances.scores, rtol=1e-4, atol=1e-5)
        assert prediction["labels"].tolist() == instances.pred_classes.tolist()


def test_pyramid_equals_detectron2(pair):
    theirs, ours = (model.eval() for model in pair)
    image = torch.rand(3, 96, 128)
    with torch.no_grad():
        maps, _ = ours.maps([image])
        expected = theirs.backbone((image[None] - 0.5) / 0.5)
    assert len(maps) == len(expected) == 5
    for ours_map, theirs_map in zip(maps, expected.values(), strict=True):
        torch.testing.assert_close(ours_map, theirs_map, rtol=1e-5, atol=1e-5)


def test_anchors_equal_detectron2_where_image_over_map_is_no_stride():
    strides, shapes = [4, 8, 16, 32, 64], [(150, 151), (75, 76), (38, 38), (19, 19), (10, 10)]
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    expected = DefaultAnchorGenerator(
        sizes=[[size] for size in SIZES], aspect_ratios=[[0.5, 1.0, 2.0]], strides=strides, offset=0.0
    )(maps)
    for size, stride, shape, anchors in zip(SIZES, strides, shapes, expected, strict=True):
        cells = box_ops.cell_anchors([size], [0.5, 1.0, 2.0])
        assert torch.equal(box_ops.grid_anchors(cells, *shape, stride), anchors.tensor)


def test_box_coding_equals_detectron2():
    torch.manual_seed(0)
    boxes, targets, deltas = random_boxes(50), random_boxes(50), torch.randn(50, 4) * 3
    weights = (10.0, 10.0, 5.0, 5.0)
    transform = Box2BoxTransform(weights)
    torch.testing.assert_close(box_ops.encode(boxes, targets, weights), transform.get_deltas(boxes, targets))
    torch.testing.assert_close(box_ops.decode(boxes, deltas, weights), transform.apply_deltas(deltas, boxes))


@pytest.mark.parametrize("keep_best", [False, True])
def test_matching_equals_detectron2(keep_best):
    torch.manual_seed(0)
    overlaps = (torch.rand(6, 300) * 20).round() / 20  # many ties, also at the thresholds
    overlaps[3] = 0  # an object that no candidate touches
    reference = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=keep_best)
    for matrix in (overlaps, overlaps[:0], overlaps[:1] * 0.3):
        indices, kinds = box_ops.match(matrix, 0.3, 0.7, keep_best=keep_best)
        expected_indices, expected_kinds = reference(matrix)
        assert torch.equal(indices, expected_indices)
        assert torch.equal(kinds, expected_kinds)


@pytest.mark.parametrize(("positives", "negatives"), [(5, 500), (300, 500), (300, 10), (0, 3)])
def test_sampling_equals_detectron2_under_one_seed(positives, negatives):
    labels = torch.tensor([1] * positives + [0] * negatives + [-1] * 20)
    torch.manual_seed(7)
    expected = subsample_labels(labels, 256, 0.5, 0)
    torch.manual_seed(7)
    chosen = box_ops.sample(labels == 1, labels == 0, 256, 0.5)
    assert torch.equal(chosen[0], expected[0])
    assert torch.equal(chosen[1], expected[1])


def test_levels_equal_detectron2_at_the_borders_between_levels():
    sides = torch.tensor([1.0, 111.99, 112, 112.0001, 223.9999, 224, 448, 896, 2000])
    boxes = torch.stack([torch.zeros(9), torch.zeros(9), sides, sides], dim=1)
    expected = assign_boxes_to_levels([Boxes(boxes)], 2, 5, 224, 4)
    assert torch.equal(box_ops.pyramid_levels(boxes, 2, 5), expected)


def test_pooling_equals_detectron2():
    torch.manual_seed(0)
    maps = [torch.rand(2, 3, 256 // stride, 256 // stride) for stride in (4, 8, 16, 32)]
    boxes = [random_boxes(20, 300.0), random_boxes(7)]
    pooler = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0, pooler_type="ROIAlignV2")
    expected = pooler(maps, [Boxes(b) for b in boxes])
    crops, rows = RoIAlignPyramid(7, (4, 8, 16, 32))(maps, boxes)
    torch.testing.assert_close(crops[rows], expected)
