"""Experiments on own data: what is sized by the images and the device, and what the user types instead."""

import json

import pytest
from PIL import Image

from conf.compose import composed


def photos(root, count):
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in range(count):
        Image.new("L", (40, 20)).save(root / "images" / f"{name}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 20} for i in range(count)]
    boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9]} for i in range(count)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (root / "labels.json").write_text(json.dumps(content))
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def detection(*words):
    return composed("detection", "experiment=own_photos", "run_dir=run", *words)


CPU, GPU = "trainer.device=cpu", "trainer.device=cuda"


def test_a_detectors_training_grows_with_the_images_and_the_device(tmp_path):
    root = f"data.root={photos(tmp_path, 200)}"  # 160 to train on
    small, large = detection(root, CPU), detection(root, GPU)
    assert (small.recipe.steps, small.recipe.batch_size, small.recipe.warmup_steps) == (960, 2, 160)
    assert (large.recipe.steps, large.recipe.batch_size) == (1200, 8)
    assert (small.data.test_min_size, large.data.test_min_size) == (320, 640)
    assert (small.detector.fpn_channels, large.detector.fpn_channels) == (64, 256)
    assert small.validate_every_steps == 192
    few = detection(f"data.root={photos(tmp_path / 'few', 10)}", CPU)
    assert (few.recipe.steps, few.backbone.name, few.backbone.cells_per_stage) == (300, "nasnet_a_mobile", 2)


def test_what_the_user_types_comes_first_and_the_rest_follows_it(tmp_path):
    root = f"data.root={photos(tmp_path, 200)}"
    recipe = detection(root, CPU, "recipe.epochs=3", "recipe.batch_size=4").recipe
    assert (recipe.steps, recipe.epochs, recipe.batch_size, recipe.warmup_steps) == (None, 3, 4, 20)
    assert detection(root, CPU, "recipe.steps=12").recipe.warmup_steps == 2
    backbone = detection(root, CPU, "backbone.weights=a.safetensors").backbone
    assert (backbone.weights, backbone.name, backbone.filters) == ("a.safetensors", None, None)
    assert detection(root, CPU, "data.test_min_size=200").data.test_min_size == 200


def test_data_that_cannot_be_opened_compose_and_are_refused_by_the_training(tmp_path):
    assert detection(f"data.root={tmp_path}/none", CPU).recipe.steps == 1200
    assert composed("classification", "experiment=own_classes", "run_dir=run", CPU).recipe.epochs == 100


def test_faulty_labels_are_read_once_for_all_values_and_anew_once_mended(tmp_path, caplog):
    caplog.set_level("INFO")
    labels = tmp_path / "voc" / "Annotations"
    labels.mkdir(parents=True)
    (tmp_path / "voc" / "JPEGImages").mkdir()
    box = "<xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    text = f"<object><name>a</name><bndbox>{box}</bndbox></object>"
    text = f"<annotation><filename>{{}}.png</filename>{text}</annotation>"
    for number in range(50):
        Image.new("L", (40, 20)).save(tmp_path / "voc" / "JPEGImages" / f"{number}.png")
        (labels / f"{number}.xml").write_text(text.format(number, "x" if number == 7 else 1))
    root = f"data.root={tmp_path / 'voc'}"
    assert detection(root, CPU).recipe.steps == 1200
    assert len([message for message in caplog.messages if "converting the labels" in message]) == 1
    (labels / "7.xml").write_text(text.format(7, 1))
    assert detection(root, CPU).recipe.steps == 300


def test_a_classifiers_training_grows_with_the_images_and_the_device(tmp_path):
    for number in range(40):
        (tmp_path / "abcd"[number % 4]).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "abcd"[number % 4] / f"{number}.png")
    words = ["experiment=own_classes", "run_dir=run", f"data.root={tmp_path}"]  # 32 to train on
    small, large = (composed("classification", *words, device) for device in (CPU, GPU))
    assert (small.recipe.epochs, small.recipe.batch_size, small.recipe.lr) == (150, 8, 0.0125)
    assert (small.backbone.image_size, large.backbone.image_size) == (96, 224)
    assert (large.recipe.epochs, large.backbone.filters) == (200, 44)
    given = composed("classification", *words, CPU, "recipe.epochs=4", "recipe.batch_size=16").recipe
    assert (given.epochs, given.warmup_epochs, given.lr) == (4, 0.2, 0.025)
