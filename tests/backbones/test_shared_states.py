"""A map's ReLU and pools are computed once for all readers, in place where nobody reads the map itself."""

import pytest
import torch
from calibration import calibrate
from genotypes import small_specs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from steps import answers, assert_same
from torch import Tensor

from backbones.cell import State
from backbones.genotype import Block, Cell, Genotype
from backbones.layers import Pool
from backbones.network import NASNet
from backbones.spec import NetworkSpec


@torch.no_grad()
def by_hand(net: NASNet, images: Tensor) -> dict[str, Tensor]:
    """Logits and end points where every cell gets copies of its own."""
    net.eval()
    names, outputs = ["stem"], [net.stem(images)]
    for plan in net.plans:
        inputs = (outputs[plan.h], outputs[plan.h if plan.h_prev is None else plan.h_prev])
        copies = [None if x is None else State(x.clone()) for x in inputs]
        names.append(plan.name)
        # A cell that the logits do not depend on is not built; nobody reads its output.
        outputs.append(net.cells[plan.name](*copies) if plan.name in net.cells else None)
    found = {f"end point {name}": x for name, x in zip(names, outputs, strict=True) if x is not None}
    return {"logits": net.classifier(outputs[-1].relu().mean(dim=(2, 3))), **found}


# One state in the concat list: outputs are as wide as states; the cell after the next reads them as they are.
RAW = Cell((Block(1, 0, "identity", "conv_1x1", "add"), Block(1, 2, "avg_pool_3x3", "identity", "add")), (3,))
READ_RAW = NetworkSpec(Genotype(RAW, RAW), 3, 8, stem="cifar", stem_filters=8, image_size=32)


@pytest.mark.parametrize("fused", [False, True])
@settings(max_examples=10, deadline=None)
@given(spec=small_specs(st.sampled_from([32, 33])))
@example(spec=READ_RAW)
def test_cells_read_what_others_gave_whoever_reads_it_first(spec, fused):
    net = calibrate(NASNet(spec, 5).double(), size=spec.image_size).to(memory_format=torch.channels_last)
    net = net.fuse() if fused else net
    images = torch.randn(2, 3, spec.image_size, spec.image_size, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    expected = by_hand(net, images)
    actual = {name: value for name, value in answers(net, images).items() if not name.startswith("feature")}
    assert_same(actual, expected)


def test_operations_share_the_pool_of_a_state_only_where_it_is_the_same():
    state = State(torch.randn(2, 3, 9, 9))
    pools = [
        Pool(kind, kernel, stride, "same")
        for kind, kernel, stride in (("max", 3, 1), ("max", 3, 2), ("max", 5, 1), ("avg", 3, 1))
    ]
    for pool in pools:
        torch.testing.assert_close(state.through(pool), pool(state.raw))
    assert state.through(Pool("max", 5, 1, "same")) is state.through(pools[2])
