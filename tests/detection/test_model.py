"""Parts of the detector on cases small enough for a pencil."""

import copy
import math

import pytest
import torch
from torch import nn

from backbones.base import FeatureInfo
from detection.model import boxes
from detection.model.config import BoxHeadConfig, RpnConfig, SecondStageConfig
from detection.model.heads import BoxHead, SecondStage
from detection.model.norms import freeze_statistics, use_group_norm
from detection.model.rpn import ProposalHead, Proposals, RegionProposals
from detection.model.stages import check_maps

NAN = float("nan")


def second_stage(classes=2, **changes) -> SecondStage:
    return SecondStage(SecondStageConfig(**changes), channels=4, num_classes=classes)


def test_the_only_object_of_an_image_is_what_its_proposals_shall_become():
    box = torch.tensor([[0.0, 0.0, 10.0, 12.0]])
    proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])  # IoU 10/12 and 0
    stage = second_stage(batch_size_per_image=4, positive_fraction=0.5)
    (sampled,) = stage.sample([proposals], [{"boxes": box, "labels": torch.tensor([1]), "seed": 3}])
    chosen = {
        tuple(b): label for b, label in zip(sampled.boxes.tolist(), sampled.labels.tolist(), strict=True)
    }
    assert chosen == {(0, 0, 10, 10): 1, (0, 0, 10, 12): 1, (50, 50, 60, 60): 2}
    assert sampled.targets[sampled.labels == 1].tolist() == box.tolist() * 2
    losses = stage.losses(torch.zeros(3, 3), torch.zeros(3, 2, 4), [sampled])
    # The first of the positives lies 1 px too high and is 10/12 as tall; the object itself needs nothing.
    assert float(losses["loss_box_reg"]) == pytest.approx((10 * 1 / 10 + 5 * math.log(1.2)) / 3, rel=1e-5)
    assert float(losses["loss_cls"]) == pytest.approx(math.log(3), rel=1e-5)


def test_a_proposal_that_is_not_finite_gives_no_detection_of_any_class():
    proposals = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0]])
    deltas = torch.zeros(3, 2, 4)
    deltas[2, 0, 1] = NAN
    logits = torch.tensor([[0.0, 5.0, 0.0], [NAN, 5.0, 0.0], [0.0, 5.0, 0.0]])
    (found,) = second_stage(score_threshold=0.5).detect(logits, deltas, [proposals], [(20, 60)])
    assert found["boxes"].tolist() == [[0, 0, 10, 10]]
    assert found["labels"].tolist() == [1]


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 0), (0.49, 1)])
def test_a_score_at_the_threshold_is_not_above_it(threshold, count):
    stage = second_stage(classes=1, score_threshold=threshold)
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    (found,) = stage.detect(torch.zeros(1, 2), torch.zeros(1, 1, 4), [box], [(20, 20)])
    assert found["scores"].tolist() == [0.5] * count


def test_first_weights_are_detectron2s():
    """`c2_xavier_fill` for the layers of the box head, normal with a deviation of its own for the others."""
    torch.manual_seed(0)
    head = BoxHead(BoxHeadConfig(width=64, pooled_size=3), channels=16, strides=(4, 8), num_classes=20)
    for layer in (head.fc1, head.fc2):
        bound = math.sqrt(3 / layer.in_features)
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
    proposals = ProposalHead(channels=16, anchors=3, hidden=64)
    convolution = proposals.conv[0][0]
    for layer, deviation in ((head.class_logits, 0.01), (head.box_deltas, 0.001), (convolution, 0.01)):
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
    for layer in (head.fc1, head.fc2, head.class_logits, head.box_deltas, convolution):
        assert not layer.bias.any()


def test_an_anchor_that_is_not_finite_is_no_proposal_in_evaluation_and_an_error_in_training():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = NAN
    network = RegionProposals(RpnConfig(anchor_sizes=[10]), 4, [16], [[10]], 4)
    said = Proposals(anchors, torch.tensor([[1.0, NAN, 2.0]]), deltas, [3])
    (selected,) = network.eval().select(said, [(20, 60)])
    assert selected.tolist() == anchors[:1].tolist()
    with pytest.raises(FloatingPointError, match="the proposal network's boxes or scores are not finite"):
        network.train().select(said, [(20, 60)])


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (12, 3), (20, 5), (44, 11), (64, 16), (176, 22), (256, 32)],
)
def test_groups_are_the_most_up_to_32_with_four_channels_each(channels, groups):
    network = nn.Sequential(nn.BatchNorm2d(channels, eps=0.003))
    use_group_norm(network)
    (norm,) = network
    assert (type(norm), norm.num_groups, norm.num_channels, norm.eps) == (
        nn.GroupNorm,
        groups,
        channels,
        0.003,
    )


def test_statistics_are_frozen_from_the_moment_on():
    network = nn.Sequential(nn.BatchNorm2d(3)).train()
    expected = copy.deepcopy(network).eval()
    x = torch.rand(2, 3, 4, 4) + 5
    torch.testing.assert_close(freeze_statistics(network)(x), expected(x))
    assert torch.equal(network[0].running_mean, torch.zeros(3))


class Mapped(nn.Module):
    """A network with one map of stride 4, of the shape that it says it has, unless it refuses."""

    feature_info = (FeatureInfo("c2", 8, 4),)

    def __init__(self, error: Exception | None = None):
        super().__init__()
        self.error = error
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Dropout())

    def features(self, x):
        if self.error is not None:
            raise self.error
        return {"c2": self.layers(x)}


def test_a_look_at_the_maps_leaves_statistics_and_modes_alone():
    network = Mapped().train()
    network.layers[2].eval()
    before = copy.deepcopy(network.state_dict())
    check_maps(network, "mapped")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [layer.training for layer in network.layers] == [True, True, False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("expected 224\nat layer 3"), "expected 224"), (AssertionError(), "AssertionError")],
)
def test_a_network_that_refuses_the_size_is_quoted(error, reason):
    with pytest.raises(
        ValueError, match=f"^mapped takes no images of 128x192 px, but .* any size: {reason}$"
    ):
        check_maps(Mapped(error), "mapped")


def test_of_equal_scores_the_first_come_first():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        scores = (2 * torch.randn(500, generator=generator)).round()
        if seed % 2:
            scores[seed] = NAN  # counts as the highest, lest it be overlooked in training
        expected = sorted(range(500), key=lambda i: (not math.isnan(scores[i]), -float(scores[i]), i))
        for count in (1, 60, 400, 600):
            assert boxes.best(scores, count).tolist() == expected[:count]


def test_nms_within_groups_leaves_equal_scores_in_their_order():
    """Three of each group lie at one place, the first of which stays; the groups' boxes touch none other."""
    places = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]]).repeat(6, 1)
    groups = torch.tensor([2, 2, 0, 0, 2, 2, 0, 0, 7, 7, 2, 2])
    scores = torch.tensor([0.5] * 12)
    assert boxes.nms_by_group(places, scores, groups, 0.5).tolist() == [0, 1, 2, 3, 8, 9]
    scores[10] = 0.75
    assert boxes.nms_by_group(places, scores, groups, 0.5).tolist() == [10, 1, 2, 3, 8, 9]
    assert boxes.nms_by_group(places[:0], scores[:0], groups[:0], 0.5).tolist() == []
