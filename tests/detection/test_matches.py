"""Which detections are right: small cases by hand, and what COCOeval says of drawn ones."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.data.annotations import read_coco
from detection.evaluation.matches import match
from detection.evaluation.results_file import Result

CATEGORY_IDS = [1, 3, 90]
IMAGE_IDS = [5, 2, 9]


def content(*annotations):
    """annotations: image id, category id, box, whether it is a crowd, area or None for the box's."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 300, "height": 200} for i in IMAGE_IDS],
        "categories": [{"id": i, "name": str(i)} for i in CATEGORY_IDS],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3] if area is None else area,
                "iscrowd": int(crowd),
            }
            for number, (image_id, category, box, crowd, area) in enumerate(annotations, start=1)
        ],
    }


def annotated(folder, *annotations):
    path = folder / "annotations.json"
    path.write_text(json.dumps(content(*annotations)))
    return read_coco(path)[0]


def verdicts(coco, results) -> list[bool | None]:
    """Whether each detection is right; None where it does not count."""
    found = match(coco, results)
    assert not (found.right & found.wrong).any()
    return [right if right or wrong else None for right, wrong in zip(found.right, found.wrong, strict=True)]


def test_each_object_is_found_once_by_the_best_score_of_its_class(tmp_path):
    coco = annotated(
        tmp_path,
        (5, 1, (0, 0, 10, 10), False, None),
        (5, 3, (50, 0, 10, 10), False, None),
        (5, 1, (100, 0, 80, 80), True, None),
    )
    results = [
        Result(5, 1, (0.0, 0.0, 10.0, 10.0), 0.8),  # found already, by the next, which scores more
        Result(5, 1, (1.0, 0.0, 10.0, 10.0), 0.9),  # IoU 9/11
        Result(5, 1, (50.0, 0.0, 10.0, 10.0), 0.7),  # another class
        Result(5, 1, (110.0, 10.0, 10.0, 10.0), 0.6),  # in the crowd
        Result(5, 3, (110.0, 10.0, 10.0, 10.0), 0.5),  # in a crowd of another class
        Result(5, 90, (50.0, 0.0, 10.0, 10.0), 0.4),  # of a class that is annotated nowhere
        Result(2, 1, (0.0, 0.0, 10.0, 10.0), 0.3),  # in another image
    ]
    assert verdicts(coco, results) == [False, True, False, None, False, False, False]
    assert match(coco, results).objects.tolist() == [True, True, False]


def test_half_is_enough_and_less_is_not(tmp_path):
    coco = annotated(tmp_path, (5, 1, (0, 0, 10, 10), False, None), (2, 1, (0, 0, 10, 10), False, None))
    results = [Result(5, 1, (0.0, 0.0, 10.0, 20.0), 0.5), Result(2, 1, (0.0, 0.0, 10.0, 20.1), 0.5)]
    assert verdicts(coco, results) == [True, False]


def test_the_hundred_best_of_an_image_and_class_count(tmp_path):
    coco = annotated(tmp_path, (5, 1, (0, 0, 10, 10), False, None))
    far = [Result(5, 1, (100.0, 100.0, 10.0, 10.0), 0.9)] * 100
    others = [Result(2, 1, (0.0, 0.0, 10.0, 10.0), 0.8), Result(5, 3, (0.0, 0.0, 10.0, 10.0), 0.8)]
    late = [Result(5, 1, (0.0, 0.0, 10.0, 10.0), 0.1)]
    assert verdicts(coco, far + others + late) == [False] * 102 + [None]
    assert verdicts(coco, far[1:] + others + late) == [False] * 101 + [True]


def test_areas_outside_of_cocos_ranges_do_not_count(tmp_path):
    """Nor does what is matched to one: COCO's objects have 0 to 10^10 square pixels."""
    coco = annotated(tmp_path, (5, 1, (0, 0, 10, 10), False, -1.0), (5, 1, (50, 0, 10, 10), False, None))
    results = [Result(5, 1, (x, 0.0, 10.0, 10.0), 0.5) for x in (0.0, 50.0, 90.0)]
    results.append(Result(5, 1, (0.0, 0.0, 2e5, 1e5), 0.5))
    assert verdicts(coco, results) == [None, True, False, None]
    assert match(coco, results).objects.tolist() == [False, True]


def test_where_nothing_is_annotated_or_detected_nothing_is_found(tmp_path):
    coco = annotated(tmp_path)
    assert verdicts(coco, [Result(2, 3, (0.0, 0.0, 10.0, 10.0), 0.5)]) == [False]
    assert match(coco, []).right.tolist() == []
    assert match(annotated(tmp_path, (9, 1, (0, 0, 5, 5), False, None)), []).objects.tolist() == [True]


# On a coarse grid, so that overlaps meet the threshold exactly, with few scores, so that many are equal.
BOX = st.tuples(*[st.sampled_from([0, 4, 10])] * 2, *[st.sampled_from([8, 10, 16, 120])] * 2)
PLACE = (st.sampled_from(IMAGE_IDS), st.sampled_from(CATEGORY_IDS), BOX)
ANNOTATION = st.tuples(*PLACE, st.sampled_from([False, False, True]), st.sampled_from([None, None, -2.0]))
DETECTION = st.tuples(*PLACE, st.sampled_from([0.25, 0.5, 1.0]))


def official(annotations, results) -> list[bool | None]:
    """Verdicts of one evaluation of everything, with COCO's own parameters."""
    truth, found = COCO(), COCO()
    truth.dataset = content(*annotations)
    found.dataset = {key: truth.dataset[key] for key in ("images", "categories")}
    found.dataset["annotations"] = [
        {
            "id": number,
            "image_id": result.image_id,
            "category_id": result.category_id,
            "bbox": list(result.bbox),
            "area": result.bbox[2] * result.bbox[3],
            "score": result.score,
        }
        for number, result in enumerate(results, start=1)
    ]
    for side in (truth, found):
        side.createIndex()
    scorer = COCOeval(truth, found, "bbox")
    scorer.evaluate()
    said: dict[int, bool | None] = {}
    for image in scorer.evalImgs:
        if image is not None and image["aRng"] == scorer.params.areaRng[0]:
            columns = zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True)
            said |= {number: None if ignored else bool(matched) for number, matched, ignored in columns}
    return [said[number] for number in range(1, len(results) + 1)]


@settings(max_examples=100, deadline=None)
@given(st.lists(ANNOTATION, max_size=12), st.lists(DETECTION, max_size=30))
def test_verdicts_are_those_of_an_evaluation_of_everything(tmp_path_factory, annotations, detections):
    coco = annotated(tmp_path_factory.getbasetemp(), *annotations)
    results = [Result(i, c, tuple(map(float, box)), score) for i, c, box, score in detections]
    assert verdicts(coco, results) == official(annotations, results)
    counted = [
        not crowd and area is None
        for image_id in IMAGE_IDS
        for owner, _, _, crowd, area in annotations
        if owner == image_id
    ]
    assert match(coco, results).objects.tolist() == counted


@pytest.mark.parametrize("category", [1, 3], ids=["annotated", "not annotated"])
def test_only_the_100_best_of_an_image_and_class_count(tmp_path, category):
    coco = annotated(tmp_path, (5, 1, (200, 100, 10, 10), False, None))
    results = [Result(5, category, (0.0, 0.0, 10.0, 10.0), (1 + d) / 200) for d in range(105)]
    assert verdicts(coco, results) == [None] * 5 + [False] * 100
