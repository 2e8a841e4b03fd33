import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.annotations import read_split
from detection.data.config import CocoDataConfig
from detection.data.images import DetectionImages, collate, open_split
from detection.data.sizing import resized_size
from detection.training.build import open_images
from runtime.loading import ResumableLoader


def test_boxes_follow_the_image_when_it_is_resized_and_mirrored(coco_folder):
    Image.new("RGB", (40, 30)).save(coco_folder / "train2017" / "a.png")
    picture = Image.open(coco_folder / "train2017" / "a.png")
    picture.paste((255, 255, 255), (35, 5, 40, 13))  # where the box of image a lies, cut at the border
    picture.save(coco_folder / "train2017" / "a.png")
    images = open_split(CocoDataConfig(root=str(coco_folder), min_sizes=[60, 90]), "train")
    seen = set()
    for epoch in range(20):
        sample = images[(epoch, 0)]
        assert sample["target"]["labels"].tolist() == [0]
        x1, y1, x2, y2 = sample["target"]["boxes"][0].round().int().tolist()
        bright = sample["image"][0] > 127
        assert bright[y1:y2, x1:x2].float().mean() > 0.97
        bright[y1:y2, x1:x2] = False
        assert not bright.any()
        seen.add((sample["image"].shape[1], x1 == 0))
    assert seen == {(60, False), (60, True), (90, False), (90, True)}


def test_what_is_drawn_depends_on_seed_epoch_and_image_only(coco_folder):
    config = CocoDataConfig(root=str(coco_folder), min_sizes=[40, 50, 60, 70])
    one, same, other = (open_split(config, "train", seed=seed) for seed in (1, 1, 2))
    drawn = [[images[(epoch, 1)]["target"]["boxes"] for epoch in range(8)] for images in (one, same, other)]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))
    assert len({tuple(boxes.flatten().tolist()) for boxes in drawn[0]}) > 1


def test_a_wrong_target_is_refused_where_it_is_made(coco_folder):
    """By the name of its image; to an engine such a label would mean the background."""
    images = open_split(CocoDataConfig(root=str(coco_folder)), "train")
    images.coco = dataclasses.replace(images.coco, labels=images.coco.labels + images.coco.num_classes)
    with pytest.raises(ValueError, match=r"^image 7 \(a\.png\): labels\[0\] = 2, expected 0\.\.1"):
        images[(0, 0)]


def test_workers_give_what_the_main_process_gives(coco_folder):
    images = open_split(CocoDataConfig(root=str(coco_folder), min_sizes=[40, 80]), "train")
    batches = [
        next(iter(ResumableLoader(images, 2, seed=0, shuffle=True, workers=workers, collate=collate)))
        for workers in (0, 1)
    ]
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["target"]["boxes"], b["target"]["boxes"])


def test_evaluation_neither_mirrors_nor_draws_a_size(coco_folder):
    images = open_split(CocoDataConfig(root=str(coco_folder), test_min_size=60), "val")
    assert {tuple(images[(epoch, 0)]["target"]["boxes"][0].tolist()) for epoch in range(9)} == {
        (70, 10, 80, 26)
    }


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((100, 1000), (133, 1333)),
        ((500, 500), (800, 800)),
        ((3, 3000), (1, 1333)),
        ((2, 9000), (1, 1333)),
    ],
)
def test_the_short_side_is_800_and_the_long_one_at_most_1333(size, expected):
    height, width = size
    assert resized_size(height, width, 800, 1333) == expected


def test_sizes_equal_detectron2_over_many_shapes():
    augmentation = pytest.importorskip("detectron2.data.transforms", reason="needs Detectron2")
    generator = np.random.default_rng(0)
    for height, width in generator.integers(1, 3000, (2000, 2)).tolist():
        for short in (320, 800):
            expected = augmentation.ResizeShortestEdge.get_output_shape(height, width, short, 1333)
            assert resized_size(height, width, short, 1333) == expected


def test_an_image_of_another_size_than_annotated_is_named(coco_folder):
    Image.new("RGB", (41, 30)).save(coco_folder / "val2017" / "a.png")
    images = open_split(CocoDataConfig(root=str(coco_folder)), "val")
    with pytest.raises(ValueError, match=r"a\.png has 41x30 pixels, .* says 40x30"):
        images[(0, 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": None}, "data.root is not set"),
        ({"root": "/nowhere"}, "data.root = /nowhere: no such folder"),
        ({"train_images": "photos"}, "data.train_images = photos: no such folder in "),
        ({"train_annotations": "x.json"}, r"x\.json: no such annotation file"),
    ],
)
def test_a_wrong_layout_is_named(coco_folder, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_split(CocoDataConfig(**{"root": str(coco_folder)} | changes), "train")


def test_missing_images_are_counted_and_the_first_is_named(coco_folder):
    (coco_folder / "train2017" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train2017: image file is missing: 1 \(b\.png\)"):
        open_split(CocoDataConfig(root=str(coco_folder)), "train")


@pytest.mark.parametrize("left", [[], [{"iscrowd": 1}], [{"bbox": [1, 2, 0, 5]}, {"bbox": [90, 2, 5, 5]}]])
def test_training_without_a_target_is_refused(coco_folder, coco_file, left):
    box = {"image_id": 3, "category_id": 90, "bbox": [1, 2, 10, 20]}
    rows = [box | {"id": number} | changes for number, changes in enumerate(left, start=1)]
    coco_file("annotations/instances_train2017.json", annotations=rows)
    with pytest.raises(ValueError, match=f"train on: {len(left)} annotations? of 2 images, none"):
        open_split(CocoDataConfig(root=str(coco_folder)), "train")


def test_each_split_has_a_limit_of_its_own_and_its_problems_are_logged(coco_folder, coco_file, caplog):
    box = {"id": 1, "image_id": 3, "category_id": 90, "bbox": [1, 2, 0, 5]}
    coco_file("annotations/instances_val2017.json", annotations=[box])
    config = CocoDataConfig(root=str(coco_folder), train_limit=1, val_limit=None)
    assert [len(read_split(config, split)[0]) for split in ("train", "val")] == [1, 2]
    path = coco_folder / "annotations/instances_val2017.json"
    expected = (
        f"left out: {path}: annotations: bbox has no area: 1 (annotation 1: bbox = [1.0, 2.0, 0.0, 5.0])"
    )
    assert expected in [record.getMessage() for record in caplog.records]


def test_sizes_out_of_range_are_refused():
    assert CocoDataConfig(min_sizes=[32, 10_000], max_size=10_000).min_sizes == [32, 10_000]
    with pytest.raises(ValueError, match=r"min_sizes = 8, must be in 32\.\.10000"):
        CocoDataConfig(min_sizes=[64, 8])
    with pytest.raises(ValueError, match=r"test_min_size = 20000, must be in"):
        CocoDataConfig(test_min_size=20_000)
    with pytest.raises(ValueError, match=r"max_size = 31, must be in"):
        CocoDataConfig(max_size=31)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_blood_cells_are_read_by_keys_alone(real_data, name):
    config = CocoDataConfig(
        root=str(real_data / "bccd"),
        val_images=name,
        val_annotations=f"annotations/{name}.json",
        test_min_size=320,
    )
    images = open_split(config, "val")
    assert isinstance(images, DetectionImages)
    assert images.coco.category_names == ["RBC", "WBC", "Platelets"]
    assert images[(0, 0)]["image"].shape == (3, 320, 427)


def test_the_batch_size_is_found_for_images_of_both_orientations(coco_folder):
    """One is 80x60, the other 32x80 pixels: neither is as large as the batch of both."""
    data = CocoDataConfig(root=str(coco_folder), min_sizes=[60], max_size=80)
    images = open_split(data, "train")
    shapes = [images[(0, index)]["image"].shape[1:] for index in range(2)]
    assert (max(h for h, _ in shapes), max(w for _, w in shapes)) == data.training_size.largest()
    assert dataclasses.replace(data, fixed_size=64).training_size.largest() == (64, 64)
    jittered = dataclasses.replace(data, scale_jitter=[0.5, 1.0], jitter_size=96)
    assert jittered.training_size.largest() == (96, 96)


def test_the_faults_of_both_splits_are_told_in_one_run(coco_folder, coco_file):
    (coco_folder / "val2017" / "b.png").unlink()
    coco_file(
        "annotations/instances_train2017.json", categories=[{"id": 1, "name": "a"}, {"id": 90, "name": "a"}]
    )
    with pytest.raises(ValueError, match="name given") as refusal:
        open_images(CocoDataConfig(root=str(coco_folder)), 0, 1)
    train = coco_folder / "annotations" / "instances_train2017.json"
    assert str(refusal.value).splitlines() == [
        f"{train}: categories: name given more than once: 1 (a)",
        f"{coco_folder / 'val2017'}: image file is missing: 1 (b.png)",
    ]
