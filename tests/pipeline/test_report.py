"""A run folder written by the real writers, and what its page and its table say."""

import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from backbones import weights
from backbones.files import write_json
from backbones.genotype import Block, Cell, Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from classification.mistakes import Mistakes, WorstImage, data_uri, write_mistakes
from detection.curves import Curves, write_curves
from detection.data import CocoDataConfig
from detection.scoring import METRICS
from pipeline.report import main, write_report
from pipeline.results import percent, short
from pipeline.summary import summary
from runtime.folder import plain
from search.base import Failure
from search.ledger import ChildRow, Ledger
from search.strategies import State

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
    ledger.step([], State({}, {}), rows, group=0)
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
            "metrics": {
                "top1": 0.96,
                "top5": 1.0,
                "loss": 0.1,
                "parameters": 5_289_978,
                "multiply_adds": 563_600_000,
            },
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


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    for name in ("search", "classification", "detection"):
        (folder / name).mkdir(parents=True)
    write_search(folder / "search")
    write_classification(folder / "classification")
    write_detection(folder / "detection", write_data(tmp_path / "data"))
    return folder


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


def test_page_is_one_file_that_requests_nothing(run_dir):
    path = write_report(run_dir)
    page = Page(path.read_text())
    assert path == run_dir / "report.html"
    for tag, attrs in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", path.read_text()))
    assert "@import" not in path.read_text()


def test_anchors_lead_to_the_sections(run_dir):
    page = read(run_dir)
    targets = [attrs["href"][1:] for tag, attrs in page.elements if tag == "a"]
    assert targets == list(page.sections)


def test_drawings_are_well_formed(run_dir):
    drawings = re.findall(r"<svg.*?</svg>", write_report(run_dir).read_text(), re.DOTALL)
    for drawing in drawings:
        ET.fromstring(drawing)
    # chain across and down, two cells, rewards and accuracy each wide and narrow, confusion
    assert len(drawings) == 2 + 2 + 2 + 2 + 1


def test_every_figure_is_shown_with_its_unit(run_dir):
    sections = read(run_dir).sections
    for text in ("children 3", "best reward 75.0 %", "mean reward 62.5 %", "failed 1"):
        assert text in sections["search"]
    for text in ("96.0 %", "100.0 %", "5.29 M", "564 M", "5,289,978", "94.0 %", "64 px"):
        assert text in sections["classifier"]
    for name, value in COCO.items():
        shown = "–" if name == "APl" else f"{100 * value:.1f} %"
        assert re.search(rf"\b{name} [^%–]* ?{shown}", sections["detector"]), name
    assert "25.0 %" in sections["detector"]
    assert "2.14.1" in sections["again"]


def test_names_from_outside_are_text(run_dir):
    page = read(run_dir)
    assert not [tag for tag, _ in page.elements if tag == "b"]
    assert CLASSES[0] in page.sections["classifier"]
    assert CLASSES[1] in page.sections["detector"]
    assert "<i>s1</i>" in page.sections["cells"]
    assert any(box["title"] == f"{CLASSES[1]} (crowd region)" for box in page.having("box"))


def test_detections_lie_beside_the_ground_truth(run_dir):
    page = read(run_dir)
    titles = [box["title"] for box in page.having("box")]
    assert sorted(titles) == sorted(
        [
            CLASSES[0],
            CLASSES[1],
            f"{CLASSES[1]} (crowd region)",
            f"{CLASSES[0]} 0.80",
            f"{CLASSES[1]} 0.90 (wrong)",
            f"{CLASSES[0]} 0.30 (wrong)",
        ]
    )
    assert len(page.having("crowd")) == 1
    scores = [(box["title"].split()[-2:], set(box["class"].split())) for box in page.having("steps-2")]
    assert scores == [(["0.30", "(wrong)"], {"box", "wrong", "steps-2"})]  # of 0.05, 0.25, 0.50, 0.75, 0.80
    assert len(page.having("steps-5")) == 2
    choices = [attrs for tag, attrs in page.elements if tag == "input"]
    assert [choice["id"] for choice in choices if "checked" in choice] == ["score-5"]
    assert len(page.having("panel")) == 4
    text = page.sections["detections"]
    assert "1.png: 1 of 2 found, 1 wrong" in text
    assert "2.png: nothing to find; nothing scores 0.80, the best 0.30" in text
    # 1 of 2 shown is right, 1 of 2 objects found; with the third detection F1 would be 2 / (3 + 2)
    assert (
        "at least 0.80, where precision and recall balance best over all validation images (F1 50.0 %)"
        in text
    )


def test_precision_is_drawn_against_recall(run_dir):
    lines = {"0.50": [1.0] * 50 + [0.0] * 51, "0.75": [0.5] * 101, "0.50:0.95": [0.25] * 101}
    write_curves(run_dir / "detection", Curves(lines, {name: [0.5] * 101 for name in CLASSES}))
    page = read(run_dir)
    text = page.sections["detector"]
    assert "Precision against recall, mean of the classes, by IoU" in text
    assert "recall, %" in text
    assert "Precision against recall of each class, IoU 0.50 0 % 20 % 40 % 60 % 80 % 100 %" in text
    assert f"recall, % {' '.join(CLASSES)}" in text
    drawn = [attrs for tag, attrs in page.elements if tag == "path" and "line-2" in attrs.get("class", "")]
    assert len(drawn) == 2  # wide and narrow, of the means only


def test_of_many_classes_the_best_and_the_worst_have_curves():
    curves = Curves({}, {f"class {i}": [i / 20] * 101 for i in range(20)})
    assert list(curves.best_and_worst(4)) == ["class 19", "class 18", "class 1", "class 0"]
    assert list(curves.best_and_worst(20)) == [f"class {i}" for i in range(20)]


def test_mistakes_are_a_matrix_pairs_and_pictures(run_dir):
    page = read(run_dir)
    text = page.sections["mistakes"]
    assert f"{CLASSES[0]} taken for {CLASSES[1]}: 7 of 47" in text  # a tooltip of the matrix
    assert f"of the class {CLASSES[0]} {CLASSES[1]} 7 14.9 %" in text
    assert f"{CLASSES[0]} 12.5 % {CLASSES[1]} 87.5 %" in text
    assert f"{CLASSES[1]} 12.5 % ✓" in text
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    assert [attrs["title"] for attrs in pictures] == ["a <i>b</i>.png, loss 2.50"] * 2


def test_a_thousand_classes_are_pairs_without_a_matrix(run_dir):
    names = [f"n{i:08d}" for i in range(1000)]
    confusion = [(i, i + 1, 999 - i) for i in range(999)]
    write_mistakes(run_dir / "classification", Mistakes("imagenet", names, confusion, [worst(3, 4)]))
    page = read(run_dir)
    assert not page.having("confusion")
    text = page.sections["mistakes"]
    assert "Most confused classes, the first 20" in text
    assert "n00000000 n00000001 999 100.0 %" in text
    assert text.count("100.0 %") == 20


def test_a_run_without_mistakes_has_no_section_of_them(run_dir):
    (run_dir / "classification" / "mistakes.json").unlink()
    page = read(run_dir)
    assert "mistakes" not in page.sections
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]


def test_a_classifier_alone_has_a_page_of_its_own(run_dir):
    page = read(run_dir / "classification")
    assert list(page.sections) == ["cells", "classifier", "mistakes", "again"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]
    assert not page.having("note")
    assert "python -m classification.evaluate" in page.sections["again"]
    assert f"predict {run_dir / 'classification' / 'backbone.safetensors'} IMAGES…" in page.sections["again"]


def test_an_evaluation_alone_has_a_page_of_its_own(run_dir):
    folder = run_dir / "classification"
    for path in folder.iterdir():
        if path.name not in ("metrics.json", "mistakes.json"):
            path.unlink()
    page = read(folder)
    assert list(page.sections) == ["classifier", "mistakes", "again"]
    assert not page.having("note")


def test_a_detector_alone_has_a_page_of_its_own(run_dir):
    folder = run_dir / "detection"
    write_curves(folder, Curves({"0.50": [1.0] * 101}, {}))
    page = read(folder)
    assert list(page.sections) == ["detector", "detections", "again"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{key}" for key in page.sections
    ]
    assert len(page.having("pair")) == len(read(run_dir).having("pair")) > 0
    assert "2 images of val.json" in page.sections["detector"]
    assert f"predictions={folder / 'predictions.json'}" in page.sections["again"]


def test_a_detectors_evaluation_alone_says_that_it_has_no_images(run_dir):
    folder = run_dir / "detection"
    write_curves(folder, Curves({"0.50": [1.0] * 101}, {}))
    (folder / "config.yaml").unlink()
    page = read(folder)
    assert list(page.sections) == ["detector", "detections", "again"]
    assert "it needs predictions.json and the validation images" in page.sections["detections"]


def test_boxes_lie_where_the_annotation_says(run_dir):
    crowd = read(run_dir).having("crowd")[0]
    place = {
        key: float(value.rstrip("%")) for key, value in (p.split(":") for p in crowd["style"].split(";")[:4])
    }
    expected = {"left": 110 / 160, "top": 10 / 120, "width": 50 / 160, "height": 100 / 120}
    assert place == {key: pytest.approx(100 * value, abs=0.01) for key, value in expected.items()}


def test_ten_large_images_keep_the_page_below_three_megabytes(tmp_path, run_dir):
    data = write_data(tmp_path / "large", size=(900, 700), images=14)
    write_config(run_dir / "detection", {"data": plain(data)})
    path = write_report(run_dir)
    assert len(Page(path.read_text()).having("pair")) == 10
    assert path.stat().st_size < 3e6


@pytest.mark.parametrize(
    ("missing", "section", "says"),
    [
        ("search", "search", "search/ is not there"),
        ("classification", "classifier", "classification/ is not there"),
        ("detection", "detector", "detection/ is not there"),
        ("search/genotype.json", "cells", "genotype.json is missing"),
        ("search/search.sqlite", "search", "search.sqlite: no such ledger"),
        ("search/metrics.json", "search", "metrics.json: no such metrics file"),
        ("classification/backbone.safetensors", "classifier", "backbone.safetensors: no such backbone file"),
        ("detection/predictions.json", "detector", "predictions.json: no such predictions file"),
        ("detection/config.yaml", "detector", "config.yaml: no such configuration file"),
        ("../data", "detector", "no such folder"),
        ("../data/val/1.png", "detector", "1.png"),
    ],
)
def test_section_says_what_is_missing(run_dir, missing, section, says):
    path = run_dir / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert says in read(run_dir).sections[section]


@pytest.mark.parametrize(
    "broken",
    [
        "search/genotype.json",
        "search/search.sqlite",
        "search/metrics.json",
        "classification/config.yaml",
        "classification/metrics.json",
        "classification/metrics.csv",
        "classification/backbone.safetensors",
        "classification/mistakes.json",
        "detection/config.yaml",
        "detection/predictions.json",
    ],
)
def test_broken_file_is_named_and_the_rest_is_shown(run_dir, broken):
    (run_dir / broken).write_bytes(b"step,test/top1\n[1, {\xff")
    page = read(run_dir)
    assert broken.split("/")[1] in " ".join(
        page.sections[name] for name in ("search", "classifier", "detector")
    )
    assert sum("note" in attrs.get("class", "") for _, attrs in page.elements) >= 1


def test_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(
        FileNotFoundError, match="no pipeline run, expected search, classification, detection"
    ):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_command_line_prints_where_the_page_lies(run_dir, capsys):
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"


def test_commands_name_the_data_and_how_it_was_started(run_dir):
    (run_dir / "command.txt").write_text("python -m pipeline experiment=demo 'run_dir=a b'\n")
    text = read(run_dir).sections["again"]
    assert "python -m pipeline experiment=demo 'run_dir=a b'" in text
    command = text.split("without a model ")[1].split(" Look at")[0].split()
    assert command[:3] == ["python", "-m", "detection.evaluate"]
    assert set(command[3:]) == {
        f"predictions={run_dir / 'detection' / 'predictions.json'}",
        "data=coco",
        f"data.root={run_dir.parent / 'data'}",
        "data.val_images=val",
        "data.val_annotations=val.json",
    }


def test_summary_holds_the_key_figures_and_the_paths(run_dir):
    write_report(run_dir)
    output = io.StringIO()
    Console(width=400, file=output).print(summary(run_dir))
    text = output.getvalue()
    for shown in ("children 3, 1 failed", "best 75.0 %   mean 62.5 %", "top-1 96.0 %", "parameters 5.29 M"):
        assert shown in text
    for name, value in COCO.items():
        assert re.search(rf"\b{name} +{'–' if name == 'APl' else f'{100 * value:.1f} %'}", text), name
    for path in ("report.html", "search/genotype.json", "classification/backbone.safetensors"):
        assert f"{run_dir / path}" in text
    assert f"{run_dir / 'detection' / 'detector.safetensors'}" in text


def test_numbers_are_short_and_unknown_ones_a_dash():
    assert [short(n) for n in (None, 0, 999, 1000, 92_762, 5_289_978, 999_999, 23_783e6)] == [
        "–",
        "0",
        "999",
        "1 k",
        "92.8 k",
        "5.29 M",
        "1 M",
        "23.8 G",
    ]
    assert [percent(p) for p in (None, 0.0, 0.12345, 1.0)] == ["–", "0.0 %", "12.3 %", "100.0 %"]
