import sys

import pytest
import torch
from genotypes import small_specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backbones import NASNet, NetworkSpec, create, profile
from backbones.__main__ import main
from backbones.cell import CellModule
from backbones.costs import PartProfile
from backbones.genotype import Block, Cell, Genotype
from backbones.layers import Pool
from backbones.published import NASNET_A
from backbones.zoo import ZOO


def counted_parts(spec, size, num_classes, device="meta"):
    """What hooks and `parameters()` say of the forward pass of a real network, part by part."""
    with torch.device(device):
        net = NASNet(spec, num_classes).eval()
        image = torch.zeros(1, spec.in_channels, size, size)
    parts = {"stem": net.stem, **net.cells, "classifier": net.classifier}
    seen = {name: [] for name in parts}
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear, Pool, CellModule)
    for name, part in parts.items():
        for module in part.modules():
            if isinstance(module, kinds):
                module.register_forward_hook(
                    lambda m, _, out, seen=seen[name]: seen.append((m, out[0].shape))
                )
    with torch.no_grad():
        net(image)
    return tuple(part_profile(name, parts[name], seen[name]) for name in parts)


def part_profile(name, part, seen):
    weighted = [
        (module.weight, shape.numel()) for module, shape in seen if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    return PartProfile(
        name,
        tuple(seen[-1][1]),
        parameters=sum(parameter.numel() for parameter in part.parameters()),
        buffers=sum(
            b.numel() for key, b in part.named_buffers() if key.split(".")[-1].startswith("running_")
        ),
        multiply_adds=sum(outputs * weight[0].numel() for weight, outputs in weighted),
        activation_bytes=sum(
            4 * shape.numel() for module, shape in seen if not isinstance(module, nn.Linear)
        ),
        pooled_bytes=sum(4 * shape.numel() for module, shape in seen if isinstance(module, Pool)),
        gathered_bytes=sum(
            4 * module.in_channels * shape[1:].numel()
            for module, shape in seen
            if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size != (1, 1)
        ),
    )


@given(small_specs(st.integers(3, 90)), st.integers(3, 90), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_every_part_costs_what_hooks_count_in_a_real_network(spec, size, num_classes):
    counted = profile(spec, size, num_classes)
    assert counted.image_size == size
    assert counted.parts == counted_parts(spec, size, num_classes, "cpu")


@pytest.mark.parametrize("name", ZOO)
def test_every_network_of_the_zoo_costs_what_hooks_count(name):
    assert profile(ZOO[name], num_classes=1000).parts == counted_parts(ZOO[name], ZOO[name].image_size, 1000)


def test_costs_of_a_small_network_by_hand():
    # One block, max_pool_3x3(h_i) + sep_conv_3x3(h_{i-1}), in a network of 8, 16, 32 filters at 16, 8, 4 px.
    cell = Cell.with_unused_concat([Block(0, 1, "max_pool_3x3", "sep_conv_3x3")])
    spec = NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=8, image_size=16)
    stem, cell_0, *rest, classifier = profile(spec, num_classes=10).parts
    assert [part.name for part in rest] == ["reduction_0", "cell_1", "reduction_1", "cell_2"]
    pixels = 16 * 16
    assert stem == PartProfile(
        "stem",
        (8, 16, 16),
        parameters=3 * 8 * 9 + 2 * 8,
        buffers=16,
        multiply_adds=3 * 8 * 9 * pixels,
        activation_bytes=4 * 2 * 8 * pixels,
        gathered_bytes=4 * 3 * pixels,
    )
    # h_i is fitted by a 1x1. There is no h_{i-1} yet: the raw h_i stands in, for twice 3x3 depthwise and 1x1.
    weights = 8 * 8 + 2 * (8 * 9 + 8 * 8)
    layers = 2 + 1 + 2 * 3 + 1  # fit and its norm, pool, twice depthwise, pointwise and norm, the cell
    assert cell_0 == PartProfile(
        "cell_0",
        (8, 16, 16),
        parameters=weights + 3 * 2 * 8,
        buffers=3 * 2 * 8,
        multiply_adds=weights * pixels,
        activation_bytes=4 * layers * 8 * pixels,
        pooled_bytes=4 * 8 * pixels,
    )
    assert classifier == PartProfile("classifier", (10,), 32 * 10 + 10, 0, 32 * 10, 0)


def test_one_pool_of_one_state_counts_once_in_a_cell():
    twice = Cell.with_unused_concat([Block(0, 0, "avg_pool_3x3", "avg_pool_3x3")])
    different = Cell.with_unused_concat([Block(0, 0, "avg_pool_3x3", "max_pool_3x3")])
    once, both = (
        profile(NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", image_size=16))
        .parts[1]
        .activation_bytes
        for cell in (twice, different)
    )
    assert both - once == 4 * 8 * 16 * 16


def test_totals_are_the_sums_of_the_parts():
    counted = profile(ZOO["nasnet_a_mobile"])
    for field in ("parameters", "buffers", "multiply_adds", "activation_bytes"):
        assert getattr(counted, field) == sum(getattr(part, field) for part in counted.parts)


def test_a_network_is_counted_with_its_own_classes_and_without_its_auxiliary_head():
    spec = ZOO["nasnet_a_cifar"]
    with torch.device("meta"):
        net = NASNet(spec, 10, auxiliary=True)
    assert net.auxiliary is not None
    assert profile(net) == profile(spec, num_classes=10)


def small_net():
    with torch.device("meta"):
        return NASNet(NetworkSpec(NASNET_A, 1, 8, stem_filters=8, image_size=32), 5)


def test_a_network_without_its_classifier_is_counted_without_it():
    net = small_net()
    whole = profile(net)
    assert [part.name for part in whole.parts] == ["stem", *net.cells, "classifier"]
    net.remove_classifier()
    assert profile(net).parts == whole.parts[:-1]
    assert profile(net).parameters == sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("classes", "pool"), [(0, "avg"), (4, "catavgmax"), (4, "avg")])
def test_networks_made_by_timm_are_counted_with_the_classifier_that_they_have(classes, pool):
    timm = pytest.importorskip("timm")
    import backbones.timm_models  # noqa: F401

    size = {"cells_per_stage": 1, "filters": 8, "image_size": 32}
    net = timm.create_model("nasnet_a_mobile", num_classes=classes, global_pool=pool, **size)
    assert profile(net).parameters == sum(parameter.numel() for parameter in net.parameters())
    assert (profile(net).parts[-1].name == "classifier") == bool(classes)


def test_a_pruned_network_is_counted_by_the_cells_that_are_left():
    timm = pytest.importorskip("timm")
    import backbones.timm_models  # noqa: F401

    net = timm.create_model("nasnet_a_mobile", cells_per_stage=2, filters=8, image_size=32)
    whole = profile(net)
    net.prune_intermediate_layers([1, 2])
    assert list(net.cells) == ["stem_0", "stem_1", "cell_0", "cell_1"]
    assert profile(net).parts == whole.parts[:5]
    assert profile(net).parameters == sum(parameter.numel() for parameter in net.parameters())


def test_networks_that_are_no_longer_those_of_their_specs_are_refused():
    with pytest.raises(ValueError, match="a fused network has no profile"):
        profile(NASNet(NetworkSpec(NASNET_A, 1, 8, stem_filters=8, image_size=32), 5).fuse())
    changed = small_net()
    changed.classifier = nn.Sequential(changed.classifier, nn.Linear(5, 5))
    with pytest.raises(ValueError, match=r"as its spec describes it: it was changed since"):
        profile(changed)
    pytest.importorskip("timm")
    headless = create("timm/test_resnet", 5)
    assert profile(headless).parameters == sum(parameter.numel() for parameter in headless.parameters())
    headless.remove_classifier()
    with pytest.raises(ValueError, match=r"as its spec describes it: it was changed since"):
        profile(headless)


def test_the_largest_network_is_counted_without_being_built_or_run(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a module was built or called")

    monkeypatch.setattr(nn.Module, "__init__", refuse)
    monkeypatch.setattr(nn.Module, "__call__", refuse)
    assert profile(ZOO["nasnet_a_large"]).parameters == 88_753_150  # docs/nasnet.md, section 4.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 2}, "image_size = 2, the network needs at least 3"),
        ({"num_classes": 0}, "num_classes = 0, must be at least 1"),
    ],
)
def test_what_could_not_be_built_or_run_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        profile(ZOO["nasnet_a_mobile"], **arguments)


def test_the_command_prints_the_total_and_the_parts_where_asked(monkeypatch, capsys):
    def printed(*arguments):
        monkeypatch.setattr(sys, "argv", ["backbones", "profile", "nasnet_a_mobile", *arguments])
        main()
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line[:1] == "│"]

    # 5,289,978 parameters and 563.6 million multiply-adds: docs/nasnet.md, section 4.4.
    (total,) = printed()
    assert total[:5] == ["total", "", "5,289,978", "36,738", "563.6 M"]
    *parts, last = printed("--parts", "--image-size", "192")
    assert [row[0] for row in parts] == [part.name for part in profile(ZOO["nasnet_a_mobile"]).parts]
    assert parts[-1] == ["classifier", "1000", "1,057,000", "0", "1.1 M", "0.0 MB"]
    assert last[2:4] == total[2:4]
