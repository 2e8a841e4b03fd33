"""How fast models look at pictures: the options, the measurement and the table of the `speed` commands.

The models are loaded into one process, and rounds are interleaved: in each round every model looks at the
same picture once, and who begins changes. Timed is one picture at a time, from pixels in memory to the
answer: scaling, normalising, the network, and what makes boxes of its maps. Files are read before. The memory
is the peak of a process of its own, which loads one model and looks at the pictures: Python, the runtime and
all.
"""

import argparse
import itertools
import json
import multiprocessing
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backbones import processor
from backbones.arguments import whole
from backbones.exported import RUNTIMES, check_precision
from backbones.files import check_output, existing, write_atomically
from backbones.timing import Quartiles, interleaved, quartiles
from backbones.words import counted, printable

PRECISIONS = ("f32", "bf16")
PYTORCH, WEIGHTS = "PyTorch", ".safetensors"
"""What runs weights, and how their files end."""
PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino")
STATUS = Path("/proc/self/status")
SYNTHETIC_SIZE = (480, 640)
SYNTHETIC = 4
"""Pictures that are made where none are given."""
LONGEST_NAME = 40
"""Letters of a model's name in the table."""

Step = Callable[[Image.Image], object]


@dataclass(frozen=True)
class Model:
    """What is timed. name: as the user named it. engine: what runs it, such as `ONNX Runtime`. precision: one
    of PRECISIONS.

    load: given the number of threads, returns what looks at one picture. It is sent to a process of its own,
    so it is a function of a module or a `partial` of one. Raises ValueError, OSError or ImportError that
    names the file."""

    name: str
    engine: str
    precision: str
    load: Callable[[int], Step]


@dataclass(frozen=True)
class Speed:
    """milliseconds: of each round. peak_bytes: None where the system does not say, which is not Linux."""

    name: str
    engine: str
    precision: str
    milliseconds: list[float]
    peak_bytes: int | None

    @property
    def quartiles(self) -> Quartiles:
        return quartiles(self.milliseconds)

    def through(self, first: "Speed") -> float:
        """How many times faster than `first`: the median over the rounds, each of which saw one picture."""
        pairs = zip(first.milliseconds, self.milliseconds, strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of every `speed` command, but for `--size`."""
    add = parser.add_argument
    add("--images", nargs="+", metavar="PATH", help="pictures: files, folders, patterns (default: synthetic)")
    add("--precision", nargs="+", choices=PRECISIONS, default=["f32"], help="one or both (default f32)")
    add("--threads", type=whole(1), default=1, help="of each runtime (default 1)")
    add("--warm-up", type=whole(1), default=3, help="rounds that do not count (default 3)")
    add("--rounds", type=whole(1), default=20, help="rounds that count (default 20)")
    add("--json", type=Path, metavar="FILE", help="write the table there, with the times of all rounds")


def suffix_of(name: str, content: str, precision: str) -> str:
    """Of a file that can be timed: WEIGHTS or one of RUNTIMES. content: what it holds, for a message.

    Raises FileNotFoundError or ValueError that names the file."""
    suffix = existing(name, content).suffix
    if suffix != WEIGHTS and suffix not in RUNTIMES:
        raise ValueError(f"{name}: expected a file that ends in {', '.join([WEIGHTS, *RUNTIMES])}")
    check_precision(name, precision)
    return suffix


def synthetic(height: int, width: int) -> list[Image.Image]:
    """SYNTHETIC pictures of coloured patches of many sizes, the same ones each time."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(SYNTHETIC):
        total = np.zeros((height, width, 3))
        for cells in (2, 5, 12, 30):
            patches = generator.integers(0, 64, (cells, cells, 3))
            rows, columns = (np.arange(side) * cells // side for side in (height, width))
            total += patches[rows[:, None], columns]
        pictures.append(Image.fromarray(total.astype(np.uint8)))
    return pictures


def measure(
    models: Sequence[Model], pictures: Sequence[Image.Image], threads: int, warm_up: int, rounds: int
) -> list[Speed]:
    """Speeds in the order of `models`. Raises what `Model.load` raises, before anything is timed."""
    peaks = [_peak_alone(model, pictures, threads) for model in models]
    ways: dict[str, Callable[[], object]] = {}
    for place, model in enumerate(models):
        step, seen = model.load(threads), itertools.cycle(pictures)
        ways[str(place)] = lambda step=step, seen=seen: step(next(seen))  # type: ignore[misc]
    seconds = interleaved(ways, rounds, warm_up=warm_up)
    return [
        Speed(model.name, model.engine, model.precision, [1e3 * value for value in values], peak)
        for model, values, peak in zip(models, seconds.values(), peaks, strict=True)
    ]


def _peak_alone(model: Model, pictures: Sequence[Image.Image], threads: int) -> int | None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(peak_bytes, model, pictures, threads).result()
        except BrokenProcessPool:
            raise ValueError(
                f"{model.name}: the process that measured its memory was ended, as where there is not enough"
            ) from None


def peak_bytes(model: Model, pictures: Sequence[Image.Image], threads: int) -> int | None:
    """Peak resident memory of this process once the model has looked at every picture."""
    step = model.load(threads)
    for picture in pictures:
        step(picture)
    if not STATUS.is_file():
        return None
    # Not `ru_maxrss`, which begins at the parent's peak.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def report(
    models: Sequence[Model],
    pictures: Sequence[Image.Image],
    options: argparse.Namespace,
    said: Mapping[str, Any],
) -> None:
    """Measures, prints the table, and writes it where `--json` says. said: more of the protocol."""
    if options.json is not None:
        check_output(options.json)
    speeds = measure(models, pictures, options.threads, options.warm_up, options.rounds)
    protocol = {
        "threads": options.threads,
        "warm_up": options.warm_up,
        "rounds": options.rounds,
        "pictures": len(pictures),
        "picture_sizes": sorted({(picture.height, picture.width) for picture in pictures}),
        **said,
    }
    content = {
        "date": str(date.today()),
        "processor": {
            "name": processor.name(),
            "cores": processor.cores(),
            "features": processor.features(),
        },
        "versions": _versions(),
        "protocol": protocol,
        "models": [
            {
                **asdict(speed),
                "quartiles": speed.quartiles._asdict(),
                "images_per_second": 1e3 / speed.quartiles.median,
                "times_the_first": speed.through(speeds[0]),
            }
            for speed in speeds
        ],
    }
    Console(width=150).print(_table(speeds))
    print(f"{heading()}\n{_protocol(options, pictures)}")
    if options.json is not None:
        write_atomically(options.json, json.dumps(content, indent=2) + "\n")


def heading() -> str:
    """The processor, what it offers, and the versions of the runtimes."""
    offered = processor.features()
    if offered is None:
        features = "its features are not known"
    else:
        features = ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in offered.items())
    versions = ", ".join(f"{name} {found}" for name, found in _versions().items())
    return f"{processor.name()}, {counted(processor.cores(), 'core')}: {features}; {versions}"


def _protocol(options: argparse.Namespace, pictures: Sequence[Image.Image]) -> str:
    return (
        f"{counted(options.threads, 'thread')}, one picture at a time, "
        f"{counted(len(pictures), 'picture')} in turn; medians and quartiles of "
        f"{counted(options.rounds, 'interleaved round')} after {options.warm_up}; "
        "peak memory of a process with this model alone"
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _table(speeds: Sequence[Speed]) -> Table:
    table = Table()
    table.add_column("model", no_wrap=True)
    for heading in ("engine", "precision"):
        table.add_column(heading)
    for heading in ("ms", "quartiles", "images/s", "times the first", "memory"):
        table.add_column(heading, justify="right")
    for name, speed in zip(short_names([speed.name for speed in speeds]), speeds, strict=True):
        lower, median, upper = speed.quartiles
        table.add_row(
            escape(printable(name)),
            speed.engine,
            speed.precision,
            f"{median:.1f}",
            f"{lower:.1f} to {upper:.1f}",
            f"{1e3 / median:.2f}",
            f"{speed.through(speeds[0]):.2f}",
            "–" if speed.peak_bytes is None else f"{speed.peak_bytes / 2**20:,.0f} MiB",
        )
    return table


def short_names(names: Sequence[str]) -> list[str]:
    """The names; of long paths the end by which they differ, of LONGEST_NAME letters at most."""
    paths = {name: Path(name).parts for name in names}

    def short(name: str) -> str:
        if len(name) <= LONGEST_NAME:
            return name
        parts = paths[name]
        differs = (
            count
            for count in range(1, len(parts))
            if sum(other[-count:] == parts[-count:] for other in paths.values()) == 1
        )
        end = str(Path("…", *parts[-next(differs, len(parts)) :]))
        return end if len(end) <= LONGEST_NAME else f"…{end[1 - LONGEST_NAME :]}"

    return [short(name) for name in names]
