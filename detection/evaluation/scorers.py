"""COCOeval of annotations and detections: pycocotools', whose numbers are the official ones, and hotcoco's.

Both give the same arrays to the last bit; hotcoco takes arrays where pycocotools takes a dictionary for each
box. Annotations and detections are numbered 1, 2, … in either: pycocotools takes a match with id 0 for none.

Legend: `D` detections, `R` annotated boxes over all images.
"""

import os
from collections.abc import Callable
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.data.annotations import CocoAnnotations
from detection.evaluation.results_file import Columns

_ran_in: dict[str, int] = {}
"""The process in which hotcoco began its threads."""


def official(coco: CocoAnnotations, found: Columns) -> COCOeval:
    """pycocotools' COCOeval before its first step."""
    images = [{"id": image_id} for image_id in coco.image_ids.tolist()]
    categories = [{"id": i, "name": n} for i, n in zip(coco.category_ids, coco.category_names, strict=True)]
    sides = []
    for annotations in (_truth(coco), _completed(found)):
        index = COCO()  # as `COCO.__init__` and `loadRes` make it of files; `loadRes` refuses an empty list
        index.dataset = {"images": images, "categories": categories, "annotations": annotations}
        index.createIndex()
        sides.append(index)
    return COCOeval(*sides, "bbox")


def fast(coco: CocoAnnotations, found: Columns) -> hotcoco.COCOeval:
    """hotcoco's COCOeval before its first step; images and categories have their `numbers` as ids.

    hotcoco reads the ids of detections as floats, which do not tell large ones apart. Raises RuntimeError in
    a process that was forked from one in which it ran: its threads are gone there, and it would wait for
    them for ever."""
    if _forked():
        raise RuntimeError(
            "hotcoco ran before this process was forked: score in one that is started by spawn"
        )
    _ran_in["pid"] = os.getpid()
    truth = hotcoco.COCO.from_arrays(
        [{"id": number} for number in range(1, len(coco) + 1)],
        [{"id": k, "name": name} for k, name in enumerate(coco.category_names, start=1)],
        *numbers(coco, *annotated(coco)),
        coco.bboxes,
        area=coco.areas,
        iscrowd=coco.crowd,
    )
    images, categories = numbers(coco, found.image_ids, found.category_ids)
    rows = np.column_stack([images, found.boxes, found.scores, categories])
    return hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")


def scorer(evaluator: str) -> Callable[[CocoAnnotations, Columns], Any]:
    """`official` or `fast`, by `config.EVALUATORS`.

    In a process forked from one in which hotcoco ran, `fast` is `official`, too: the same figures, later."""
    if evaluator == "fast" and not _forked():
        return fast
    return official


def _forked() -> bool:
    """Whether hotcoco's threads are another process's."""
    return _ran_in.get("pid", os.getpid()) != os.getpid()


def numbers(
    coco: CocoAnnotations, image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images and categories numbered 1, 2, … in the order of their ids, which decides between equal scores.

    0 is one that the annotations do not have; it counts nowhere."""
    known = np.array(coco.category_ids, np.int64)
    return _places(image_ids, np.sort(coco.image_ids)), _places(category_ids, known)


def annotated(coco: CocoAnnotations) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`[R]` each: the ids of the annotations' images and categories."""
    image_ids = np.repeat(coco.image_ids, np.diff(coco.first))
    return image_ids, np.array(coco.category_ids, np.int64)[coco.labels]


def _places(ids: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of `ids` in `known`, which ascends, from 1; 0 where they are not there."""
    if not known.size:
        return np.zeros_like(ids)
    places = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[places] == ids, places + 1, 0)


def _truth(coco: CocoAnnotations) -> list[dict[str, Any]]:
    """Annotations as the file holds them."""
    columns = (
        range(1, len(coco.labels) + 1),  # not the file's, of which one may be 0
        *(ids.tolist() for ids in annotated(coco)),
        coco.bboxes.tolist(),
        coco.areas.tolist(),
        coco.crowd.astype(int).tolist(),
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def _completed(found: Columns) -> list[dict[str, Any]]:
    """Detections as `loadRes` completes them."""
    columns = (array.tolist() for array in found)
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for number, (image_id, category_id, box, score) in enumerate(zip(*columns, strict=True), start=1)
    ]
