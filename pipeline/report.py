"""One self-contained `report.html` from the files of a run: `python -m pipeline.report DIR`.

DIR: a chain's folder, or that of one training or evaluation of a classifier or detector.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from backbones.arguments import one_line_errors
from backbones.draw import draw_cell, has_pale_blocks
from backbones.files import check_output, real_path, write_atomically
from celltransfer import program
from classification.mistakes import MATRIX_CLASSES, Mistakes, data_uri
from detection.data.annotations import read_split
from detection.data.config import CocoDataConfig, FolderDataConfig, ScenesDataConfig
from detection.evaluation.curves import RECALLS, Curves
from detection.evaluation.examples import PREVIEW
from detection.evaluation.matches import IOU
from detection.evaluation.results_file import read_results
from pipeline.figures import ChainNode, chain, confusion, reward_series
from pipeline.gallery import Gallery, gallery
from pipeline.results import Results, Stage
from runtime.charts import Points, Series, charts
from runtime.overrides import override
from runtime.page import page, percent, short
from runtime.pictures import decode

TEMPLATE = Path(__file__).with_name("report.html.j2")
BARS = 24
"""Classes shown as bars; of more, the best and the worst half of these."""
PREVIEW_SIDE = 1600
"""Pixels of the sheet of training images, at most."""
PAIRS = 20
"""Pairs of confused classes shown where there are any."""


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into the run's folder; a section whose files are absent or broken says so.

    Reads the run's folder and the validation images that a detector was scored on. Raises FileNotFoundError
    unless the folder holds a chain's run, a classifier's or a detector's, and ValueError
    where nothing can be written there.
    """
    results = Results.read(run_dir)
    path = results.run_dir / "report.html"
    check_output(path)
    write_atomically(path, page(TEMPLATE, _context(results)))
    return path


def _context(results: Results) -> dict[str, Any]:
    nodes = _chain_nodes(results)
    cells = []
    if results.genotype is not None:
        cells = [
            Markup(draw_cell(results.genotype.normal, "Normal cell")),
            Markup(draw_cell(results.genotype.reduction, "Reduction cell")),
        ]
    series, window = reward_series(
        {child.number: child.reward for child in results.children if child.status == "done"}
    )
    accuracy = _curves(results.classification, ("train/top1", "test/top1"))
    classifier_loss = _curves(results.classification, ("train/loss", "test/loss"))
    precision = _with_best(_curves(results.detection, ("val/AP", "val/AP50")))
    loss = _curves(results.detection, ("loss",))
    data = _data(results.detection)
    shown = results.detection.attempt("predictions.json", partial(_gallery, data)) if data else None
    return {
        "name": real_path(results.run_dir).name,
        "results": results,
        "chains": [Markup(chain(nodes, direction)) for direction in ("across", "down")],
        "cells": cells,
        "pale": results.genotype is not None and has_pale_blocks(results.genotype),
        "rewards": charts(series, "Reward of each child of the search", "child", percent=True),
        "window": window,
        "accuracy": charts(accuracy, "Accuracy over the training steps", "step", percent=True),
        "classifier_loss": charts(classifier_loss, "Loss over the training steps", "step", percent=False),
        "precision_by_step": charts(precision, "AP over the training steps", "step", percent=True),
        "loss": charts(loss, "Training loss of the detector", "step", percent=False),
        "class_bars": _bars(results.classification.per_class),
        "confusion": _confusion(results.classification.mistakes),
        "pairs_shown": PAIRS,
        "detection_bars": _bars(results.detection.per_class),
        "precision": _precision(results.detection.curves),
        "gallery": shown,
        "preview": _preview(results.detection),
        "iou": IOU,
        "versions": _versions(results),
        "commands": _commands(results, data),
        "files": results.files(),
    }


def _chain_nodes(results: Results) -> list[ChainNode]:
    search, classification, detection = results.search, results.classification, results.detection
    children = search.value("children")
    stages = [
        (
            *("Search", search, "best_reward", "genotype.json"),
            "accuracy of the best child",
            f"of {short(children)} {'child' if children == 1 else 'children'}",
            f"on held-out images of {search.data.get('name', 'unknown data')}",
        ),
        (
            *("Classifier", classification, "top1", "backbone.safetensors"),
            f"top-1 accuracy on {classification.data.get('name', 'unknown data')}",
            f"{short(classification.value('parameters'))} parameters",
            f"{short(classification.value('multiply_adds'))} multiply-adds",
        ),
        (
            *("Detector", detection, "AP", "detector.safetensors"),
            f"AP on {detection.data.get('name', 'unknown data')}",
            f"AP50 {percent(detection.value('AP50'))}",
            f"AP75 {percent(detection.value('AP75'))}",
        ),
    ]
    return [
        ChainNode(title, percent(stage.value(headline)), lines, product, bool(stage.results.metrics))
        for title, stage, headline, product, *lines in stages
    ]


def _curves(stage: Stage, columns: Sequence[str]) -> list[Series]:
    """Columns of metrics.csv against its step, those that something was logged in."""

    def points(column: str, _: Path) -> Points:
        rows = (row for row in stage.curve if row.get("step") and row.get(column))
        return [(float(row["step"]), float(row[column])) for row in rows]

    every = {column: stage.attempt("metrics.csv", partial(points, column)) for column in columns}
    return [Series(column.replace("/", "-"), "line", places) for column, places in every.items() if places]


def _with_best(series: list[Series]) -> list[Series]:
    """The same with a mark at the best AP, of several the first, whose weights are `best.safetensors`."""
    for one in series:
        if one.name == "val-AP":
            step, best = max(one.points, key=lambda point: (point[1], -point[0]))
            text = f"best AP {percent(best)}, step {step:,.0f}"
            return [*series, Series("best-step", "mark", [(step, best)], text)]
    return series


def _precision(curves: Curves | None) -> list[tuple[str, list[Markup], list[str]]]:
    """Caption, drawings and names of lines: means by IoU, then classes; none where there are no curves."""
    if curves is None or not curves.mean:
        return []
    classes = curves.best_and_worst()
    kinds = "the best and the worst classes" if len(classes) < len(curves.per_class) else "each class"
    found = []
    for caption, lines in (
        ("Precision against recall, mean of the classes, by IoU", curves.mean),
        (f"Precision against recall of {kinds}, IoU 0.50", classes),
    ):
        series = [
            Series(f"line-{i}", "line", [(100 * r, p) for r, p in zip(RECALLS, line, strict=True)])
            for i, line in enumerate(lines.values())
        ]
        found.append((caption, charts(series, caption, "recall, %", percent=True, whole=True), list(lines)))
    return found


def _bars(per_class: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """Classes in their order; of more than BARS the best and the worst, best first, with a gap named `…`."""
    if len(per_class) <= BARS:
        return list(per_class.items())
    ranked = sorted(per_class.items(), key=lambda item: -(item[1] or 0.0))
    half = BARS // 2
    return [*ranked[:half], (f"… {len(ranked) - 2 * half} more …", None), *ranked[-half:]]


def _confusion(mistakes: Mistakes | None) -> Markup | None:
    """The matrix where it can be read as a picture."""
    if mistakes is None or len(mistakes.classes) > MATRIX_CLASSES:
        return None
    return Markup(confusion(mistakes.classes, mistakes.matrix()))


def _data(detection: Stage) -> CocoDataConfig | None:
    """The data that the run was scored on; None where its configuration is absent or not understood."""
    if not detection.data:
        return None
    kinds = {"scenes_seed": ScenesDataConfig, "val_fraction": FolderDataConfig}
    kind = next((kind for key, kind in kinds.items() if key in detection.data), CocoDataConfig)
    return detection.attempt("config.yaml", lambda _: msgspec.convert(detection.data, kind))


def _preview(detection: Stage) -> str | None:
    """The sheet of training images as a data URI, where the run wrote one."""
    if not (detection.folder / PREVIEW).exists():
        return None
    return detection.attempt(PREVIEW, lambda path: data_uri(decode(path), PREVIEW_SIDE))


def _gallery(data: CocoDataConfig, predictions: Path) -> Gallery:
    coco, images = read_split(data, "val")
    return gallery(coco, read_results(predictions, coco), images)


def _versions(results: Results) -> dict[str, str]:
    """By package; several where the stages ran with different ones."""
    found: dict[str, dict[str, None]] = {}
    for stage in (results.search, results.classification, results.detection):
        for name, version in stage.versions.items():
            found.setdefault(name, {})[str(version)] = None
    return {name: " / ".join(versions) for name, versions in found.items()}


def _commands(results: Results, data: CocoDataConfig | None) -> list[tuple[str, str]]:
    """What each command does, and the command."""
    again = "The whole chain again"
    if results.lone:
        again = "The search again" if results.lone == "search" else "The training again"
        again = "The evaluation again" if results.evaluated else again
    commands = [(again, results.command)] if results.command else []
    commands += _classifier_commands(results.classification)
    detector = results.detection.folder / "detector.safetensors"
    predictions = results.detection.folder / "predictions.json"
    evaluate = program("detection.evaluate")
    if data and detector.exists():
        again = " ".join([evaluate, override("weights", detector), *_choice(data)])
        commands.append(("Score the detector again", again))
    if data and predictions.exists():
        again = " ".join([evaluate, override("predictions", predictions), *_choice(data)])
        commands.append(("Score the stored detections, without a model", again))
    if detector.exists():
        look = f"{program('detection.predict')} {shlex.quote(str(detector))} IMAGES… --output DIR"
        commands.append(("Look at pictures of your own", look))
    write = f"{program('pipeline.report')} {shlex.quote(str(results.run_dir))}"
    return [*commands, ("Write this page again", write)]


def _classifier_commands(stage: Stage) -> list[tuple[str, str]]:
    weights = stage.folder / "backbone.safetensors"
    if not weights.exists():
        return []
    keys = ["root", "test_folder", "test_limit", "resident"]
    if stage.data.get("name") == "folder":
        keys += ["val_fraction", "split_seed"]
    words = [
        program("classification.evaluate"),
        override("weights", weights),
        override("data", stage.data.get("name")),
        *(override(f"data.{key}", stage.data[key]) for key in keys if stage.data.get(key) is not None),
    ]
    look = f"{program('classification.predict')} {shlex.quote(str(weights))} IMAGES…"
    score = [("Score the classifier again", " ".join(words))] if stage.data else []
    return [*score, ("Name what is in pictures of your own", look)]


def _choice(data: CocoDataConfig) -> list[str]:
    """Command-line arguments that choose this data: the group and every value that is not its default."""
    default = type(data)()
    group = {ScenesDataConfig: "scenes", FolderDataConfig: "folder"}.get(type(data), "coco")
    values = {key: value for key, value in vars(data).items() if value != getattr(default, key)}
    return [f"data={group}", *(override(f"data.{key}", value) for key, value in values.items())]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("pipeline.report"), description="Write report.html from the files of a run."
    )
    parser.add_argument(
        "run_dir",
        type=Path,
        help="folder of a chain, of a search, or of one training or evaluation of a classifier or detector",
    )
    print(write_report(parser.parse_args(arguments).run_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
