"""A map's ReLU and pools are computed once for all readers, in place where nobody reads the map itself."""

import copy

import pytest
import torch
from genotypes import small_specs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from steps import answers, assert_same, trained_step
from torch import Tensor

from backbones.cell import State
from backbones.genotype import Block, Cell, Genotype
from backbones.layers import Pool
from backbones.network import NASNet
from backbones.published import NASNET_A
from backbones.spec import ACTIVATION_MEMORY, NetworkSpec
from benchmarks.calibration import calibrate


@torch.no_grad()
def by_hand(net: NASNet, images: Tensor) -> dict[str, Tensor]:
    """Logits and end points where every cell gets copies of its own."""
    net.eval()
    names, outputs = ["stem"], [net.stem(images)]
    for plan in net.plans:
        names.append(plan.name)
        if plan.name not in net.cells:  # the logits do not depend on it; nobody reads its output
            outputs.append(None)
            continue
        cell = net.cells[plan.name]
        inputs = (
            (outputs[plan.h], cell.fit),
            (outputs[plan.h if plan.h_prev is None else plan.h_prev], cell.fit_prev),
        )
        copies = [None if x is None else State(x.clone()).read_by(fit) for x, fit in inputs]
        outputs.append(cell(*copies))
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


def calibrated(spec: NetworkSpec) -> tuple[NASNet, Tensor]:
    net = calibrate(NASNet(spec, 5).double(), size=spec.image_size).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, spec.image_size, spec.image_size, dtype=torch.float64)
    return net, images.contiguous(memory_format=torch.channels_last)


def keep_outputs(net: NASNet) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every cell by name, what a hook sees of its output, and a copy made at that moment."""
    seen = {}

    def keeper(name: str):
        return lambda cell, inputs, output: seen.update({name: (output, output.detach().clone())})

    for name, cell in net.cells.items():
        cell.register_forward_hook(keeper(name))
    return seen


HOOKED = [READ_RAW, NetworkSpec(NASNET_A, 1, 8, stem_filters=8, image_size=40)]


@pytest.mark.parametrize("mode", ACTIVATION_MEMORY)
@pytest.mark.parametrize("spec", HOOKED)
def test_hooks_on_cells_change_no_step_and_see_what_stays(spec, mode):
    net, images = calibrated(spec)
    net.set_activation_memory(mode)
    expected = trained_step(copy.deepcopy(net), images)
    seen, grads = keep_outputs(net), {}
    for name, cell in net.cells.items():
        cell.register_forward_hook(lambda cell, inputs, output: output.retain_grad())
        cell.register_full_backward_hook(
            lambda cell, inputs, outputs, name=name: grads.update({name: (inputs, *outputs)})
        )
    assert_same(trained_step(net, images), expected)
    assert list(seen) == list(net.cells)
    for name, (output, at_that_moment) in seen.items():
        assert torch.equal(output, at_that_moment), name
        inputs, grad = grads[name]
        torch.testing.assert_close(grad, output.grad, msg=name)
        assert any(x.any() for x in inputs if x is not None), name


@pytest.mark.parametrize("spec", HOOKED)
def test_hooks_on_fused_cells_see_what_stays_and_what_the_plain_ones_see(spec):
    net, images = calibrated(spec)
    plain, fused = net.eval(), net.fuse()
    seen = [keep_outputs(each) for each in (plain, fused)]
    with torch.no_grad():
        torch.testing.assert_close(fused(images), plain(images))
    for name, (output, at_that_moment) in seen[1].items():
        assert torch.equal(output, at_that_moment), name
        torch.testing.assert_close(output, seen[0][name][0], msg=name)
