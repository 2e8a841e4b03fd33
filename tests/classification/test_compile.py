"""A network of cells that the trainer compiles learns what the plain one learns."""

import copy

import pytest
import torch
from steps import assert_same
from torch.utils.data import DataLoader

from backbones.genotype import Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from benchmarks.calibration import calibrate
from classification.module import ClassificationModule, DropPathSchedule, classification_loss
from runtime.config import TrainerConfig
from runtime.folder import RunFolder
from runtime.trainer import build_trainer, compiled, prepare_network

CELL = Cell(
    (Block(0, 1, "sep_conv_3x3", "max_pool_3x3", "add"), Block(0, 2, "conv_3x3", "identity", "concat")),
    (2, 3),
)
STEPS = 3


def learned(net: NASNet, folder, **trainer) -> dict[str, torch.Tensor]:
    """Weights and buffers after some steps on the same batches; drop path becomes likelier in each."""
    net = copy.deepcopy(net)
    torch.manual_seed(1)
    config = TrainerConfig(device="cpu", log_every_steps=1, **trainer)
    prepare_network(config, net)
    module = ClassificationModule(
        net,
        classification_loss(0.1, 0.4),
        lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        train_forward=compiled(config, net.forward_with_aux),
    )
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 3, 16, 16, generator=generator).double(), torch.randint(5, (8,), generator=generator))
        for _ in range(STEPS)
    ]
    fit = build_trainer(
        config, RunFolder(folder), [], [DropPathSchedule(net)], max_steps=STEPS, validate_every_epochs=None
    )
    fit.fit(module, DataLoader(batches, batch_size=None))
    assert fit.global_step == STEPS
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["keep", "lean"])
def test_a_compiled_network_learns_what_the_plain_one_learns(tmp_path, memory):
    torch.manual_seed(0)
    spec = NetworkSpec(Genotype(CELL, CELL), 1, 8, stem="cifar", stem_filters=6, image_size=16)
    net = calibrate(NASNet(spec, 5, drop_path_keep=0.5).double(), size=16)
    plain = learned(net, tmp_path / "plain")
    assert any(not torch.equal(value, plain[name]) for name, value in net.named_parameters())
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = learned(
        net, tmp_path / "compiled", compile=True, compile_backend="aot_eager", activation_memory=memory
    )
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert_same(compiled, plain, 1e-6)
