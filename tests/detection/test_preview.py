"""The sheet of a run's first training images."""

import shutil

import numpy as np
import pytest
from commands import run_here
from label_folders import picture, put

from detection.data.annotations import read_coco
from detection.data.images import DetectionImages
from detection.data.sizing import ShortestEdge
from detection.evaluation.draw import colour
from detection.evaluation.preview import GAP, sheet, write_preview

COCO = """{"images": [%s], "categories": [{"id": 1, "name": "i"}, {"id": 2, "name": "l"}],
"annotations": [{"id": 1, "image_id": 0, "category_id": 2, "bbox": [10, 5, 20, 10]}]}"""


@pytest.fixture
def images(tmp_path):
    """Three black ones of 40x20 px, seen at 160x80; the first has a box."""
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    entries = [f'{{"id": {i}, "file_name": "{i}.png", "width": 40, "height": 20}}' for i in range(3)]
    coco, _ = read_coco(put(tmp_path / "labels.json", COCO % ",".join(entries)))
    return DetectionImages(coco, tmp_path, ShortestEdge((80,), 1000))


def test_boxes_lie_where_training_sees_them(images):
    drawn = np.asarray(sheet(images, [(0, 2), (0, 0), (0, 1)]))
    assert drawn.shape == (2 * 80 + GAP, 2 * 160 + GAP, 3)
    left = 160 + GAP  # of the second tile, whose box is 40..120 x 20..60 there
    tile = drawn[:80, left : left + 160]
    for y, x in ((40, 40), (40, 119), (59, 80)):
        near = tile[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert (near == colour(1)).all(axis=1).any(), (y, x)
    assert (tile[40, 45:115] == 0).all()  # inside
    assert (drawn[:80, :160] == 0).all()  # no box on the first tile
    assert (drawn[:, 160:left] == 255).all()
    assert (drawn[80 + GAP :, left:] == 255).all()  # three tiles in a grid of four


def test_the_first_images_of_the_order_are_shown_once_and_never_again(images, tmp_path):
    write_preview(tmp_path, images, [2, 0, 1], 2, [])
    path = tmp_path / "preview.jpg"
    before = path.stat().st_mtime_ns
    write_preview(tmp_path, images, [0, 1, 2], 2, [])
    assert path.stat().st_mtime_ns == before


def test_an_image_that_cannot_be_read_is_named(images, tmp_path):
    put(tmp_path / "1.png", "no image")
    with pytest.raises(ValueError, match=r"1\.png: cannot be read as an image"):
        write_preview(tmp_path, images, [2, 1], 2, [])
    assert not (tmp_path / "preview.jpg").exists()


def test_the_command_draws_what_a_run_saw_first(trained, tmp_path):
    folder, _ = trained
    done = run_here("detection.preview", f"run={folder}", "images=8", "sheets=9", "output=out", cwd=tmp_path)
    assert done.stderr.splitlines()[1:] == ["out/train-1.jpg: 8 images", "out/train-2.jpg: 4 images"]
    assert "12 images; short side 96 px" in done.stderr
    assert (tmp_path / "out/train-1.jpg").read_bytes() == (folder / "preview.jpg").read_bytes()


def test_the_words_of_a_training_give_its_sizes_and_the_split_of_a_folder(voc, tmp_path):
    for name in "cdefgh":
        shutil.copy(voc / "JPEGImages/b.png", voc / f"JPEGImages/{name}.png")
    words = ["experiment=own_photos", f"data.root={voc}", "trainer.device=cpu"]
    done = run_here("detection.preview", *words, cwd=tmp_path)
    assert "short side 288, 320, 352 px, long side at most 533 px" in done.stderr
    done = run_here("detection.preview", *words, "split=val", cwd=tmp_path)
    assert "short side 320 px" in done.stderr
    assert sorted(path.name for path in (tmp_path / "preview").iterdir()) == ["train-1.jpg", "val-1.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=no"], "no/config.yaml: no such configuration file"),
        (["run=here"], "here/config.yaml: not the configuration of a detection run"),
        (["run=run"], "run/config.yaml: data: Expected `object`, got `int`"),
        (["output=here", "data=scenes"], "output = here holds a run; choose another folder"),
        (["split=test"], "split = 'test', expected one of train, val"),
        (["experiment=own_classes"], "is one of python -m classification; those of python -m detection.pre"),
        (["data=folder"], "data.root is not set: the folder of images and their labels"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(words, message, tmp_path):
    put(tmp_path / "here/config.yaml", "seed: 0\n")
    put(tmp_path / "run/config.yaml", "{data: 3, recipe: {}, detector: {}, seed: 0}\n")
    done = run_here("detection.preview", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "preview").exists()
