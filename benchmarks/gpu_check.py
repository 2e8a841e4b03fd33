"""What a CUDA GPU gives: whether every path is exact there, then one table of speeds, within nine minutes.

    python -m benchmarks.gpu_check --markdown FILE
    python -m benchmarks.gpu_check --device cpu --tiny     every part on a CPU, a minute: a rehearsal

exact: the tests of the GPU. networks: inference and training steps of NASNet-A beside the public networks.
detector: ResNet-50 FPN beside torchvision's, a training step and inference. c4: NASNet-A mobile in the
paper's detector. children: of a search, an hour, by precision, layout and processes on one GPU. A part whose
packages are missing is left out, and so is what does not begin within `--minutes`; the table then says so.
"""

import importlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from backbones import processor
from backbones.arguments import number
from benchmarks.ratios import Row, heading, markdown, parser

TESTS = Path(__file__).resolve().parent.parent / "tests" / "gpu"
DETECTOR_SIDE, C4_SIDE, TINY_SIDE = 640, 600, 96
Section = Callable[[], Iterator[Row]]


def of(module: str, function: str, *arguments: Any) -> Section:
    """A benchmark's section, whose module is imported when it runs: what it lacks is that part's affair."""

    def section() -> Iterator[Row]:
        yield from getattr(importlib.import_module(f"benchmarks.{module}"), function)(*arguments)

    return section


def exact(device: str) -> Iterator[Row]:
    """Runs the tests of a GPU; on a CPU those of them that run there. Raises AssertionError if some fail."""
    marks = "gpu" if device == "cuda" else "not gpu and not slow"
    command = [sys.executable, "-m", "pytest", "-m", marks, "-q", str(TESTS)]
    if subprocess.run(command, cwd=TESTS.parent.parent, stdout=sys.stderr).returncode:
        raise AssertionError("tests/gpu fail")
    yield from ()


def children(device: str, tiny: bool) -> Iterator[Row]:
    from benchmarks import search
    from benchmarks.child_costs import random_cells
    from classification.config import ImageDataConfig
    from search.children.config import ChildConfig

    small: dict[str, Any] = {"filters": 4, "image_size": 8, "cells_per_stage": 1} if tiny else {}
    child = ChildConfig(epochs=1, training=128 if tiny else 1024, validation=64, device=device, **small)
    data = ImageDataConfig(name="digits", flip=False, crop_padding=0)
    yield from search.keys(1, [1] if tiny else [1, 2, 4], data, child, random_cells(1 if tiny else 8))


def parts(device: str, rounds: int, tiny: bool) -> Mapping[str, list[Section]]:
    """By the name that `--skip` knows them by."""
    side, c4_side = (TINY_SIDE, TINY_SIDE) if tiny else (DETECTOR_SIDE, C4_SIDE)
    found: dict[str, list[Section]] = {
        "exact": [lambda: exact(device)],
        "networks": [of("backbones", "inference", "mobile", 1, rounds, device)],
        "detector": [of("detection", way, rounds, side, device) for way in ("training", "inference")],
        "c4": [of("detection_c4", "inference", rounds, None, c4_side, device)],
        "children": [lambda: children(device, tiny)],
    }
    if not tiny:
        found["networks"] += [
            of("backbones", "inference", "mobile", 64, rounds, device),
            of("backbones", "inference", "large", 16, rounds, device),
            of("backbones", "training", 64, rounds, device),
        ]
    return found


def main() -> int:
    options = parser(str(__doc__), rounds=7)
    add = options.add_argument
    add("--device", choices=("cpu", "cuda"), default="cuda")
    add("--skip", nargs="+", choices=tuple(parts("cpu", 1, True)), default=[], help="parts to leave out")
    add("--minutes", type=number(0.1, 600), default=9.0, help="after which no part begins (default 9)")
    add("--tiny", action="store_true", help="small sizes: a rehearsal")
    args = options.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "benchmarks.gpu_check: PyTorch finds no CUDA GPU on this machine; --device cpu --tiny rehearses"
        )
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    rows, notes = run(
        {
            name: part
            for name, part in parts(args.device, args.rounds, args.tiny).items()
            if name not in args.skip
        },
        60 * args.minutes,
    )
    name = torch.cuda.get_device_name() if args.device == "cuda" else processor.name()
    text = "\n\n".join([f"{heading(args, name)}:", markdown(rows), *notes]) + "\n"
    print(text)
    if args.markdown is not None:
        args.markdown.write_text(text)
    return int(any("not equal" in note for note in notes))


def run(chosen: Mapping[str, list[Section]], seconds: float) -> tuple[list[Row], list[str]]:
    """The rows of all sections, to stderr as they come, and what is to be said of others. seconds: in which
    the last of them may begin."""
    start, rows, notes = time.monotonic(), list[Row](), list[str]()
    for name, sections in chosen.items():
        for place, section in enumerate(sections, start=1):
            where = f"{name} {place} of {len(sections)}"
            if time.monotonic() - start > seconds:
                notes.append(f"{where}: left out, the time was over")
                continue
            print(f"{where}, after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            try:
                for row in section():
                    print(" | ".join(row.cells()), file=sys.stderr, flush=True)
                    rows.append(row)
            except ImportError as error:
                notes.append(f"{where}: left out, {error}")
            except AssertionError as error:
                notes.append(f"{where}: not equal: {error}")
            except torch.OutOfMemoryError as error:
                notes.append(f"{where}: left out, {str(error).splitlines()[0]}")
    return rows, notes


if __name__ == "__main__":
    sys.exit(main())
