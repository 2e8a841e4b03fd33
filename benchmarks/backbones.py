"""How fast the networks are against the public ones: ratios in one process, rounds interleaved, medians.

    python -m benchmarks.backbones                       every table, about 12 minutes on 2 cores
    python -m benchmarks.backbones --only training --rounds 9

Peers: `nasnetalarge` of timm, `nasnetamobile` of pretrainedmodels, as they come. Ours holds the peer's
weights, converted, and gives the peer's answers before anything is timed. A ratio is the median over rounds
of the peer's time through ours in the same round: above 1 is faster. The quartiles are those of the rounds.
The machine must be quiet: with two threads, any other process on the cores makes either side several times
slower.
"""

import argparse
import copy
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.export import export
from backbones.network import ACTIVATION_MEMORY, NASNet
from backbones.weights import convert

CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True)
class Row:
    """A line of the table. goal: the ratio aimed at. saved: kept for the backward pass, to the peer's."""

    work: str
    way: str
    peer_ms: float
    own_ms: float
    ratio: float
    quartiles: tuple[float, float]
    goal: float | None = None
    saved: float | None = None


GOALS = {
    ("mobile 224, batch 1", "fused"): 2.1,
    ("mobile 224, batch 8", "fused"): 2.1,
    ("large 331, batch 1", "fused"): 1.5,
    ("large 331, batch 4", "fused"): 1.5,
    ("mobile 224, batch 1", "exported, the better"): 3.5,
    ("mobile 224, batch 8", "exported, the better"): 2.9,
    ("large 331, batch 1", "exported, the better"): 1.9,
    ("training step, mobile 224, batch 8", "keep"): 1.6,
    ("training step, mobile 224, batch 8", "lean"): 1.3,
    ("training step, mobile 224, batch 8", "checkpoint"): 1.0,
}


def peer_and_own(name: str) -> tuple[nn.Module, NASNet, int]:
    """The public network with statistics of random images, ours with its weights, the side in pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "mobile":
            import pretrainedmodels

            peer, source, size = pretrainedmodels.nasnetamobile(1000, None), "pretrainedmodels", 224
        else:
            import timm

            peer, source, size = timm.create_model("nasnetalarge", num_classes=1000), "timm", 331
    norms = [module for module in peer.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        peer.train()(torch.randn(2, 3, size, size))
    for norm in norms:
        norm.momentum = momentum
    return peer.eval(), convert(peer.state_dict(), source).to(memory_format=CHANNELS_LAST), size


def interleaved(ways: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every way in every round, after one round that does not count."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(rounds + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:
                seconds[way].append(time.perf_counter() - start)
    return seconds


def rows(work: str, seconds: dict[str, list[float]], saved: dict[str, float] | None = None) -> Iterator[Row]:
    """Lines of all ways but the first, which is the peer."""
    peer, *ways = seconds
    for way in ways:
        ratios = [a / b for a, b in zip(seconds[peer], seconds[way], strict=True)]
        lower, median, upper = statistics.quantiles(ratios, n=4)
        yield Row(
            work,
            way,
            1e3 * statistics.median(seconds[peer]),
            1e3 * statistics.median(seconds[way]),
            median,
            (lower, upper),
            GOALS.get((work, way)),
            saved[way] / saved[peer] if saved else None,
        )


def check_equal(work: str, way: str, actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not difference <= tolerance:
        sys.exit(f"{work}, {way}: logits differ from the peer's by {difference:.1e} of their largest")


@torch.inference_mode()
def inference(name: str, batch: int, rounds: int, device: str) -> Iterator[Row]:
    peer, own, size = peer_and_own(name)
    peer, own = peer.to(device), own.to(device)
    work = f"{name} {size}, batch {batch}"
    images = torch.randn(batch, 3, size, size, device=device)
    channels_last = images.contiguous(memory_format=CHANNELS_LAST)
    plain = copy.deepcopy(own).to(memory_format=torch.contiguous_format)
    fused = own.fuse()
    ways: dict[str, Callable[[], Tensor]] = {
        "peer": lambda: peer(images),
        "plain layout": lambda: plain(images),
        "channels-last": lambda: own(channels_last),
        "fused": lambda: fused(images),
    }
    for way, run in ways.items():
        check_equal(work, way, run(), ways["peer"]())
    if device == "cuda":
        ways["channels-last, bfloat16"] = lambda: _bfloat16(own, channels_last)
    yield from rows(work, interleaved(ways, rounds, device))


def _bfloat16(net: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        return net(images)


def exported(name: str, rounds: dict[int, int], threads: int) -> Iterator[Row]:
    """ONNX Runtime and OpenVINO on the files that `python -m backbones export` writes. rounds: by batch."""
    import onnxruntime
    import openvino

    peer, own, size = peer_and_own(name)
    with tempfile.TemporaryDirectory() as folder:
        onnx, xml = Path(folder) / "net.onnx", Path(folder) / "net.xml"
        export(own, onnx, "onnx")
        export(own, xml, "openvino")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads would go on spinning on the cores of whoever is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(onnx, options)
        for batch, count in rounds.items():
            model = openvino.Core().read_model(xml)
            model.reshape([batch, 3, size, size])
            settings = {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
            }
            compiled = openvino.Core().compile_model(model, "CPU", settings)
            images = torch.randn(batch, 3, size, size)
            with torch.inference_mode():
                yield from _exported_rows(name, peer, images, session, compiled, count)


def _exported_rows(name, peer, images: Tensor, session, compiled, rounds: int) -> Iterator[Row]:
    work = f"{name} {images.shape[-1]}, batch {len(images)}"
    array = images.numpy()
    ways: dict[str, Callable[[], object]] = {
        "peer": lambda: peer(images),
        "ONNX Runtime": lambda: session.run(["logits"], {"images": array})[0],
        "OpenVINO": lambda: compiled(array)["logits"],
    }
    for way in ("ONNX Runtime", "OpenVINO"):
        check_equal(work, way, torch.as_tensor(ways[way]()), peer(images))
    seconds = interleaved(ways, rounds, "cpu")
    yield from rows(work, seconds)
    better = min(("ONNX Runtime", "OpenVINO"), key=lambda way: statistics.median(seconds[way]))
    yield from rows(work, {"peer": seconds["peer"], "exported, the better": seconds[better]})


def training(batch: int, rounds: int, device: str) -> Iterator[Row]:
    """A step of SGD with momentum: loss, backward, update; and the bytes kept for the backward pass."""
    peer, own, size = peer_and_own("mobile")
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(1000, (batch,), device=device)
    nets: dict[str, tuple[nn.Module, Tensor, bool]] = {"peer": (peer, images, False)}
    for mode in ACTIVATION_MEMORY:
        net = copy.deepcopy(own)
        net.set_activation_memory(mode)
        nets[mode] = (net, images.contiguous(memory_format=CHANNELS_LAST), False)
    if device == "cuda":
        nets["keep, bfloat16"] = (copy.deepcopy(own), nets["keep"][1], True)
    ways, saved = {}, {}
    for way, (net, x, low) in nets.items():
        net.to(device).train()
        saved[way] = _saved_bytes(net, x)
        optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
        ways[way] = _step(net, x, labels, optimizer, low)
    yield from rows(f"training step, mobile {size}, batch {batch}", interleaved(ways, rounds, device), saved)


def _step(
    net: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, low: bool
) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16) if low else nullcontext():
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    return step


def _saved_bytes(net: nn.Module, images: Tensor) -> float:
    """Storages kept for the backward pass, parameters and buffers excluded; a checkpoint's are its inputs."""
    own = {value.untyped_storage().data_ptr() for value in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        net(images)
    return float(sum(kept.values()))


def print_table(found: list[Row]) -> None:
    print("\n| work | ours | peer, ms | ours, ms | ratio | quartiles | goal | saved activations |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found:
        goal = "" if row.goal is None else f"{row.goal:.1f} {'met' if row.ratio >= row.goal else 'missed'}"
        saved = "" if row.saved is None else f"{row.saved:.2f}"
        print(
            f"| {row.work} | {row.way} | {row.peer_ms:.1f} | {row.own_ms:.1f} | {row.ratio:.2f} "
            f"| {row.quartiles[0]:.2f} to {row.quartiles[1]:.2f} | {goal} | {saved} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, ONNX Runtime and OpenVINO")
    parser.add_argument("--rounds", type=int, default=11, help="of the mobile network; a third for large")
    parser.add_argument("--only", choices=("inference", "exported", "training"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
    print(f"torch {torch.__version__}, {args.threads} threads, {device}, Python {platform.python_version()}")
    large = max(3, args.rounds // 3)
    tables: dict[str, list[Callable[[], Iterator[Row]]]] = {
        "inference": [
            lambda: inference("mobile", 1, 3 * args.rounds, args.device),
            lambda: inference("mobile", 8, args.rounds, args.device),
            lambda: inference("large", 1, args.rounds, args.device),
            lambda: inference("large", 4, large, args.device),
        ],
        "exported": [
            lambda: exported("mobile", {1: 3 * args.rounds, 8: args.rounds}, args.threads),
            lambda: exported("large", {1: args.rounds}, args.threads),
        ],
        "training": [lambda: training(8, args.rounds, args.device)],
    }
    found: list[Row] = []
    for name, makers in tables.items():
        if args.only in (None, name) and not (name == "exported" and args.device == "cuda"):
            for make in makers:
                for row in make():
                    print(f"{row.work}, {row.way}: {row.ratio:.2f}", file=sys.stderr)
                    found.append(row)
    print_table(found)


if __name__ == "__main__":
    main()
