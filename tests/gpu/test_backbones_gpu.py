"""Every path of a network on a CUDA GPU against the plain network on the CPU: `make gpu-check`.

One case of each test also runs on the CPU, with every suite, so that the checks themselves are known to work.
Both sides compute in float64, where two orders of summation differ by 1e-9 at most of a tensor's largest
value; float32, without TF32, is held against the same numbers to the tolerances below.
"""

import copy
import itertools
import random
from collections.abc import Iterable

import pytest
import torch
from steps import EXACT, answers, assert_same, mean_cosine, trained_step
from torch import Tensor, distributed, nn

from backbones import create
from backbones.genotype import COMBINATIONS, OPERATION_NAMES, Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import ACTIVATION_MEMORY, NetworkSpec
from benchmarks.calibration import calibrate

# float32 rounds to 6e-8, of which fifty layers make 1e-5 of an answer. Gradients differ more: a value next to
# 0 before a ReLU, or to another before a max pool, falls on the other side, and these maps are small.
ANSWER, GRADIENT = 1e-4, 5e-2
PRECISIONS = [(torch.float64, EXACT, EXACT), (torch.float32, ANSWER, GRADIENT)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def cases(names: str, *values: Iterable) -> pytest.MarkDecorator:
    """Parametrises a test: all combinations of `values` on the GPU, and the last one on the CPU."""
    combinations = list(itertools.product(*values))
    on_cpu = pytest.param("cpu", *combinations[-1])
    on_gpu = [pytest.param("cuda", *combination, marks=pytest.mark.gpu) for combination in combinations]
    return pytest.mark.parametrize(f"device,{names}".strip(","), [on_cpu, *on_gpu], indirect=["device"])


@pytest.fixture
def device(request, monkeypatch):
    if request.param == "cuda":
        assert torch.cuda.is_available(), "these tests need a CUDA GPU, and PyTorch finds none"
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


def on_device(net: NASNet, images: Tensor, device, dtype=torch.float64, layout=torch.channels_last):
    """A copy of the network, and the images, there."""
    return (
        copy.deepcopy(net).to(device, dtype).to(memory_format=layout),
        images.to(device, dtype).contiguous(memory_format=layout),
    )


@pytest.fixture(scope="module")
def nets():
    """Networks in float64 with images: NASNet-A with each stem, the second with its auxiliary head."""
    torch.manual_seed(0)
    mobile = create("nasnet_a_mobile", 7, cells_per_stage=1, filters=16)
    cifar = create("nasnet_a_cifar", 7, cells_per_stage=2, filters=8, auxiliary=True)
    return {
        "mobile": (calibrate(mobile.double()), torch.randn(3, 3, 75, 75, dtype=torch.float64)),
        "cifar": (calibrate(cifar.double(), size=32), torch.randn(4, 3, 32, 32, dtype=torch.float64)),
    }


@cases("name,memory,layout,precision", ["mobile", "cifar"], ACTIVATION_MEMORY, LAYOUTS, PRECISIONS)
def test_a_training_step(nets, name, memory, layout, precision, device):
    net, images = nets[name]
    dtype, answer, gradient = precision
    other, there = on_device(net, images, device, dtype, layout)
    other.set_activation_memory(memory)
    net = copy.deepcopy(net)
    check_step(
        trained_step(other, there, other.forward_with_aux if name == "cifar" else None),
        trained_step(net, images, net.forward_with_aux if name == "cifar" else None),
        answer,
        gradient,
    )


def check_step(
    actual: dict[str, Tensor], expected: dict[str, Tensor], answer: float, gradient: float
) -> None:
    """Outputs and batch norm's statistics to the tolerance of an answer, gradients to their own."""

    def parts(step: dict[str, Tensor], gradients: bool) -> dict[str, Tensor]:
        return {name: value for name, value in step.items() if name.startswith("gradient") == gradients}

    assert_same(parts(actual, False), parts(expected, False), answer)
    assert_same(parts(actual, True), parts(expected, True), gradient)


@cases("images,form,precision", [3, 1], ["plain", "channels_last", "fused here", "fused there"], PRECISIONS)
def test_logits_features_and_end_points(nets, images, form, precision, device):
    # One image or three: fused networks treat small and large maps differently.
    net, _ = nets["mobile"]
    dtype, answer, _ = precision
    pixels = torch.randn(images, 3, 224, 224, dtype=torch.float64)
    layout = torch.contiguous_format if form == "plain" else torch.channels_last
    other, there = on_device(net.fuse() if form == "fused here" else net, pixels, device, dtype, layout)
    if form == "fused there":
        other = other.fuse()
    assert_same(answers(other, there), answers(net, pixels), answer)


@cases("operation,combine", OPERATION_NAMES, COMBINATIONS)
def test_every_operation(operation, combine, device):
    torch.manual_seed(0)
    block = Block(0, 1, operation, "sep_conv_3x3", combine)
    cell = Cell((block, Block(2, 0, operation, operation, combine)), (0, 2, 3))
    check_genotype(Genotype(cell, cell), 19, device)


@cases("seed", range(8))
def test_a_random_genotype(seed, device):
    torch.manual_seed(seed)
    draw = random.Random(seed)

    def cell() -> Cell:
        blocks = [
            Block(
                draw.randint(0, 1 + b),
                draw.randint(0, 1 + b),
                *draw.choices(OPERATION_NAMES, k=2),
                draw.choice(COMBINATIONS),
            )
            for b in range(4)
        ]
        return Cell.with_unused_concat(blocks)

    check_genotype(Genotype(cell(), cell()), draw.choice([32, 33]), device)


def check_genotype(genotype: Genotype, size: int, device: torch.device) -> None:
    """A narrow network of it, 8 channels in the first stage: steps in every activation memory, and fused."""
    spec = NetworkSpec(genotype, 1, 8, stem="cifar", stem_filters=6, image_size=size)
    net, images = calibrate(NASNet(spec, 5).double(), size=size), torch.randn(3, 3, size, size).double()
    other, there = on_device(net, images, device)
    assert_same(answers(other.fuse(), there), answers(net, images))
    expected = trained_step(copy.deepcopy(net), images)
    for memory in ACTIVATION_MEMORY:
        step = copy.deepcopy(other)
        step.set_activation_memory(memory)
        assert_same(trained_step(step, there), expected)


@cases("memory", ACTIVATION_MEMORY)
def test_autocast_to_bfloat16(nets, memory, device):
    """bfloat16 keeps 8 bits: logits to 5 %, and of a gradient little but the direction."""
    net, images = nets["cifar"]
    net = copy.deepcopy(net)
    net.auxiliary = None
    exact = trained_step(copy.deepcopy(net), images)
    steps = {}
    for mode in {"keep", memory}:
        other, there = on_device(net, images, device, torch.float32)
        other.set_activation_memory(mode)
        with torch.autocast(device.type, torch.bfloat16):
            steps[mode] = trained_step(other, there)
    assert_same({"logits": steps[memory]["output 0"]}, {"logits": exact["output 0"]}, 0.05)
    assert mean_cosine(steps[memory], exact) > 0.9
    assert mean_cosine(steps[memory], steps["keep"]) > 0.95


@pytest.mark.slow
@cases("training", [False, True])
def test_torch_compile(training, device):
    torch.manual_seed(0)
    cell = Cell(
        (Block(0, 1, "sep_conv_3x3", "max_pool_3x3", "add"), Block(0, 2, "conv_3x3", "identity", "concat")),
        (2, 3),
    )
    spec = NetworkSpec(Genotype(cell, cell), 1, 8, stem="cifar", stem_filters=6, image_size=16)
    net, images = calibrate(NASNet(spec, 5).double(), size=16), torch.randn(4, 3, 16, 16).double()
    other, there = on_device(net, images, device, torch.float32)
    # Compiling kernels takes minutes on a CPU; there the traced graphs run as they are.
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    if training:
        step = trained_step(copy.deepcopy(net), images)
        check_step(trained_step(other, there, compiled), step, ANSWER, GRADIENT)
    else:
        with torch.no_grad():
            logits = compiled.eval()(there).cpu()
            assert_same({"logits": logits}, {"logits": net.eval()(images)}, ANSWER)


@cases("memory", ["keep", "checkpoint"])
def test_norms_synchronised_over_one_process(nets, memory, device, tmp_path):
    net, images = nets["mobile"]
    other, there = on_device(net, images, device)
    if device.type == "cuda":  # such norms train on GPUs alone
        other = nn.SyncBatchNorm.convert_sync_batchnorm(other)
    other.set_activation_memory(memory)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.FileStore(str(tmp_path / "store"), 1),
        world_size=1,
        rank=0,
    )
    try:
        actual = trained_step(other, there, nn.parallel.DistributedDataParallel(other))
    finally:
        distributed.destroy_process_group()
    assert_same(actual, trained_step(copy.deepcopy(net), images))
