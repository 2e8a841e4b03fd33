"""Each reader of files from outside, with files that it reads: what `tests/fuzz` and `make fuzz` break.

The rule for all: any bytes give a value, or a ValueError or OSError whose text names the file.
"""

import functools
import gzip
import io
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import yaml
from cifar_batch import batch
from PIL import Image
from written_run import CELL, GENOTYPE, write_classification, write_data, write_detection, write_search

from backbones import weights
from backbones.genotype import Genotype
from backbones.metadata import read_metadata
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from classification.archives import read_cifar10, read_fashion_mnist
from classification.mistakes import read_mistakes
from detection.data.annotations import read_coco
from detection.data.voc_labels import read_voc
from detection.data.yolo_labels import read_yolo
from detection.data.yolo_lists import listed_images
from detection.evaluation.curves import read_curves
from detection.evaluation.results_file import read_results
from pipeline.results import Results
from runtime.csv_logger import CsvLogger
from runtime.folder import RunFolder
from runtime.pictures import decode
from search.ledger.reader import read_children
from search.ledger.writer import Ledger

REFUSALS = (ValueError, OSError)
"""What a reader may raise."""


@dataclass(frozen=True)
class Target:
    """`read(path)` reads the file `name` of a folder that `prepare(folder)` filled with all else it needs.

    seeds: contents that are read without an error. named: an error names the file. examples: in the suite,
    fewer for slow readers."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    prepare: Callable[[Path], Any] = lambda folder: None
    examples: int = 60


def refusal(target: Target, folder: Path, data: bytes) -> Exception | None:
    """What the reader says of `data`, None where it reads it. Raises what no reader should raise."""
    path = folder / target.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        target.read(path)
    except REFUSALS as error:
        return error
    return None


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def written(write: Callable[[Path], Any], name: str) -> list[bytes]:
    """What `write` leaves in the file `name` of the folder that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return [(Path(folder) / name).read_bytes()]


def small_backbone(folder: Path) -> None:
    torch.manual_seed(0)
    network = NASNet(NetworkSpec(Genotype(CELL, CELL), 1, 8, stem_filters=8, image_size=64), num_classes=2)
    weights.save(network, folder / "backbone.safetensors", classes=["a", "b"])


def cifar_batch() -> bytes:
    return batch(np.zeros((3, 3072), np.uint8), [0, 1, 9])


def other_batches(folder: Path) -> None:
    for number in range(2, 6):
        (folder / f"data_batch_{number}").write_bytes(cifar_batch())


def idx(*sizes: int) -> bytes:
    header = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    return header + bytes(int(np.prod(sizes)))


def picture(form: str, orientation: int = 1) -> bytes:
    """9 x 6 pixels. orientation: in EXIF."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, form, **{"exif": exif} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {})
    return buffer.getvalue()


FORMS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
COCO = {
    "info": {"year": 2026},
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [1.5, 2, 10, 12],
            "area": 120.0,
            "iscrowd": 0,
            "segmentation": [[1, 2, 11, 2, 11, 14]],
        },
        {
            "id": 2,
            "image_id": 1,
            "category_id": 5,
            "bbox": [0, 0, 64, 48],
            "iscrowd": 1,
            "segmentation": {"counts": [0, 3072], "size": [48, 64]},
        },
    ],
}
RESULTS = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4.5], "score": 0.5}]
VOC = b"""<annotation><folder>x</folder><filename>a.png</filename>
<size><width>9</width><height>6</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>8</xmax><ymax>5</ymax></bndbox></object></annotation>"""


@functools.cache
def coco() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.json"
        path.write_bytes(encoded(COCO))
        return read_coco(path)[0]


def yolo_folder(folder: Path) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "images" / "a.png").write_bytes(picture("PNG"))
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.1 0.1 0.2 0.2\n")
    (folder / "data.yaml").write_text("names: [cat, dog]\nnc: 2\n")


def voc_folder(folder: Path) -> None:
    (folder / "JPEGImages").mkdir(exist_ok=True)
    (folder / "JPEGImages" / "a.png").write_bytes(picture("PNG"))


def whole_run(folder: Path) -> None:
    if not (folder / "search").exists():
        for name in ("search", "classification", "detection"):
            (folder / name).mkdir()
        write_search(folder / "search")
        write_classification(folder / "classification")
        write_detection(folder / "detection", write_data(folder / "data"))


def run_file(name: str) -> Target:
    """A file that the report reads, which notes what it cannot read and goes on."""
    return Target(
        name,
        lambda: written(whole_run, name),
        lambda path: Results.read(path.parent.parent),
        whole_run,
    )


def stored_run(folder: Path) -> None:
    RunFolder.open(str(folder), {"lr": 0.1, "name": "x", "list": [1, 2]}, stage="search")


def reopen(path: Path) -> None:
    stored_run(path.parent)


def resumed_csv(path: Path) -> None:
    logger = CsvLogger(path)
    logger.log_metrics({"loss": 0.5}, step=30)
    logger.finalize("success")


def ledger(folder: Path) -> None:
    write_search(folder)


TARGETS: Mapping[str, Target] = {
    "genotype": Target("one.json", lambda: [encoded(GENOTYPE.to_dict())], Genotype.load),
    "metadata": Target(
        "backbone.safetensors",
        lambda: written(small_backbone, "backbone.safetensors"),
        lambda path: read_metadata(path, "backbone"),
    ),
    "backbone": Target(
        "backbone.safetensors",
        lambda: written(small_backbone, "backbone.safetensors"),
        weights.load,
        examples=30,
    ),
    "coco": Target("instances.json", lambda: [encoded(COCO)], read_coco),
    "results": Target(
        "predictions.json", lambda: [encoded(RESULTS)], lambda path: read_results(path, coco())
    ),
    "yolo_labels": Target(
        "labels/a.txt",
        lambda: written(yolo_folder, "labels/a.txt"),
        lambda path: read_yolo(path.parent.parent, None),
        yolo_folder,
    ),
    "yolo_yaml": Target(
        "data.yaml",
        lambda: [b"names: [cat, dog]\nnc: 2\n", b"names:\n  0: cat\n  1: dog\n"],
        lambda path: read_yolo(path.parent, None),
        yolo_folder,
    ),
    "yolo_list": Target(
        "train.txt",
        lambda: [b"./images/a.png\nimages/a.png\n\n/elsewhere/b.jpg\n"],
        lambda path: listed_images([path], path.parent),
    ),
    "yolo_classes": Target(
        "classes.txt",
        lambda: [b"cat\ndog\n"],
        lambda path: read_yolo(path.parent, None),
        lambda folder: (yolo_folder(folder), (folder / "data.yaml").unlink()),
    ),
    "voc": Target(
        "Annotations/a.xml", lambda: [VOC], lambda path: read_voc(path.parent.parent, None), voc_folder
    ),
    "cifar10_python": Target(
        "cifar-10-batches-py/data_batch_1",
        lambda: [cifar_batch()],
        lambda path: read_cifar10(path.parent, "train"),
        lambda folder: (
            (folder / "cifar-10-batches-py").mkdir(exist_ok=True),
            other_batches(folder / "cifar-10-batches-py"),
        ),
    ),
    "cifar10_binary": Target(
        "cifar-10-batches-bin/test_batch.bin",
        lambda: [bytes(3073) + b"\x03" + bytes(3072)],
        lambda path: read_cifar10(path.parent, "test"),
    ),
    "idx_images": Target(
        "t10k-images-idx3-ubyte",
        lambda: [idx(2, 28, 28)],
        lambda path: read_fashion_mnist(path.parent, "test"),
        lambda folder: (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(2)),
    ),
    "idx_packed": Target(
        "t10k-labels-idx1-ubyte.gz",
        lambda: [gzip.compress(idx(2), mtime=0)],
        lambda path: read_fashion_mnist(path.parent, "test"),
        lambda folder: (folder / "t10k-images-idx3-ubyte").write_bytes(idx(2, 28, 28)),
    ),
    "picture": Target(
        "picture.jpg",
        lambda: [
            picture(form, orientation=6) for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
        ],
        decode,
        examples=150,
    ),
    "mistakes": Target(
        "mistakes.json",
        lambda: written(write_classification, "mistakes.json"),
        read_mistakes,
    ),
    "curves": Target(
        "curves.json",
        lambda: [msgspec.json.encode({"mean": {"AP": [0.5] * 101}, "per_class": {"a": [0.5] * 101}})],
        read_curves,
    ),
    "ledger": Target("search.sqlite", lambda: written(ledger, "search.sqlite"), read_children),
    "ledger_resumed": Target(
        "search.sqlite", lambda: written(ledger, "search.sqlite"), lambda path: Ledger(path).close()
    ),
    "stored_config": Target(
        "config.yaml",
        lambda: [yaml.safe_dump({"lr": 0.1, "name": "x", "list": [1, 2]}).encode()],
        reopen,
        stored_run,
    ),
    "stored_inputs": Target("inputs.json", lambda: [b"{}"], reopen, stored_run),
    "stored_metrics": Target(
        "metrics.json",
        lambda: written(write_search, "metrics.json"),
        lambda path: RunFolder(path.parent).finished(),
    ),
    "stored_csv": Target("metrics.csv", lambda: [b"step,loss\n10,0.5\n20,0.25\n"], resumed_csv),
    **{
        f"report_{name.replace('/', '_')}": run_file(name)
        for name in (
            "search/metrics.json",
            "search/search.sqlite",
            "search/genotype.json",
            "classification/metrics.json",
            "classification/metrics.csv",
            "classification/mistakes.json",
            "classification/config.yaml",
            "classification/versions.json",
            "classification/backbone.safetensors",
        )
    },
}
