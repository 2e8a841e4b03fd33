"""Augmentation: boxes stay on what they enclose; what is drawn hangs on seed, epoch and image alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data import sizing
from detection.data.augment import ColorJitter, draw_words, placed_boxes, placed_image
from detection.data.config import CocoDataConfig
from detection.data.images import collate, open_split
from detection.data.sizing import Fixed, Placement, ScaleJitter, ShortestEdge, SizeRecord
from runtime.loading import ResumableLoader
from runtime.random import unit

JITTER = {"scale_jitter": [0.3, 2.0], "jitter_size": 64}
COLORS = {"color_jitter": [0.4, 0.4, 0.4, 0.1]}


@pytest.fixture
def marked(coco_folder):
    """The training images dark, with white where the boxes are that are trained on."""
    for name, size, box in (("a.png", (40, 30), (35, 5, 40, 13)), ("b.png", (20, 50), (1, 2, 11, 22))):
        picture = Image.new("RGB", size)
        picture.paste((255, 255, 255), box)
        picture.save(coco_folder / "train2017" / name)
    return coco_folder


def assert_box_is_where_it_is_bright(sample, slack: int) -> None:
    """slack: pixels by which the blurred edge may differ."""
    bright = sample["image"][0] > 200
    x1, y1, x2, y2 = sample["target"]["boxes"][0].tolist()
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    assert np.abs(np.subtract(edges, (x1, y1, x2, y2))).max() <= slack


def test_a_jittered_image_has_the_squares_size_and_its_boxes_follow(marked):
    images = open_split(CocoDataConfig(root=str(marked), **JITTER), "train")
    kept = 0
    for epoch in range(40):
        for index in (0, 1):
            sample = images[(epoch, index)]
            assert sample["image"].shape == (3, 64, 64)
            boxes = sample["target"]["boxes"]
            assert len(boxes) == len(sample["target"]["labels"])
            if len(boxes) and (boxes[0, 2:] - boxes[0, :2]).min() >= 4:
                assert_box_is_where_it_is_bright(sample, slack=2)
                kept += 1
            elif not len(boxes):
                assert not (sample["image"][0] > 240).any()
    assert kept > 20


def test_boxes_that_a_crop_loses_are_left_out_and_others_cut():
    placement = Placement((100, 200), window=(50, 50), corner=(25, 100))
    boxes = np.array([[0, 0, 40, 40], [45, 10, 60, 30], [90, 5, 100, 45]], np.float32)
    placed, seen = placed_boxes(boxes, placement, (50, 100))
    assert seen.tolist() == [False, True, False]
    assert placed[1].tolist() == [0, 0, 20, 35]


@pytest.mark.parametrize("scale", [0.1, 0.73, 1.0, 2.0])
def test_jittered_sizes_and_pixels_are_detectron2s(scale):
    transforms = pytest.importorskip("detectron2.data.transforms", reason="needs Detectron2")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (48, 64, 3), np.uint8)
    size = ScaleJitter(0.1, 2.0, 100).size((48, 64), scale)
    scaled = transforms.ResizeScale(scale, scale, 100, 100)(transforms.AugInput(pixels)).apply_image(pixels)
    assert scaled.shape[:2] == size
    crop = transforms.FixedSizeCrop((100, 100))
    np.random.seed(3)
    offset = np.round(np.maximum(np.subtract(size, 100), 0) * np.random.uniform()).astype(int)
    np.random.seed(3)
    expected = crop(transforms.AugInput(scaled)).apply_image(scaled)
    placement = Placement(size, window=(100, 100), corner=tuple(offset.tolist()))
    own = placed_image(Image.fromarray(pixels), placement)
    # Where a part is enlarged alone, Pillow rounds the filter's weights otherwise.
    assert np.abs(np.asarray(own, int) - expected.astype(int)).max() <= 2


@pytest.mark.parametrize("config", [JITTER, COLORS, JITTER | COLORS, {"min_sizes": [40, 50]}])
def test_what_is_drawn_depends_on_seed_epoch_and_image_only(coco_folder, config):
    def pictures(seed, epochs):
        images = open_split(CocoDataConfig(root=str(coco_folder), **config), "train", seed=seed)
        return [images[(epoch, 1)]["image"] for epoch in epochs]

    def equal(some, others):
        return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(some, others, strict=True))

    first = pictures(1, range(6))
    assert equal(first, pictures(1, reversed(range(6)))[::-1])
    assert not equal(first, pictures(2, range(6)))
    assert not equal(first[:1] * 6, first)


def test_a_setting_changes_no_other_draw(marked):
    plain = open_split(CocoDataConfig(root=str(marked), min_sizes=[40, 50, 60]), "train")
    colored = open_split(CocoDataConfig(root=str(marked), min_sizes=[40, 50, 60], **COLORS), "train")
    for epoch in range(8):
        one, other = plain[(epoch, 0)], colored[(epoch, 0)]
        assert torch.equal(one["target"]["boxes"], other["target"]["boxes"])


def test_draws_are_uniform():
    draws = np.stack([unit(draw_words(0, 3, index)) for index in range(2000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(draws.T) - np.eye(draws.shape[1])).max() < 0.1


def test_colours_change_within_their_strengths():
    picture = Image.new("RGB", (8, 8), (100, 100, 100))
    jitter = ColorJitter(0.4, 0, 0, 0)
    levels = [np.asarray(jitter.image(picture, draw_words(0, 0, index)))[0, 0, 0] for index in range(200)]
    assert 60 <= min(levels) < 65
    assert 135 < max(levels) <= 140
    assert ColorJitter(0, 0, 0, 0).image(picture, draw_words(0, 0, 0)) is picture


def test_each_colour_change_is_torchvisions():
    from torchvision.transforms.v2 import functional

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    picture, words = Image.fromarray(pixels), draw_words(0, 0, 5)
    draws = (2 * unit(words[5:9]) - 1).tolist()
    for place, (strengths, change, amount) in enumerate(
        [
            ((0.5, 0, 0, 0), functional.adjust_brightness, 1 + 0.5 * draws[0]),
            ((0, 0.5, 0, 0), functional.adjust_contrast, 1 + 0.5 * draws[1]),
            ((0, 0, 0.5, 0), functional.adjust_saturation, 1 + 0.5 * draws[2]),
            ((0, 0, 0, 0.2), functional.adjust_hue, 0.2 * draws[3]),
        ]
    ):
        own = np.asarray(ColorJitter(*strengths).image(picture, words))
        assert (own == np.asarray(change(picture, amount))).all(), place


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_fixed_size_holds_for_training_and_evaluation(marked, split):
    config = CocoDataConfig(root=str(marked), fixed_size=60, flip=False)
    sample = open_split(config, split)[(0, 0)]
    assert sample["image"].shape == (3, 60, 60)
    assert sample["target"]["boxes"].tolist() == [[35 * 60 / 40, 10, 60, 26]]
    assert config.evaluation_size == Fixed(60)


def test_what_lies_beyond_a_picture_is_grey():
    seen = placed_image(Image.new("RGB", (4, 2)), Placement((2, 4), window=(3, 6)))
    assert np.asarray(seen)[..., 0].tolist() == [[0] * 4 + [128] * 2] * 2 + [[128] * 6]


def test_every_choice_has_a_draw_of_its_own():
    single = [sizing.FLIP, sizing.SIZE, sizing.SCALE, sizing.TOP, sizing.LEFT, sizing.SAMPLING]
    colours = range(sizing.COLORS, sizing.COLORS + 8)
    assert sorted([*single, *colours]) == list(range(len(draw_words(0, 0, 0))))


def test_a_jittered_picture_has_a_pixel_at_least():
    assert ScaleJitter(0.1, 2.0, 100).size((10, 1000), 0.1) == (1, 10)


def test_a_size_mirrors_only_where_it_is_told_to():
    assert ShortestEdge((60,), 100).place((30, 40)) == Placement((60, 80))
    assert Fixed(60).place((30, 40)) == Placement((60, 60))
    assert ShortestEdge((60,), 100).place((30, 40), True) == Placement((60, 80), flipped=True)


def test_a_picture_of_any_shape_is_resized_as_the_size_says():
    picture = Image.new("RGB", (40, 30))
    assert placed_image(picture, ShortestEdge((60,), 100).place((30, 40))).size == (80, 60)
    assert placed_image(picture, Fixed(60).place((30, 40))).size == (60, 60)


@pytest.mark.parametrize("size", [ShortestEdge((60,), 100), Fixed(60)])
def test_a_size_comes_back_from_its_record(size):
    assert SizeRecord.of(size).size == size


@pytest.mark.parametrize("workers", [0, 2])
def test_wide_and_tall_images_fill_batches_of_their_own(tmp_path, coco_file, workers):
    sizes = [(40, 30) if number % 3 else (30, 40) for number in range(20)]
    images = [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]}
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "images" / image["file_name"])
    config = CocoDataConfig(
        root=str(tmp_path),
        train_images="images",
        train_annotations=coco_file(images=images, annotations=[box]).name,
        min_sizes=[32],
        group_by_aspect=True,
    )
    data = open_split(config, "train")
    loader = ResumableLoader(data, 2, seed=0, shuffle=True, workers=workers, drop_last=True, collate=collate)
    iterator = iter(loader)
    batches = [next(iterator) for _ in range(9)]  # 7 tall images and 13 wide ones: 3 + 6 full batches
    assert all(len({sample["image"].shape for sample in batch}) == 1 for batch in batches)
    again = ResumableLoader(data, 2, seed=0, shuffle=True, drop_last=True, collate=collate)
    again.load_state_dict({"epoch": 0, "batches_given": 4})
    rest = [[sample["index"] for sample in batch] for batch in again]
    assert rest[:5] == [[sample["index"] for sample in batch] for batch in batches[4:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_jitter": [2.0, 0.1]}, "scale_jitter = .*, must be two rising scales"),
        ({"scale_jitter": [0.5]}, "scale_jitter = .*, must be two rising scales"),
        ({"color_jitter": [0.4, 0.4, 0.4]}, "color_jitter = .*, must be brightness"),
        ({"color_jitter": [0.4, 0.4, 0.4, 0.6]}, "hue in 0..0.5"),
        ({"fixed_size": 16}, "fixed_size = 16, must be in 32"),
        ({"jitter_size": 16}, "jitter_size = 16, must be in 32"),
        (
            {"fixed_size": 600, "scale_jitter": [0.1, 2.0]},
            "fixed_size and scale_jitter are both set",
        ),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CocoDataConfig(**changes)
