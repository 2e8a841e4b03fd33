"""How fast classification reads images: ratios in one process, rounds interleaved, medians.

    python -m benchmarks.classification --data DIR

DIR holds `imagenet-sample.zip` (docs/development.md, Tests). Both sides are timed in seconds of a core, so
other processes on the machine matter little. A ratio is the median over rounds of the peer's time through
ours in the same round: above 1 is faster.

jpeg: files to normalised float batches, by torchvision's ImageFolder, RandomResizedCrop, flip, ToTensor and
Normalize with PIL, and by ours; as shipped, and upscaled until the longer side has 1,000 px.
Batches of 32.

Not here yet: an epoch on images in memory against a plain PyTorch script, and the overhead of a step.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from backbones.spec import Preprocessing
from backbones.transforms import normalise
from classification.data import ImageDataConfig, open_images
from classification.decoded_images import DecodedImages, stack
from runtime.loading import ResumableLoader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32


@dataclass(frozen=True)
class Row:
    """A line of the table: work, its units per second and core, the ratio, the one aimed at."""

    work: str
    unit: str
    peer: float
    own: float
    ratio: float
    quartiles: tuple[float, float]
    goal: float

    def __str__(self) -> str:
        return (
            f"| {self.work} | {self.peer:.1f} {self.unit} | {self.own:.1f} {self.unit} | {self.ratio:.2f} "
            f"| {self.quartiles[0]:.2f} to {self.quartiles[1]:.2f} "
            f"| {self.goal:.1f} {'met' if self.ratio >= self.goal else 'missed'} |"
        )


def interleaved(
    peer: Callable[[], object], own: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of a core for both in every round, after one that does not count; who begins alternates."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for side in (0, 1) if round_ % 2 else (1, 0):
            start = time.process_time()
            (peer, own)[side]()
            if round_:
                seconds[side].append(time.process_time() - start)
    return seconds


def row(work: str, count: int, unit: str, peer: list[float], own: list[float], goal: float) -> Row:
    """count: units of work per round, given as `unit` per second."""
    lower, median, upper = statistics.quantiles([a / b for a, b in zip(peer, own, strict=True)], n=4)
    rates = (count / statistics.median(seconds) for seconds in (peer, own))
    return Row(work, unit, *rates, median, (lower, upper), goal)


def jpeg(data: Path, rounds: int, limit: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        shipped, large = Path(folder) / "shipped", Path(folder) / "large"
        _unpack(data / "imagenet-sample.zip", shipped, limit)
        _upscale(shipped, large, 1000)
        yield _jpeg("JPEG to batch, as shipped", shipped / "val", rounds, 1.5)
        yield _jpeg("JPEG to batch, 1,000 px", large / "val", rounds, 2.0)


def _unpack(archive: Path, folder: Path, limit: int) -> None:
    """Spreads `limit` files over all that there are."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if not name.endswith("/"))
        file.extractall(folder, names[:: max(1, len(names) // limit)][:limit])


def _upscale(source: Path, target: Path, longer: int) -> None:
    for path in source.rglob("*.JPEG"):
        with Image.open(path) as file:
            scale = longer / max(file.size)
            size = (round(file.width * scale), round(file.height * scale))
            image = file.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        image.save(copy, quality=85)  # as the sample


def _jpeg(work: str, folder: Path, rounds: int, goal: float) -> Row:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    peer = DataLoader(ImageFolder(str(folder), transform), BATCH, shuffle=True)
    preprocessing = Preprocessing(224, MEAN, STD)
    config = ImageDataConfig(name="imagefolder", root=str(folder.parent), train_folder=folder.name)
    images = DecodedImages(open_images(config, "train"), preprocessing, train=True, area_min=0.08)
    own = ResumableLoader(images, BATCH, seed=0, shuffle=True, collate=stack)

    def read_peer() -> None:
        for _ in peer:
            pass

    def read_own() -> None:
        for batch, _ in own:
            normalise(batch, preprocessing)

    return row(work, len(images), "images/s", *interleaved(read_peer, read_own, rounds), goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("CELL_DATA"), help="default: environment CELL_DATA"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=320, help="files per round")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data is not given and CELL_DATA is not set")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {args.threads} threads, {platform.processor() or 'CPU'}, "
        f"Python {platform.python_version()}"
    )
    found = []
    for line in jpeg(args.data, args.rounds, args.images):
        print(line, file=sys.stderr)
        found.append(line)
    print("\n| work | peer | ours | ratio | quartiles | goal |\n|---|---|---|---|---|---|")
    print(*found, sep="\n")


if __name__ == "__main__":
    main()
