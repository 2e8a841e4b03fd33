"""How fast COCO's numbers are computed at the size of val2017: ratios in one process, as a table.

    python -m benchmarks.detection_evaluation

5,000 images of 80 categories with 36,000 boxes, some of them crowd regions, and 100 detections for each image
near and far from them, generated. Timed is `detection.evaluation.scoring.evaluate`, from detections in memory
to the twelve numbers and those of each class, in seconds of a core. Both evaluators must agree to 1e-12, or
there is no table. Ratios, quartiles and verdicts: `benchmarks.ratios`.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.ratios import Row, compare, cpu, interleaved, parser, report
from detection.data.annotations import CocoAnnotations
from detection.evaluation.config import EVALUATORS
from detection.evaluation.results_file import Result
from detection.evaluation.scoring import evaluate

IMAGES, BOXES, DETECTIONS, CATEGORIES = 5_000, 36_000, 100, 80
HEIGHT, WIDTH = 480, 640
WORK = "5,000 images, 36,000 boxes, 500,000 detections"
GOALS = {(WORK, "fast"): 4.0}


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


def scoring(rounds: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    coco = annotations(generator)
    results = detections(coco, generator)
    slow, fast = (evaluate(coco, results, name) for name in EVALUATORS)
    difference = max(abs(slow.metrics[name] - fast.metrics[name]) for name in slow.metrics)
    if not difference <= 1e-12:
        sys.exit(f"the evaluators differ by {difference:g}: {slow.summary()} / {fast.summary()}")
    print(f"both: {slow.summary()}, difference {difference:g}", file=sys.stderr)
    ways = {name: lambda name=name: evaluate(coco, results, name) for name in EVALUATORS}
    seconds = interleaved(ways, rounds, clock=time.process_time)
    yield from compare(WORK, seconds, GOALS, lambda value: f"{value:.1f} s")


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.set_defaults(threads=1)
    args = options.parse_args()
    report([lambda: scoring(args.rounds)], args, cpu())


if __name__ == "__main__":
    main()
