"""How fast COCO's numbers are computed at the size of val2017: ratios in one process, as a table.

    python -m benchmarks.detection_evaluation

5,000 images of 80 categories with 36,000 boxes, some of them crowd regions, and 100 detections for each image
near and far from them, generated. Timed is `evaluator=fast`, in seconds of a core, from `predictions.json`
and from detections in memory, to the twelve numbers, those of each class and the curves. Beside it
pycocotools and, where it is installed, faster-coco-eval, which give the twelve numbers only. All must agree
to 1e-12, or there is no table. Ratios, quartiles and verdicts: `benchmarks.ratios`.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones import processor
from backbones.timing import interleaved, quartiles
from benchmarks.ratios import Row, compare, parser, report
from detection.data.annotations import CocoAnnotations
from detection.evaluation.results_file import Columns, Result, read_results, write_results
from detection.evaluation.scorers import official
from detection.evaluation.scoring import METRICS, evaluate

IMAGES, BOXES, DETECTIONS, CATEGORIES = 5_000, 36_000, 100, 80
HEIGHT, WIDTH = 480, 640
FILE, MEMORY = "500,000 detections in a file", "500,000 detections in memory"
MOST_SECONDS = 1.5
GOALS = {(f"{work}, pycocotools", "fast"): 4.0 for work in (FILE, MEMORY)}


def annotations(generator: np.random.Generator) -> CocoAnnotations:
    """Sizes and classes are spread as in COCO: many small boxes, few frequent classes; 1 % are crowds."""
    sides = np.exp(generator.normal(np.log(60), 0.9, (BOXES, 2))).clip(4, [WIDTH, HEIGHT]).round(2)
    corners = (generator.random((BOXES, 2)) * ([WIDTH, HEIGHT] - sides)).round(2)
    popularity = 1 / np.arange(1, CATEGORIES + 1)
    owners = np.sort(generator.integers(0, IMAGES, BOXES))
    ids = [k + k // 8 for k in range(1, CATEGORIES + 1)]  # with gaps
    return CocoAnnotations(
        path=Path("generated"),
        image_ids=np.arange(IMAGES) * 7 + 139,
        sizes=np.tile(np.array([HEIGHT, WIDTH], dtype=np.int32), (IMAGES, 1)),
        file_names=np.array([f"{index:012d}.jpg" for index in range(IMAGES)]),
        first=np.searchsorted(owners, np.arange(IMAGES + 1)),
        bboxes=np.concatenate([corners, sides], axis=1),
        areas=sides.prod(axis=1) * 0.7,
        labels=generator.choice(CATEGORIES, BOXES, p=popularity / popularity.sum()),
        crowd=generator.random(BOXES) < 0.01,
        category_ids=ids,
        category_names=[f"category {category}" for category in ids],
        annotated=True,
    )


def detections(coco: CocoAnnotations, generator: np.random.Generator) -> list[Result]:
    """Of each image: its boxes, moved a little, five times each, then others of any class."""
    results = []
    for index, image_id in enumerate(coco.image_ids.tolist()):
        rows = np.arange(coco.first[index], coco.first[index + 1]).repeat(5)[:DETECTIONS]
        near = (
            coco.bboxes[rows] + generator.normal(0, 0.08, (len(rows), 4)) * coco.bboxes[rows][:, [2, 3, 2, 3]]
        )
        far = generator.random((DETECTIONS - len(rows), 4)) * [500, 350, 140, 130]
        boxes = np.concatenate([near, far]).clip(1).round(3).tolist()
        labels = np.concatenate([coco.labels[rows], generator.integers(0, CATEGORIES, len(far))]).tolist()
        scores = np.concatenate([generator.beta(2, 2, len(rows)), generator.beta(1, 8, len(far))]).round(3)
        results += [
            Result(image_id, coco.category_ids[label], tuple(box), score)
            for label, box, score in zip(labels, boxes, scores.tolist(), strict=True)
        ]
    return results


def stock(package: Any, truth: dict[str, Any], found: str | list[dict[str, Any]]) -> list[float]:
    """The twelve numbers as the package's own documentation computes them. found: a file, or its content."""
    coco, evaluation = package
    with contextlib.redirect_stdout(io.StringIO()):
        index = coco()
        index.dataset = truth
        index.createIndex()
        scored = evaluation(index, index.loadRes(found), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return [float(value) for value in scored.stats[: len(METRICS)]]


def packages() -> dict[str, Any]:
    """COCO and COCOeval by package; faster-coco-eval where it is installed, which nothing else here needs."""
    found: dict[str, Any] = {"pycocotools": (COCO, COCOeval)}
    try:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        found["faster-coco-eval"] = (FasterCOCO, COCOeval_faster)
    except ModuleNotFoundError:
        print("faster-coco-eval is left out: pip install faster-coco-eval", file=sys.stderr)
    return found


def scoring(rounds: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    coco = annotations(generator)
    results = detections(coco, generator)
    truth = official(coco, Columns.of([])).cocoGt.dataset
    peers = packages()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "predictions.json")
        write_results(file, results)
        content = json.loads(Path(file).read_text())
        own = evaluate(coco, results, "fast").metrics
        for name, package in peers.items():
            difference = max(map(abs, np.subtract(list(own.values()), stock(package, truth, file))))
            if not difference <= 1e-12:
                sys.exit(f"hotcoco and {name} differ by {difference:g}")
            print(f"hotcoco and {name} differ by {difference:g}", file=sys.stderr)
        for work, given, way in (
            (FILE, file, lambda: evaluate(coco, read_results(file, coco), "fast")),
            (MEMORY, content, lambda: evaluate(coco, results, "fast")),
        ):
            ways: dict[str, Callable[[], object]] = {
                name: partial(stock, package, truth, given) for name, package in peers.items()
            }
            seconds = interleaved(ways | {"fast": way}, rounds, clock=time.process_time)
            for name in peers:
                pair = {name: seconds[name], "fast": seconds["fast"]}
                yield from compare(f"{work}, {name}", pair, GOALS, show)
            shares = [value / MOST_SECONDS for value in seconds["fast"]]
            limits = quartiles(shares)
            medians = show(MOST_SECONDS), show(limits.median * MOST_SECONDS)
            yield Row(f"{work}, the goal", "fast", *medians, limits, 1.0, less=True)


def show(seconds: float) -> str:
    return f"{seconds:.2f} s"


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.set_defaults(threads=1)
    args = options.parse_args()
    report([lambda: scoring(args.rounds)], args, processor.name())


if __name__ == "__main__":
    main()
