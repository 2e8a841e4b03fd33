import json

import numpy as np
import pytest

from classification.config import ImageDataConfig
from classification.data import open_images
from detection.check_data import check
from detection.data.config import ScenesDataConfig
from detection.data.images import open_split
from detection.data.scenes import CATEGORY_IDS


def test_the_same_settings_draw_the_same_files(scenes, tmp_path):
    again = ScenesDataConfig(**vars(scenes) | {"root": str(tmp_path / "again")})
    first, second = scenes.prepare(), again.prepare()
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert len(files) == 12 + 6 + 3
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_scenes_are_written_once(scenes):
    stamps = {path: path.stat().st_mtime_ns for path in scenes.prepare().rglob("*")}
    assert {path: path.stat().st_mtime_ns for path in scenes.prepare().rglob("*")} == stamps


def test_scenes_have_what_real_data_has(scenes):
    train, val = open_split(scenes, "train").coco, open_split(scenes, "val").coco
    assert train.category_ids == sorted(CATEGORY_IDS)
    assert {1, 3, 90} < set(train.category_ids)
    assert np.diff(train.category_ids).max() > 1
    assert (np.diff(train.first) == 0).any()
    assert val.crowd.sum() == 1
    assert train.sizes.min() >= 128
    assert train.sizes.max() <= 192
    assert train.category_names == [str(digit) for digit in range(10)]


def test_boxes_hug_the_ink(scenes):
    images = open_split(scenes, "train")
    index = int(np.flatnonzero(np.diff(images.coco.first) == 1)[0])  # one digit, which nothing covers
    x, y, width, height = images.coco.bboxes[images.coco.first[index]].astype(int)
    grey = np.asarray(images.read(index).convert("L"), dtype=int)
    inside = grey[y : y + height, x : x + width] > 130
    assert all(side.any() for side in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]))


def test_validation_scenes_hold_digits_that_training_scenes_do_not(scenes):
    splits = [open_images(ImageDataConfig(name="digits"), split).images for split in ("train", "test")]
    train, test = ({image.tobytes() for image in images} for images in splits)
    assert not train & test


def test_a_folder_of_other_settings_is_refused(scenes):
    with pytest.raises(ValueError, match=r"asked for are .*'train': 13"):
        ScenesDataConfig(root=scenes.root, train_scenes=13, val_scenes=6).prepare()


def test_a_broken_scenes_file_is_named(tmp_path):
    (tmp_path / "scenes.json").write_text('{"writer": ')
    with pytest.raises(ValueError, match=r"scenes\.json: expected a scenes file in JSON"):
        ScenesDataConfig(root=str(tmp_path)).prepare()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files than scenes"):
        ScenesDataConfig(root=str(tmp_path)).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_crowd_is_one_region_with_a_mask(scenes):
    content = json.loads((scenes.prepare() / "annotations" / "val.json").read_text())
    (crowd,) = [a for a in content["annotations"] if a["iscrowd"]]
    counts, size = crowd["segmentation"]["counts"], crowd["segmentation"]["size"]
    assert sum(counts) == size[0] * size[1]
    assert sum(counts[1::2]) == crowd["bbox"][2] * crowd["bbox"][3] == crowd["area"]


def test_without_a_root_scenes_go_to_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = ScenesDataConfig(train_scenes=4, val_scenes=4).prepare()
    assert root.parent == tmp_path / "celltransfer"
    assert (root / "train").is_dir()


@pytest.mark.parametrize("split", ["train", "val"])
def test_scenes_pass_the_check(scenes, split):
    root = scenes.prepare()
    assert check(root / "annotations" / f"{split}.json", root / split, decode=True).problems == []
