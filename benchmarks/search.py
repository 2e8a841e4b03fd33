"""Children of a search: what they are predicted to cost, and how many an hour trains.

python -m benchmarks.search costs       predicted against measured CPU seconds and memory of random cells
python -m benchmarks.search children    children per hour against a plain loop, on real images
python -m benchmarks.search keys        children per hour under keys of `child` and of `executor=process`
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backbones import processor
from backbones.genotype import Genotype
from benchmarks.child_costs import costs, random_cells, run_all
from benchmarks.plain_child import PlainLoop
from benchmarks.ratios import Row, compare, parser, report
from classification.config import ImageDataConfig
from runtime.random import derive
from search.children.config import ChildConfig
from search.children.evaluators import OpenTraining
from search.executors.config import ProcessConfig

WALL, CPU = "wall time of a child", "CPU seconds of a child"
GOALS = {(WALL, "executor=process"): 1.7}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"precision": "32-true", "channels_last": False},
    {"precision": "32-true", "channels_last": True},
    {"precision": "bf16-mixed", "channels_last": True},
)
LEARNING: dict[str, Any] = {"cells_per_stage": 1, "batch_size": 32, "lr": 0.05}
"""Children that learn clearly more than chance in 124 steps, for `children`, whose accuracies are printed."""
Samples = dict[str, list[float]]


def children(
    rounds: int, cores: int, data: ImageDataConfig, child: ChildConfig, cells: Sequence[Genotype]
) -> Iterator[Row]:
    """Each round trains all cells both ways: one after the other on all cores, and one on each core."""
    opener = OpenTraining(data, child, seed=0)
    ways = ("plain", "executor=process")
    walls: Samples = {way: [] for way in ways}
    used: Samples = {way: [] for way in ways}
    accuracies: Samples = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainLoop(Path(folder), opener().images, child, threads=cores)
        plain.write_images()
        with closing(ProcessConfig(workers=cores).build(opener, "benchmark")) as executor:
            run_all(executor, cells[:cores])  # until the workers are warm
            for number in range(rounds):
                for way in ways[:: 1 if number % 2 else -1]:
                    start = time.perf_counter()
                    if way == "plain":
                        done = [plain.train(cell, derive(0, "child", cell.key)) for cell in cells]
                    else:
                        done = [(each.reward or 0, each.cpu_seconds) for each in run_all(executor, cells)]
                    walls[way].append((time.perf_counter() - start) / len(cells))
                    used[way].append(statistics.mean(seconds for _, seconds in done))
                    accuracies[way].append(statistics.mean(accuracy for accuracy, _ in done))
    yield from compare(WALL, walls, GOALS, an_hour)
    yield from compare(CPU, used, {}, lambda seconds: f"{seconds:.1f} s")
    yield from compare("accuracy", accuracies, {}, lambda accuracy: f"{100 * accuracy:.1f} %", less=True)


def keys(
    rounds: int,
    per_device: Sequence[int],
    data: ImageDataConfig,
    child: ChildConfig,
    cells: Sequence[Genotype],
) -> Iterator[Row]:
    """Wall time of a child under the keys that a GPU knows, workers on one device included."""
    walls: Samples = {}
    for _ in range(rounds):
        for setting in SETTINGS:
            for workers in per_device:
                name = " ".join(f"{key}={value}" for key, value in {**setting, "workers": workers}.items())
                opener = OpenTraining(data, replace(child, **setting), seed=0)
                config = ProcessConfig(workers=workers, workers_per_gpu=workers)
                with closing(config.build(opener, "benchmark")) as executor:
                    run_all(executor, cells[:workers])  # until the workers are warm
                    start = time.perf_counter()
                    run_all(executor, cells)
                    walls.setdefault(name, []).append((time.perf_counter() - start) / len(cells))
    yield from compare(f"{WALL}, {next(iter(walls))}", walls, {}, an_hour)


def an_hour(wall: float) -> str:
    return f"{3600 / wall:.0f} an hour"


def main() -> None:
    arguments = parser(__doc__ or "", rounds=3)
    arguments.add_argument("what", choices=("costs", "children", "keys"))
    arguments.add_argument("--cells", type=int, help="random cells, default 50; for `children` 2")
    arguments.add_argument("--steps", type=int, default=3, help="of each child, for `costs`")
    arguments.add_argument("--data", default="digits", help="the `data` group's name, default digits")
    arguments.add_argument("--root", help="folder of the data set")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="on one device, for `keys`")
    arguments.add_argument("--filters", type=int, help="default 24; for `children` 8")
    arguments.add_argument("--epochs", type=int, help="default 1; for `children` 2")
    arguments.add_argument(
        "--training", type=int, help="images that train a child, default 1024; for `children` 2000"
    )
    args = arguments.parse_args()
    small = args.what == "children"
    cells = args.cells or (2 if small else 50)
    training = args.training or (2000 if small and args.data != "digits" else 1024)
    child = ChildConfig(
        filters=args.filters or (8 if small else ChildConfig.filters),
        epochs=args.epochs or (2 if small else 1),
        device=args.device,
        **(LEARNING if small else {}),
    )
    if args.what == "costs":
        table = costs(cells, args.steps, child)
        print(table)
        if args.markdown is not None:
            args.markdown.write_text(f"{table}\n")
        return
    child = replace(child, training=training, validation=training // 4)
    digits: dict[str, Any] = {"flip": False, "crop_padding": 0} if args.data == "digits" else {}
    data, genotypes = ImageDataConfig(name=args.data, root=args.root, **digits), random_cells(cells)
    if args.what == "children":
        section = partial(children, args.rounds, args.threads, data, child, genotypes)
    else:
        section = partial(keys, args.rounds, args.workers, data, child, genotypes)
    report([section], args, torch.cuda.get_device_name() if args.device == "cuda" else processor.name())


if __name__ == "__main__":
    main()
