"""The paper's detector: its grid, its anchors, its losses' weights, its regions in chunks."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones.factory import create
from backbones.weights import read_safetensors
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import Fixed
from detection.detector import Detector
from detection.engines.config import TorchvisionC4Config
from detection.model.config import C4HeadConfig, RpnConfig
from detection.model.norms import freeze_statistics
from detection.model.roi_align import roi_align

NUM_CLASSES = 3


def backbone(name="nasnet_a_mobile", **changes):
    """With statistics of some images, without which the maps of an untrained network are huge."""
    size = {"cells_per_stage": 2, "filters": 8, "stem_filters": 4, "image_size": 64}
    network = create(name, **({} if name.startswith("timm/") else size | changes))
    network.remove_classifier()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train().features(torch.rand(2, 3, 64, 96))
    return network


def config(**changes) -> TorchvisionC4Config:
    values = {
        "rpn_channels": 8,
        "rpn": RpnConfig(anchor_sizes=[16, 48], pre_nms_test=60, post_nms_test=20, box_loss_weight=2.0),
        "box_head": C4HeadConfig(batch_size_per_image=8, crop_size=5),
    }
    return TorchvisionC4Config(**values | changes)


def build(network=None, **changes):
    return config(**changes).build(network or backbone(), NUM_CLASSES)


@pytest.fixture
def batch():
    images = [torch.rand(3, 70, 101), torch.rand(3, 96, 64)]
    targets = [
        {
            "boxes": torch.tensor([[5.0, 6, 40, 60], [50, 3, 101, 70]]),
            "labels": torch.tensor([2, 0]),
            "seed": 5,
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "seed": 6},
    ]
    return images, targets


@pytest.mark.parametrize(("side", "anchors"), [(1200, 67_500), (800, 30_000), (600, 38 * 38 * 12)])
def test_images_of_the_paper_have_its_anchors(side, anchors):
    """12 at each place of 75x75, 50x50 and 38x38: docs/nasnet.md, section 7."""
    defaults = TorchvisionC4Config()
    network = backbone().to("meta")
    with torch.device("meta"):
        engine = defaults.build(network, NUM_CLASSES)
        (feature_map,), sizes = engine.maps([torch.empty(3, side, side)])
        proposals = engine.rpn.head([feature_map])
    assert sizes == [(side, side)]
    assert proposals[0][0].numel() == anchors
    assert engine.rpn.head.conv[0][0].weight.shape == (512, engine.backbone.split().channels, 3, 3)


def test_anchors_of_every_size_lie_at_every_place():
    engine = build(rpn=RpnConfig(anchor_sizes=[64, 128, 256, 512]))
    with torch.no_grad():
        anchors = engine.rpn(engine.maps([torch.rand(3, 64, 96)])[0]).anchors.view(4, 6, 12, 4)
    sides = anchors[..., 2:] - anchors[..., :2]
    expected = torch.tensor([64.0, 128, 256, 512]).repeat_interleave(3)
    torch.testing.assert_close(sides.prod(dim=-1).sqrt(), expected.expand(4, 6, 12))
    ratios = torch.tensor([0.5, 1, 2]).repeat(4)
    torch.testing.assert_close(sides[..., 1] / sides[..., 0], ratios.expand(4, 6, 12))
    centres = (anchors[..., 2:] + anchors[..., :2]) / 2
    # 16 times the place, offset 0
    torch.testing.assert_close(centres[2, 5], torch.tensor([80.0, 32.0]).expand(12, 2))


def test_box_losses_weigh_double(batch):
    engine = build(freeze_statistics(backbone()))
    single = build(
        freeze_statistics(backbone()),
        rpn=RpnConfig(anchor_sizes=[16, 48]),
        box_head=C4HeadConfig(batch_size_per_image=8, crop_size=5, box_loss_weight=1.0),
    )
    single.load_state_dict(engine.state_dict())
    twice, once = engine.train().losses(*batch), single.train().losses(*batch)
    for name, factor in (("loss_rpn_cls", 1), ("loss_cls", 1), ("loss_rpn_loc", 2), ("loss_box_reg", 2)):
        torch.testing.assert_close(twice[name], factor * once[name])


def test_a_crop_on_the_places_of_a_map_copies_them():
    """Half-pixel alignment: a box of 5x5 places along their borders takes them as they are."""
    feature_map = torch.rand(2, 4, 9, 9)
    corner = 16 * 2.0
    rois = torch.tensor([[1.0, corner, corner + 16, corner + 80, corner + 96]])
    torch.testing.assert_close(roi_align(feature_map, rois, 5, 16), feature_map[1:, :, 3:8, 2:7])


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "timm/test_resnet"])
def test_chunks_do_not_change_what_is_found(name, batch):
    images, _ = batch
    engine = build(backbone(name)).eval()
    parts = []
    for size in (1, 7, 1000):
        other = build(backbone(name), roi_chunk=size).eval()
        other.load_state_dict(engine.state_dict())
        with torch.no_grad():
            parts.append(other.predict(images))
    for found in parts[:2]:
        for one, whole in zip(found, parts[2], strict=True):
            assert len(whole["boxes"]) > 0
            for key in ("boxes", "scores", "labels"):
                torch.testing.assert_close(one[key], whole[key], rtol=1e-4, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        self.bytes = max(
            [self.bytes, *(t.nbytes for t in tree_leaves(output) if isinstance(t, torch.Tensor))]
        )
        return output


@pytest.mark.parametrize("fused", [False, True])
def test_the_chunk_bounds_the_memory_of_regions(fused):
    plain = build(roi_chunk=4, box_head=C4HeadConfig(crop_size=9)).eval()
    engine = plain.for_inference() if fused else plain
    boxes = torch.tensor([[0.0, 0, 60, 50], [8, 10, 90, 60], [20, 30, 50, 64]])
    with torch.no_grad():
        maps, _ = engine.maps([torch.rand(3, 64, 96)])
        largest = {}
        for count in (2, 8, 32):
            with LargestTensor() as mode:
                engine.score(maps, [boxes.repeat(count, 1)[:count]])
            largest[count] = mode.bytes
    channels = engine.backbone.split().channels
    assert largest[8] == largest[32] == 2 * largest[2]
    assert (
        largest[32] <= 3 * 4 * channels * 9 * 9 * 4
    )  # the crops of one chunk, or what the first cell makes of them


def test_the_second_stage_is_the_tail_on_crops(batch):
    """Class logits of one region worked out by hand from the parts."""
    images, _ = batch
    engine = build().eval()
    box = torch.tensor([[4.0, 8, 60, 52]])
    with torch.no_grad():
        maps, _ = engine.maps(images[:1])
        logits, deltas = engine.score(maps, [box])
        split = engine.backbone.split()
        crops = roi_align(maps[0], torch.cat([torch.zeros(1, 1), box], dim=1), 5, 16)
        mean = split.tail(crops).flatten(2).mean(2)
        expected = torch.nn.functional.linear(
            mean, engine.box_head.class_logits.weight, engine.box_head.class_logits.bias
        )
    torch.testing.assert_close(logits, expected)
    assert deltas.shape == (1, NUM_CLASSES, 4)


def test_a_stored_detector_finds_the_same_and_is_stored_again_as_it_was(tmp_path):
    network = backbone()
    engine = config().build(network, NUM_CLASSES)
    categories = [CategoryEntry(number, f"kind {number}") for number in range(1, NUM_CLASSES + 1)]
    size = Fixed(96)
    detector = Detector(engine, config(), categories, size)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    detector.save(first, {})
    loaded = Detector.load(first, "cpu")
    image = torch.rand(3, 80, 120)
    (found,), (expected,) = loaded([image]), detector([image])
    assert len(expected["boxes"]) > 0
    for key in ("boxes", "scores"):
        torch.testing.assert_close(found[key], expected[key])
    loaded.save(second, {})
    before, after = (read_safetensors(path, "detector")[0] for path in (first, second))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_proposals_are_no_detections(batch):
    images, _ = batch
    engine = build().eval()
    with torch.no_grad():
        maps, _ = engine.maps(images)
        logits, deltas = engine.score(maps, [torch.zeros(0, 4)] * 2)
    assert logits.shape == (0, NUM_CLASSES + 1)
    assert deltas.shape == (0, NUM_CLASSES, 4)


def test_an_equal_seed_in_the_targets_gives_equal_losses(batch):
    engine = build(freeze_statistics(backbone())).train()
    one = engine.losses(*batch)
    torch.manual_seed(99)
    assert engine.losses(*batch) == one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roi_chunk": 0}, r"roi_chunk = 0, must be at least 1"),
        ({"rpn_channels": 0}, r"rpn_channels = 0, must be at least 1"),
        ({"name": "torchvision_fpn"}, r"name = 'torchvision_fpn', but these are the keys of"),
    ],
)
def test_what_no_detector_can_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_second_stage_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"crop_size = 0, must be at least 1"):
        C4HeadConfig(crop_size=0)
    with pytest.raises(ValueError, match=r"box_loss_weight = 0, must be above 0"):
        C4HeadConfig(box_loss_weight=0)


def test_a_backbone_that_cannot_be_split_is_refused():
    cifar = create("nasnet_a_cifar", cells_per_stage=1, filters=4, stem_filters=4)
    with pytest.raises(ValueError, match="the cifar stem is split at stride 2, not 16"):
        build(cifar)
