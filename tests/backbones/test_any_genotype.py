"""Whatever the search can draw builds, runs forward and backward, and trains all that it has.

Each channel has at least VALUES values in a batch. Of two, batch norm makes +1 and -1, whatever they were, so
that by its derivative no gradient reaches what they were computed from.
"""

import math

import pytest
import torch
from genotypes import small_specs
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import NASNet, NetworkSpec, profile
from backbones.cell import DropPath
from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Block, Cell, Genotype
from backbones.published import NASNET_A
from benchmarks.calibration import calibrate

CLASSES = 3
VALUES = 8
LAYOUTS = (torch.contiguous_format, torch.channels_last)
layouts, memories = st.sampled_from(LAYOUTS), st.sampled_from(["keep", "lean", "checkpoint"])
seeds = st.integers(0, 2**32 - 1)
"""Of the weights, the images and the dropped paths: an example is all that a run depends on."""


def images(spec, map_size=None):
    """As many as give each channel of the smallest map VALUES values, at least 1. map_size: its pixels."""
    if map_size is None:
        map_size = min(part.shape[1] * part.shape[2] for part in profile(spec).parts[:-1])
    return torch.randn(math.ceil(VALUES / map_size), 3, spec.image_size, spec.image_size)


def untrained(network, loss):
    """Parameters that no gradient reaches, or one that is not finite. loss: computes it, in training.

    A gradient may be 0: of what sees padding alone, and of all that comes before dropped paths. Without
    dropped paths not most of them.
    """
    loss().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    found = [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()]
    for module in network.modules():
        if isinstance(module, DropPath):
            module.keep = 1.0
    network.zero_grad()
    loss().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    zero = [name for name, grad in gradients.items() if grad is not None and not grad.any()]
    assert len(zero) < len(gradients) / 2, zero
    return found


def assert_trains_by_its_logits(spec, seed, layout, memory):
    torch.manual_seed(seed)
    assert_trains(spec, images(spec), layout, memory)


def assert_trains(spec, batch, layout, memory):
    """Trains one step and compares every shape with the profile and with arithmetic."""
    size = spec.image_size
    network = calibrate(NASNet(spec, CLASSES, drop_path_keep=0.9), size=size).to(memory_format=layout)
    network.set_activation_memory(memory)
    batch = batch.to(memory_format=layout)
    logits = network(batch)
    assert logits.shape == (len(batch), CLASSES)
    assert untrained(network, lambda: network(batch).square().sum()) == []

    network.eval()
    with torch.no_grad():
        outputs = {name: tuple(out.shape[1:]) for name, out in network.endpoints(batch).items()}
        features = {name: tuple(out.shape[1:]) for name, out in network.features(batch).items()}
    assert outputs == {part.name: part.shape for part in profile(spec).parts[:-1]}
    first, stem_stride = ((size - 1) // 2, 2) if spec.stem == "imagenet" else (size, 1)
    sides = {info.name: -(-first // (info.stride // stem_stride)) for info in network.feature_info}
    assert features == {
        info.name: (info.channels, sides[info.name], sides[info.name]) for info in network.feature_info
    }


def assert_trains_its_auxiliary_head(spec, seed, memory):
    torch.manual_seed(seed)
    network = NASNet(spec, CLASSES, drop_path_keep=0.9, auxiliary=True)
    calibrate(network, size=spec.image_size).set_activation_memory(memory)
    batch = images(spec, map_size=1)  # the head's second convolution covers its map

    def loss():
        logits, auxiliary = network.forward_with_aux(batch)
        assert auxiliary.shape == (len(batch), CLASSES)
        return logits.square().sum() + auxiliary.square().sum()

    assert untrained(network, loss) == []


def assert_trains_by_its_features(spec, seed, layout, memory):
    torch.manual_seed(seed)
    network = calibrate(NASNet(spec, CLASSES), size=spec.image_size).to(memory_format=layout)
    network.set_activation_memory(memory)
    network.remove_classifier()
    batch = images(spec).to(memory_format=layout)

    def loss():
        return sum(out.square().sum() for out in network.features(batch).values())

    assert untrained(network, loss) == []


up_to_the_largest = small_specs(st.integers(71, 331), stems=["imagenet"], max_cells_per_stage=1)
PROPERTIES = {
    "small sizes": (assert_trains_by_its_logits, small_specs(st.integers(32, 70)), seeds, layouts, memories),
    "up to the largest size": (assert_trains_by_its_logits, up_to_the_largest, seeds, layouts, memories),
    "down to maps of one pixel": (
        assert_trains_by_its_logits,
        small_specs(st.integers(3, 31)),
        seeds,
        layouts,
        memories,
    ),
    "auxiliary head": (
        assert_trains_its_auxiliary_head,
        small_specs(st.integers(20, 40), stems=["cifar"]),
        seeds,
        memories,
    ),
    "features": (
        assert_trains_by_its_features,
        small_specs(st.integers(32, 48)),
        seeds,
        layouts,
        memories,
    ),
}
"""What asserts it, and the strategies of its arguments."""


@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", PROPERTIES)
def test_any_genotype_trains_every_parameter(case, examples):
    assert_holds, *arguments = PROPERTIES[case]
    settings(max_examples=examples, deadline=None)(given(*arguments)(assert_holds))()


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("operation", OPERATION_NAMES)
def test_every_operation_trains_at_each_place_of_a_cell(operation, combine):
    # On both inputs, on the same input twice, on a block; the first block is dead in the normal cell.
    blocks = [
        Block(0, 1, operation, operation, combine),
        Block(1, 1, operation, operation, combine),
        Block(3, 0, operation, operation, combine),
    ]
    genotype = Genotype(Cell(tuple(blocks), (4, 1)), Cell(tuple(blocks), (0, 2, 4, 1)))
    skip = (OPERATION_NAMES.index(operation) + COMBINATIONS.index(combine)) % 2 == 0
    padding, layout = ("same", LAYOUTS[0]) if skip else ("symmetric", LAYOUTS[1])
    spec = NetworkSpec(genotype, 1, 8, "cifar", 4, 18, padding=padding, skip_reduction_input=skip)
    assert_trains_by_its_logits(spec, 0, layout, "keep")


@pytest.mark.parametrize(("stem", "smallest"), [("imagenet", 35), ("cifar", 5)])
def test_training_on_one_image_needs_a_last_map_of_more_than_one_pixel(stem, smallest):
    # 35 px give maps of 17, 9, 5, 3 and 2, 34 px of 16, 8, 4, 2 and 1; cifar: 5, 3 and 2, and 4, 2 and 1.
    spec = NetworkSpec(NASNET_A, 1, 8, stem, 4, smallest)
    assert_trains(spec, torch.randn(1, 3, smallest, smallest), torch.channels_last, "keep")
    network = NASNet(spec, CLASSES)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 3, smallest - 1, smallest - 1))
