"""An operation is one entry: whoever adds it there can build, train, count, draw and fuse cells of it."""

import json

import pytest
import torch
from steps import EXACT, answers, assert_same, trained_step
from torch import nn

from backbones.costs import profile
from backbones.draw import draw
from backbones.genotype import OPERATION_NAMES, Block, Cell, Genotype
from backbones.layers import Activated, Layers, Pool
from backbones.network import NASNet
from backbones.operations import OPERATIONS, Operation
from backbones.spec import NetworkSpec
from backbones.tally import Map, Tally
from benchmarks.calibration import calibrate


class Gate(nn.Module):
    """Weighs the channels by the mean of the map (1709.01507), a layer that nothing here knows."""

    def __init__(self, channels):
        super().__init__()
        self.weigh = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x):
        return x * self.weigh(x.mean((2, 3), keepdim=True)).sigmoid()


def build_gated(layers, in_channels, channels, stride):
    return Activated(*layers.conv_norm(in_channels, channels, 3, stride), Gate(channels))


def cost_gated(tally, x, channels, stride):
    x = tally.conv_norm(x, channels, 3, stride)
    tally.conv(Map(channels, 1, 1), channels)
    return x


GATED = Operation("conv", ("gated", "3×3"), build_gated, cost_gated)
GROUPED = Operation(
    "conv",
    ("2 groups", "3×3"),
    lambda layers, c_in, c, stride: Activated(layers.conv(c_in, c, 3, stride, groups=2), layers.norm(c)),
    lambda tally, x, c, stride: tally.norm(tally.conv(x, c, (3, 3), (stride, stride), groups=2)),
)


@pytest.fixture(params=[GATED, GROUPED], ids=["layers of its own", "known layers"])
def added(request, monkeypatch):
    monkeypatch.setitem(OPERATIONS, "added", request.param)
    return request.param


def spec_of(operation):
    cell = Cell((Block(0, 1, operation, "identity"), Block(2, 0, "max_pool_3x3", operation, "concat")), (3,))
    return NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=6, image_size=17)


def test_an_added_operation_is_read_built_and_trained(added):
    spec = spec_of("added")
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    network = NASNet(spec, 5)
    operation = network.cells["cell_0"].blocks["0"].left
    assert [type(layer) for layer in operation] == [type(layer) for layer in added.build(LAYERS, 8, 8, 1)]
    trained_step(network, torch.randn(2, 3, 17, 17))


LAYERS = Layers("same", 1e-3, 0.1)


def test_an_added_operation_is_counted(added):
    network = NASNet(spec_of("added"), 5)
    counted = profile(network)
    assert counted.parameters == sum(parameter.numel() for parameter in network.parameters())
    plain = profile(spec_of("conv_3x3"), num_classes=5)
    # Twice per cell, in five cells of 8, 16, 16, 32 and 32 channels; in reductions the first input is halved.
    pixels = {"cell_0": 17**2, "reduction_0": 9**2, "cell_1": 9**2, "reduction_1": 5**2, "cell_2": 5**2}
    widths = {"cell_0": 8, "reduction_0": 16, "cell_1": 16, "reduction_1": 32, "cell_2": 32}
    for part, without in zip(counted.parts, plain.parts, strict=True):
        if part.name in pixels:
            width = widths[part.name]
            more = width**2 if added is GATED else -(9 * width**2 // 2) * pixels[part.name]
            assert part.multiply_adds - without.multiply_adds == 2 * more, part.name


def test_an_added_operation_is_drawn(added):
    drawn = draw(spec_of("added").genotype)
    for line in added.label:
        assert f">{line}</text>" in drawn
    assert drawn.count('data-operation="added"><rect class="conv"') == 4


def test_an_added_operation_is_fused_or_runs_as_it_is(added):
    network, images = calibrate(NASNet(spec_of("added"), 5).double(), size=17), torch.randn(2, 3, 17, 17)
    images = images.double().contiguous(memory_format=torch.channels_last)
    fused = network.fuse()
    assert_same(answers(fused, images), answers(network, images), EXACT)
    kept = sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert kept == (10 if added is GATED else 0)


def test_an_operation_without_running_statistics_refuses_to_be_fused(monkeypatch):
    def build(layers, in_channels, channels, stride):
        return Activated(layers.conv(in_channels, channels, 3, stride), nn.GroupNorm(2, channels))

    monkeypatch.setitem(OPERATIONS, "added", Operation("conv", ("", ""), build, cost_gated))
    with pytest.raises(ValueError, match="which GroupNorm here does not have"):
        NASNet(spec_of("added"), 5).fuse()


@pytest.mark.parametrize("name", OPERATION_NAMES)
@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 2), (6, 8, 1), (6, 8, 2)])
def test_every_entry_counts_what_it_builds(name, shape):
    in_channels, channels, stride = shape
    operation, tally = OPERATIONS[name], Tally()
    module = operation.build(LAYERS, *shape)
    out = operation.cost(tally, Map(in_channels, 7, 6), channels, stride)
    assert (out.channels, out.height, out.width) == module(torch.zeros(2, in_channels, 7, 6)).shape[1:]
    assert tally.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert isinstance(module, Pool) == (operation.kind == "pool" and in_channels == channels)
