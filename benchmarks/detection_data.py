"""How fast and how large COCO's annotations are read: ratios in one run, as a table.

    python -m benchmarks.detection_data --markdown FILE     about 6 minutes, 1 GB of disk, 5 GB of memory

An annotation file of the size of COCO's train2017 is generated: 118,287 images, 860,001 boxes with polygons,
or run lengths for crowds. The images are hard links to four JPEG files. The peer is `pycocotools.COCO` with
torchvision's `CocoDetection` in a `DataLoader`. Each side runs in a fresh process, and time begins after its
imports. Ratios, quartiles and verdicts: `benchmarks.ratios`.

first batch: 16 images with a short side of 800 px, everything in one process. Ours also checks all rules, and
that all images are there. Memory is the peak of the whole process, PyTorch included.
workers: what two workers come to hold for themselves alone while they read the targets of all images.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbones import processor
from benchmarks.memory import REPOSITORY, STATUS
from benchmarks.ratios import Row, compare, mebibytes, parser, report
from detection.data.images import open_split

IMAGES, BOXES, CATEGORIES = 118_287, 860_001, 80
SIZES = ((640, 480), (480, 640), (640, 427), (500, 375))
BATCH, SHORT, LONG = 16, 800, 1333
TIME, MEMORY, WORKERS = "to the first batch", "to the first batch, peak memory", "two workers' own memory"
GOALS = {(TIME, "ours"): 2.0, (MEMORY, "ours"): 0.4, (WORKERS, "ours"): 0.1}


def generate(folder: Path, images: int = IMAGES, boxes: int = BOXES) -> None:
    """Writes `annotations.json` and `images/`, whose files are links to a few."""
    generator = np.random.default_rng(0)
    pictures = folder / "images"
    pictures.mkdir()
    for number, size in enumerate(SIZES):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    for image in range(images):
        os.link(folder / f"{image % len(SIZES)}.jpg", pictures / f"{image + 1:012d}.jpg")
    polygons = [_polygon(generator) for _ in range(5000)]
    run_lengths = [_run_lengths(generator) for _ in range(50)]
    of_image = generator.integers(0, images, boxes)
    with (folder / "annotations.json").open("w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        file.write(", ".join(_image(image) for image in range(images)))
        file.write('], "annotations": [')
        for box, image in enumerate(of_image.tolist()):
            crowd = box % 85 == 0
            shape = run_lengths[box % len(run_lengths)] if crowd else polygons[box % len(polygons)]
            file.write(f"{', ' if box else ''}{_annotation(box, image, shape, crowd)}")
        names = ", ".join(f'{{"id": {k + 1}, "name": "thing {k}"}}' for k in range(CATEGORIES))
        file.write(f'], "categories": [{names}]}}')


def _polygon(generator: np.random.Generator) -> str:
    points = generator.uniform(0, 400, 2 * int(generator.integers(8, 41))).round(2).tolist()
    return json.dumps([points], separators=(",", ":"))


def _run_lengths(generator: np.random.Generator) -> str:
    return json.dumps({"counts": generator.integers(1, 900, 600).tolist(), "size": [480, 640]})


def _image(image: int) -> str:
    width, height = SIZES[image % len(SIZES)]
    name = f"{image + 1:012d}.jpg"
    return (
        f'{{"license": 3,"file_name": "{name}","coco_url": "http://images.cocodataset.org/train2017/{name}",'
        f'"height": {height},"width": {width},"date_captured": "2013-11-14 11:18:45",'
        f'"flickr_url": "http://farm9.staticflickr.com/8186/{image:010d}_e3c9d7a6_z.jpg","id": {image + 1}}}'
    )


def _annotation(box: int, image: int, shape: str, crowd: bool) -> str:
    left, top, width, height = box % 199 + 0.25, box % 173 + 0.5, box % 97 + 20.75, box % 89 + 30.5
    return (
        f'{{"segmentation": {shape}, "area": {width * height / 2:.4f}, "iscrowd": {int(crowd)}, '
        f'"image_id": {image + 1}, "bbox": [{left}, {top}, {width}, {height}], '
        f'"category_id": {box % CATEGORIES + 1}, "id": {box + 1}}}'
    )


class PeerTargets(Dataset[int]):
    """Every image's boxes and labels as tensors, without the image."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> int:
        return len(_peer_target(self.images._load_target(self.images.ids[index]))["boxes"])


class OwnTargets(PeerTargets):
    def __getitem__(self, index: int) -> int:
        return len(self.images.coco.targets(index)[0])


def _peer_target(annotations: list[dict[str, Any]]) -> dict[str, Tensor]:
    boxes = torch.tensor([a["bbox"] for a in annotations if not a["iscrowd"]]).reshape(-1, 4)
    labels = torch.tensor([a["category_id"] for a in annotations if not a["iscrowd"]])
    return {"boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), "labels": labels}


def _peer_sample(image: Image.Image, annotations: list[dict[str, Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    from torchvision.transforms import v2

    picture = v2.functional.pil_to_tensor(v2.functional.resize(image, [SHORT], max_size=LONG))
    return picture, _peer_target(annotations)


def open_peer(folder: Path) -> tuple[Any, Any]:
    """The images, and a loader of batches."""
    from torchvision.datasets import CocoDetection

    images = CocoDetection(str(folder / "images"), str(folder / "annotations.json"), transforms=_peer_sample)
    generator = torch.Generator().manual_seed(0)
    return images, DataLoader(images, BATCH, shuffle=True, generator=generator, collate_fn=list)


def open_own(folder: Path) -> tuple[Any, Any]:
    """The images, and a loader of batches."""
    from detection.data.config import CocoDataConfig
    from detection.data.images import collate
    from runtime.loading import ResumableLoader

    config = CocoDataConfig(
        root=str(folder),
        train_images="images",
        train_annotations="annotations.json",
        min_sizes=[SHORT],
        max_size=LONG,
        flip=False,
    )
    images = open_split(config, "train")
    return images, ResumableLoader(images, BATCH, seed=0, shuffle=True, collate=collate)


IMPORTS = {
    "peer": ("pycocotools.coco", "torchvision.datasets", "torchvision.transforms.v2"),
    "ours": ("detection.data", "runtime.loading"),
}
SIDES: dict[str, tuple[Callable[[Path], tuple[Any, Any]], type[PeerTargets]]] = {
    "peer": (open_peer, PeerTargets),
    "ours": (open_own, OwnTargets),
}


def measure(side: str, folder: Path) -> dict[str, float]:
    """In this process: seconds and peak bytes until the first batch, then bytes that two workers add."""
    for module in IMPORTS[side]:
        importlib.import_module(module)
    open_side, targets = SIDES[side]
    start = time.perf_counter()
    images, loader = open_side(folder)
    first = next(iter(loader))
    seconds = time.perf_counter() - start
    assert len(first) == BATCH
    peak = _bytes(STATUS, "VmHWM")
    del first, loader
    readers = DataLoader(targets(images), 512, num_workers=2, collate_fn=sum, persistent_workers=True)
    batches = iter(readers)
    boxes = next(batches)
    before = _own_bytes()
    boxes += sum(batches)
    return {TIME: seconds, MEMORY: peak, WORKERS: _own_bytes() - before, "boxes": boxes}


def _own_bytes() -> int:
    """What the workers share with nobody."""
    paths = [Path(f"/proc/{worker.pid}/smaps_rollup") for worker in multiprocessing.active_children()]
    return sum(_bytes(path, field) for path in paths for field in ("Private_Clean", "Private_Dirty"))


def _bytes(path: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def reading(rounds: int, threads: int, images: int = IMAGES, boxes: int = BOXES) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        print(f"generating {images} images and {boxes} boxes", file=sys.stderr)
        generate(Path(folder), images, boxes)
        samples: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds + 1):  # the first fills the disk's cache and does not count
            for side in list(SIDES)[:: 1 if number % 2 else -1]:
                for work, value in _in_fresh_process(side, folder, threads).items():
                    if number:
                        samples.setdefault(work, {}).setdefault(side, []).append(value)
        found = samples.pop("boxes")
        if found["peer"] != found["ours"]:
            raise AssertionError(f"the sides read different numbers of boxes: {found}")
        for work, values in samples.items():
            ordered = {side: values[side] for side in SIDES}
            show = _seconds if work == TIME else mebibytes
            yield from compare(work, ordered, GOALS, show, less=work != TIME)


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _in_fresh_process(side: str, folder: str, threads: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.detection_data", "--side", side, "--folder", folder]
    command.append(f"--threads={threads}")
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.set_defaults(threads=1)
    options.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if not STATUS.exists():
        sys.exit(f"no {STATUS}: the memory of a process is read there, on Linux")
    torch.set_num_threads(args.threads)
    if args.side is not None:
        print(json.dumps(measure(args.side, args.folder)))
        return
    report([lambda: reading(args.rounds, args.threads)], args, processor.name())


if __name__ == "__main__":
    main()
