"""A run folder by the real writers, and a reader of its page."""

import json
from html.parser import HTMLParser

import numpy as np
import torch
import yaml
from PIL import Image

from backbones import weights
from backbones.files import write_json
from backbones.genotype import Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from classification.mistakes import Mistakes, WorstImage, data_uri, write_mistakes
from detection.data.config import CocoDataConfig
from detection.evaluation.scoring import METRICS
from pipeline.report import write_report
from runtime.folder import plain
from search.ledger.rows import ChildRow
from search.ledger.writer import Ledger
from search.messages import Failure
from search.strategies.protocol import State

CLASSES = ["<b>cat</b>", 'a "dog" & co']
COCO = {name: (index + 1) / 50 for index, name in enumerate(METRICS)}
CELL = Cell.with_unused_concat(
    [Block(0, 1, "sep_conv_3x3", "identity"), Block(2, 0, "avg_pool_3x3", "conv_1x1")]
)
GENOTYPE = Genotype(CELL, CELL, {"search": "<i>s1</i>", "child": 2, "reward": 0.75})
VERSIONS = {"python": "3.11.9", "torch": "2.14.1"}


CONFUSION = [(0, 0, 40), (0, 1, 7), (1, 1, 53)]


def worst(label, predicted):
    uri = data_uri(Image.new("RGB", (8, 8)), 160)
    return WorstImage("a <i>b</i>.png", label, predicted, 0.875, 0.125, 2.5, uri)


def write_search(folder):
    GENOTYPE.save(folder / "genotype.json")
    write_json(
        folder / "metrics.json",
        {
            "stage": "search",
            "split": "validation",
            "metrics": {"best_reward": 0.75, "mean_reward": 0.625, "children": 3, "failed": 1},
            "per_class": {},
        },
    )
    outcomes = [(0.5, None), (None, Failure.NOT_FINITE), (0.75, None)]
    rows = [
        ChildRow(
            i, 0, GENOTYPE, GENOTYPE.key, (0,), None, 1, 0, 1, status="done", reward=reward, failure=failure
        )
        for i, (reward, failure) in enumerate(outcomes)
    ]
    ledger = Ledger(folder / "search.sqlite")
    ledger.step(rows, State({}, {}), group=0)
    ledger.close()
    write_config(folder, {"data": {"name": "digits"}})


def write_classification(folder):
    net = NASNet(NetworkSpec(GENOTYPE, 1, 8, stem_filters=8, image_size=64), num_classes=2)
    weights.save(net, folder / "backbone.safetensors", classes=CLASSES, metrics={"top1": 0.96})
    write_json(
        folder / "metrics.json",
        {
            "stage": "classification",
            "split": "test",
            "metrics": {"top1": 0.96, "top5": 1.0, "loss": 0.1},
            "costs": {"parameters": 5_289_978, "multiply_adds": 563_600_000},
            "per_class": dict(zip(CLASSES, (0.94, None), strict=True)),
        },
    )
    write_mistakes(folder, Mistakes("digits", CLASSES, CONFUSION, [worst(0, 1), worst(1, 1)]))
    (folder / "metrics.csv").write_text("step,loss,test/top1\n10,0.7,\n10,,0.5\n20,,0.96\n")
    write_config(folder, {"data": {"name": "digits"}})


def write_detection(folder, data):
    write_json(
        folder / "metrics.json",
        {
            "stage": "detection",
            "split": "val",
            "annotations": "val.json",
            "images": 2,
            "metrics": COCO,
            "per_class": {name: {"AP": 0.25, "AP50": 0.5, "AR100": 0.5} for name in CLASSES},
            "undefined": ["APl"],
        },
    )
    boxes = [(1, 5, [10, 10, 40, 40], 0.8), (1, 9, [80, 20, 40, 40], 0.9), (2, 5, [0, 0, 20, 20], 0.3)]
    predictions = [dict(zip(("image_id", "category_id", "bbox", "score"), box, strict=True)) for box in boxes]
    (folder / "predictions.json").write_text(json.dumps(predictions))
    tensors = {"weight": torch.zeros(1)}
    weights.write_safetensors(
        folder / "detector.safetensors", "detector", tensors, {"engine": "torchvision_fpn"}
    )
    write_config(folder, {"data": plain(data)})


def write_config(folder, config):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(folder / "versions.json", VERSIONS)


def write_data(root, size=(160, 120), images=2):
    """Image 1: an object of each class and a crowd region; the others are empty."""
    (root / "val").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(1, images + 1):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"{number}.png")
    boxes = [(5, [10, 10, 40, 40], 0), (9, [60, 60, 40, 40], 0), (9, [110, 10, 50, 100], 1)]
    write_json(
        root / "val.json",
        {
            "images": [
                {"id": n, "file_name": f"{n}.png", "width": size[0], "height": size[1]}
                for n in range(1, images + 1)
            ],
            "categories": [{"id": 5, "name": CLASSES[0]}, {"id": 9, "name": CLASSES[1]}],
            "annotations": [
                {
                    "id": i,
                    "image_id": 1,
                    "category_id": c,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": crowd,
                }
                for i, (c, box, crowd) in enumerate(boxes, 1)
            ],
        },
    )
    return CocoDataConfig(root=str(root), val_images="val", val_annotations="val.json")


class Page(HTMLParser):
    """Elements with their attributes, and the text of each section."""

    VOID = ("meta", "link", "br", "img", "path", "rect", "circle", "input")

    def __init__(self, text):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.sections: dict[str, str] = {}
        self.section: str | None = None
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"]
            self.sections[self.section] = ""
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.section:
            text = f"{self.sections[self.section]} {data}"
            self.sections[self.section] = " ".join(text.split())

    def having(self, css_class):
        return [attrs for _, attrs in self.elements if css_class in attrs.get("class", "").split()]


def read(run_dir):
    return Page(write_report(run_dir).read_text())


def write_run(root):
    """A finished run of the chain in `root/run`, its detector's data in `root/data`; returns its folder."""
    folder = root / "run"
    for name in ("search", "classification", "detection"):
        (folder / name).mkdir(parents=True)
    write_search(folder / "search")
    write_classification(folder / "classification")
    write_detection(folder / "detection", write_data(root / "data"))
    return folder
