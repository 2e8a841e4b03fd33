"""How fast classification reads images and trains: ratios in one process, as a table.

    python -m benchmarks.classification --data DIR

DIR holds `imagenet-sample.zip` (docs/development.md, Tests). Ratios, quartiles and verdicts:
`benchmarks.ratios`.

jpeg: files to normalised float batches, by torchvision's ImageFolder, RandomResizedCrop, flip, ToTensor and
Normalize with PIL, and by ours; as shipped, and upscaled until the longer side has 1,000 px. Batches of 32,
one thread, timed in seconds of a core, so that other processes on the machine matter little.
resident: an epoch on images in memory, by a plain PyTorch script (DataLoader of PIL images with torchvision's
transforms, plain layout) and by ours, with the same network; once for each number of the script's workers.
overhead: a training step in a bare loop and in ours, with the same module and batches.
"""

import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from backbones import processor
from backbones.arguments import whole
from backbones.image_transforms import normalise
from backbones.spec import Preprocessing
from backbones.timing import interleaved
from benchmarks import small_images
from benchmarks.ratios import Row, compare, parser, report
from classification.config import ImageDataConfig
from classification.data import open_images
from classification.decoded_images import DecodedImages, stack
from runtime.loading import ResumableLoader

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32


AS_SHIPPED, LARGE = "JPEG to batch, as shipped", "JPEG to batch, 1,000 px"
GOALS = {(AS_SHIPPED, "ours"): 1.5, (LARGE, "ours"): 2.0}


def jpeg(data: Path, rounds: int, limit: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        shipped, large = Path(folder) / "shipped", Path(folder) / "large"
        _unpack(data / "imagenet-sample.zip", shipped, limit)
        _upscale(shipped, large, 1000)
        yield from _jpeg(AS_SHIPPED, shipped / "val", rounds)
        yield from _jpeg(LARGE, large / "val", rounds)


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


def _jpeg(work: str, folder: Path, rounds: int) -> Iterator[Row]:
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

    seconds = interleaved({"peer": read_peer, "ours": read_own}, rounds, clock=time.process_time)
    yield from compare(work, seconds, GOALS, lambda value: f"{len(images) / value:.1f} images/s")


SECTIONS = ("jpeg", "resident", "overhead")


def main() -> None:
    options = parser(__doc__, rounds=7)
    options.add_argument(
        "--data", type=Path, default=os.environ.get("CELL_DATA"), help="default: environment CELL_DATA"
    )
    options.add_argument("--images", type=whole(1), default=320, help="files per round")
    options.add_argument("--only", choices=SECTIONS, help="one section")
    args = options.parse_args()
    if args.data is None and args.only in (None, "jpeg"):
        options.error("--data is not given and CELL_DATA is not set")
    torch.manual_seed(0)

    def single_threaded() -> Iterator[Row]:
        torch.set_num_threads(1)
        yield from jpeg(args.data, args.rounds, args.images)
        torch.set_num_threads(args.threads)

    torch.set_num_threads(args.threads)
    sections = {
        "jpeg": single_threaded,
        "resident": lambda: small_images.resident(args.rounds, batches=20),
        "overhead": lambda: small_images.overhead(args.rounds, steps=20),
    }
    chosen = [args.only] if args.only else SECTIONS
    report([sections[name] for name in chosen], args, processor.name())


if __name__ == "__main__":
    main()
