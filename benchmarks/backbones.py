"""How fast and how large the networks are against the public ones: ratios in one process, as a table.

    python -m benchmarks.backbones --markdown FILE     all but the levers, about 18 minutes on 2 cores
    python -m benchmarks.backbones --only training --rounds 21
    python -m benchmarks.backbones --only switches     what single levers are worth, about 4 minutes

Peers: `nasnetalarge` of timm, `nasnetamobile` of pretrainedmodels, as they come. Ours holds the peer's
weights, converted, and gives the peer's answers, and in training its loss and gradients, before anything is
timed. Ratios, quartiles and verdicts: `benchmarks.ratios`. Of times the ratio is the peer's through ours, of
memory ours through the peer's.
The machine must be quiet: with two threads, any other process on the cores makes either side several times
slower.
"""

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import processor
from backbones.export import export
from backbones.runtimes import openvino_core
from backbones.spec import ACTIVATION_MEMORY
from backbones.timing import interleaved
from benchmarks import memory, switches
from benchmarks.peers import IN_FLOAT64, check_equal, gradients, pair, training_step
from benchmarks.ratios import Row, compare, mebibytes, parser, report

CHANNELS_LAST = torch.channels_last
RUNTIMES = ("ONNX Runtime", "OpenVINO")
BETTER = "the better of ONNX Runtime and OpenVINO"
STEP = "training step, mobile 224, batch 8"
GOALS: Mapping[tuple[str, str], float] = {
    ("mobile 224, batch 1", "fused"): 2.1,
    ("mobile 224, batch 8", "fused"): 2.1,
    ("large 331, batch 1", "fused"): 1.5,
    ("large 331, batch 4", "fused"): 1.5,
    ("mobile 224, batch 1", BETTER): 3.5,
    ("mobile 224, batch 8", BETTER): 2.9,
    ("large 331, batch 1", BETTER): 1.9,
    (STEP, "keep"): 1.6,
    (STEP, "lean"): 1.3,
    (STEP, "checkpoint"): 1.0,
    (f"{STEP}, saved activations", "keep"): 0.75,
    (f"{STEP}, saved activations", "lean"): 0.5,
    (f"{STEP}, saved activations", "checkpoint"): 0.15,
}
"""On a CPU, by work and way: the least ratio of speed, the largest of memory."""


def timed(work: str, ways: Mapping[str, Callable[[], object]], rounds: int, device: str) -> Iterator[Row]:
    if device == "cuda":
        yield from compare(work, interleaved(ways, rounds, wait=torch.cuda.synchronize), {})
    else:
        yield from compare(work, interleaved(ways, rounds), GOALS)


@torch.inference_mode()
def inference(name: str, batch: int, rounds: int, device: str) -> Iterator[Row]:
    peer, own, size = pair(name)
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
        "fused": lambda: fused(channels_last),
    }
    for way, run in ways.items():
        check_equal(work, way, {"logits": run()}, {"logits": ways["peer"]()})
    if device == "cuda":
        ways["channels-last, bfloat16"] = lambda: _bfloat16(own, channels_last)
    yield from timed(work, ways, rounds, device)


def _bfloat16(net: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        return net(images)


def exported(name: str, rounds: Mapping[int, int], threads: int) -> Iterator[Row]:
    """ONNX Runtime and OpenVINO on the files that `python -m backbones export` writes. rounds: by batch."""
    import onnxruntime

    peer, own, size = pair(name)
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
            model = openvino_core().read_model(xml)
            model.reshape([batch, 3, size, size])
            settings = {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
            }
            compiled = openvino_core().compile_model(model, "CPU", settings)
            images = torch.randn(batch, 3, size, size)
            yield from _exported(f"{name} {size}, batch {batch}", peer, images, session, compiled, count)


@torch.inference_mode()
def _exported(
    work: str, peer: nn.Module, images: Tensor, session: Any, compiled: Any, rounds: int
) -> Iterator[Row]:
    array = images.numpy()
    ways: dict[str, Callable[[], Any]] = {
        "peer": lambda: peer(images),
        "ONNX Runtime": lambda: session.run(["logits"], {"images": array})[0],
        "OpenVINO": lambda: compiled(array)["logits"],
    }
    for way in RUNTIMES:
        check_equal(work, way, {"logits": torch.as_tensor(ways[way]())}, {"logits": peer(images)})
    seconds = interleaved(ways, rounds)
    yield from compare(work, seconds, GOALS)
    better = min((seconds[way] for way in RUNTIMES), key=statistics.median)
    yield from compare(work, {"peer": seconds["peer"], BETTER: better}, GOALS)


def training(batch: int, rounds: int, device: str) -> Iterator[Row]:
    """A step of SGD with momentum, and the bytes kept between its forward and backward pass."""
    peer, own, size = pair("mobile")
    peer, own = peer.to(device), own.to(device)
    work = f"training step, mobile {size}, batch {batch}"
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(own.num_classes, (batch,), device=device)
    pixels = images.contiguous(memory_format=CHANNELS_LAST)
    ways, saved = {"peer": training_step(peer, images, labels)}, {}
    saved["peer"] = [memory.saved_bytes(peer, images)]
    expected = gradients(peer, images, labels)
    for mode in ACTIVATION_MEMORY:
        net = copy.deepcopy(own)
        net.set_activation_memory(mode)
        check_equal(work, mode, gradients(net, pixels, labels), expected, IN_FLOAT64)
        ways[mode] = training_step(net, pixels, labels)
        saved[mode] = [memory.saved_bytes(net, pixels)]
    del expected
    if device == "cuda":
        ways["keep, bfloat16"] = training_step(copy.deepcopy(own), pixels, labels, autocast=True)
    yield from timed(work, ways, rounds, device)
    yield from compare(f"{work}, saved activations", saved, GOALS, mebibytes, less=True)


def resident(batch: int, rounds: int, threads: int, ways: Sequence[str] = ACTIVATION_MEMORY) -> Iterator[Row]:
    """What two steps add to the memory of a process, each in a fresh one."""
    if not memory.STATUS.exists():
        print(f"resident memory: left out, no {memory.STATUS}", file=sys.stderr)
        return
    added: dict[str, list[float]] = {way: [] for way in ("peer", *ways)}
    for _ in range(rounds):
        for way, sizes in added.items():
            sizes.append(memory.resident_bytes(way, batch, threads))
    work = f"training step, mobile 224, batch {batch}, resident memory"
    yield from compare(work, added, GOALS, mebibytes, less=True)


def sections(args: argparse.Namespace) -> dict[str, list[Callable[[], Iterator[Row]]]]:
    """By the name that `--only` knows them by. Where a call takes seconds there are fewer rounds."""
    few, rounds, many = max(1, args.rounds * 2 // 3), args.rounds, 3 * args.rounds
    device, threads = args.device, args.threads
    found: dict[str, list[Callable[[], Iterator[Row]]]] = {
        "inference": [
            lambda: inference("mobile", 1, many, device),
            lambda: inference("mobile", 8, rounds, device),
            lambda: inference("large", 1, rounds, device),
            lambda: inference("large", 4, few, device),
        ],
        "training": [lambda: training(8, rounds, device)],
    }
    if device == "cpu":
        found["training"].append(lambda: resident(8, few, threads))
        found["exported"] = [
            lambda: exported("mobile", {1: many, 8: rounds}, threads),
            lambda: exported("large", {1: rounds}, threads),
        ]
        found["switches"] = [
            lambda: switches.inference(1, many),
            lambda: switches.inference(8, rounds),
            lambda: switches.training(8, rounds),
        ]
    return found


def main() -> None:
    options = parser(__doc__, rounds=11)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--only", choices=("inference", "training", "exported", "switches"))
    args = options.parse_args()
    found = sections(args)
    if args.only is not None and args.only not in found:
        options.error(f"--only {args.only} needs --device cpu")
    chosen = [args.only] if args.only else [name for name in found if name != "switches"]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    name = torch.cuda.get_device_name() if args.device == "cuda" else processor.name()
    report([section for part in chosen for section in found[part]], args, name)


if __name__ == "__main__":
    main()
