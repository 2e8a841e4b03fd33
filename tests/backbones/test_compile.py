"""`torch.compile` and `torch.export` take the network itself, without a graph break."""

import pytest
import torch
from exported_networks import BORDERS, assert_same, images, network
from torch.export import Dim

from backbones import NetworkSpec
from backbones.network import NASNet
from benchmarks.calibration import calibrate


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_the_network_itself_passes_torch_export_with_a_free_batch(strict):
    net = network(BORDERS, 32, stem="cifar")
    batch = {0: Dim("batch")}
    program = torch.export.export(net, (images(net, 2),), dynamic_shapes=(batch,), strict=strict).module()
    for number in (1, 7):
        x = images(net, number)
        with torch.no_grad():
            assert_same(program(x), net(x))


def compiled_and_plain(net: NASNet, method: str, backend: str):
    """The method's outputs as one list, compiled without a graph break and plain."""

    def flat(output):
        return (
            list(output.values())
            if isinstance(output, dict)
            else [output]
            if torch.is_tensor(output)
            else output
        )

    # Sizes of other tests make this one's symbols, with which Inductor calculates for half an hour.
    torch._dynamo.reset()
    x = images(net, 2)
    compiled = torch.compile(getattr(net, method), fullgraph=True, backend=backend)
    return flat(compiled(x)), flat(getattr(net, method)(x))


@pytest.mark.parametrize(
    ("method", "channels_last"),
    [
        ("forward_with_aux", True),
        *(
            pytest.param(method, channels_last, marks=pytest.mark.slow)
            for method in ("forward", "features", "forward_with_aux")
            for channels_last in (False, True)
            if (method, channels_last) != ("forward_with_aux", True)
        ),
    ],
)
def test_compiling_breaks_no_graph(method, channels_last):
    torch.manual_seed(0)
    spec = NetworkSpec(BORDERS, 1, 12, stem="cifar", stem_filters=4, image_size=32)
    net = calibrate(NASNet(spec, 5, auxiliary=True)).train(method == "forward_with_aux")
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    for found, expected in zip(*compiled_and_plain(net, method, "eager"), strict=True):
        assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forward", "features"])
def test_the_compiled_network_answers_as_the_plain_one(method):
    net = network(BORDERS, 64)
    with torch.no_grad():
        for found, expected in zip(*compiled_and_plain(net, method, "inductor"), strict=True):
            assert_same(found, expected)
