"""Which detections are right, by COCO's matching.

Legend: `D` detections, `R` annotated boxes over all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import CocoAnnotations
from detection.evaluation.results_file import Columns, Result
from detection.evaluation.scorers import annotated, fast, numbers

IOU = 0.5
"""Overlap from which a detection finds an object of its class."""
MOST = 100
"""Detections of an image and class that count."""


@dataclass(frozen=True)
class Matches:
    """right, wrong: `[D]`; a detection that is neither, as in a crowd region, does not count.

    objects: `[R]`; the annotations that are to be found, which crowd regions and negative areas are not."""

    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    objects: NDArray[np.bool_]


def match(coco: CocoAnnotations, results: Sequence[Result]) -> Matches:
    """Matches objects of any size with the MOST best detections of each image and class, at IOU.

    Source: `COCOeval.evalImgs` of pycocotools, by hotcoco. It is asked about images in which the class is
    annotated; in others those detections are wrong, which saves most of the time of 500,000 detections."""
    found = Columns.of(results)
    pairs = _pairs(coco, found.image_ids, found.category_ids)
    asked = np.flatnonzero(np.isin(pairs, _pairs(coco, *annotated(coco))))
    right, wrong = np.zeros(len(results), np.bool_), _among_the_best(pairs, found.scores)
    wrong[asked] = False  # until it is matched: beyond the MOST best nothing is
    objects = np.zeros(len(coco.labels), np.bool_)
    coco_eval = fast(coco, found.at(asked))
    params = coco_eval.params
    params.iou_thrs, params.max_dets = [IOU], [MOST]
    params.area_rng, params.area_rng_lbl = params.area_rng[:1], params.area_rng_lbl[:1]
    coco_eval.evaluate()
    for image in coco_eval.eval_imgs:
        assert image is not None  # of one area range, hotcoco gives those with boxes of either kind
        rows = asked[np.array(image["dtIds"], np.int64) - 1]
        counted = ~np.array(image["dtIgnore"][0], np.bool_)
        matched = np.array(image["dtMatched"][0], np.bool_)
        right[rows], wrong[rows] = counted & matched, counted & ~matched
        objects[np.array(image["gtIds"], np.int64) - 1] = ~np.array(image["gtIgnore"], np.bool_)
    return Matches(right, wrong, objects)


def _pairs(
    coco: CocoAnnotations, image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A number for each pair of image and category."""
    images, categories = numbers(coco, image_ids, category_ids)
    return images * (coco.num_classes + 1) + categories


def _among_the_best(pairs: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which are among the MOST best of their pair of image and class; the first of equal scores is better."""
    order = np.lexsort((-scores, pairs))
    _, starts, counts = np.unique(pairs[order], return_index=True, return_counts=True)
    best = np.empty(len(pairs), np.bool_)
    best[order] = np.arange(len(pairs)) - np.repeat(starts, counts) < MOST
    return best
