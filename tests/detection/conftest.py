import json
from pathlib import Path

import pytest
import torch
from annotated_folder import annotated_folder
from label_folders import ROW, picture, put, xml
from PIL import Image

from backbones import weights
from backbones.factory import create
from detection.data.config import ScenesDataConfig
from detection.engines.config import TorchvisionFpnConfig
from detection.model.config import BoxHeadConfig, RpnConfig
from detection.train import run as train
from detection.training.config import BackboneSource, DetectionConfig
from detection.training.recipe import DetectionRecipe
from runtime.config import LoggerConfig, TrainerConfig


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """On maps this small a second thread waits more than it works, and for seconds where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def coco_file(tmp_path):
    """Two images, three boxes (one a crowd region), categories 1 and 90; returns a function that writes it
    with changes: a key to the new value, or to a function of the old one."""

    def write(name: str = "annotations.json", **changes) -> Path:
        content = {
            "images": [
                {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
                {"id": 3, "file_name": "b.png", "width": 20, "height": 50, "license": 4},
            ],
            "annotations": [
                {"id": 11, "image_id": 3, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150.5},
                {
                    "id": 12,
                    "image_id": 7,
                    "category_id": 1,
                    "bbox": [35, 5, 10.5, 8],
                    "segmentation": [[1, 2]],
                },
                {"id": 5, "image_id": 3, "category_id": 1, "bbox": [0, 0, 20, 50], "iscrowd": 1},
            ],
            "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
            "info": {"year": 2017},
        }
        for key, change in changes.items():
            content[key] = change(content[key]) if callable(change) else change
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def coco_folder(tmp_path, coco_file):
    """A root in COCO's layout whose two splits are the annotations of `coco_file`."""
    for split, colour in (("train", (200, 10, 10)), ("val", (10, 200, 10))):
        folder = tmp_path / f"{split}2017"
        folder.mkdir()
        Image.new("RGB", (40, 30), colour).save(folder / "a.png")
        Image.new("RGB", (20, 50), colour).save(folder / "b.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        coco_file(f"annotations/instances_{split}2017.json")
    return tmp_path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Configuration of a few digit scenes, written once for all tests."""
    config = ScenesDataConfig(
        root=str(tmp_path_factory.mktemp("data") / "scenes"),
        train_scenes=12,
        val_scenes=6,
        min_sizes=[96],
        test_min_size=96,
    )
    config.prepare()
    return config


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """Weights of a small NASNet with the imagenet stem; untrained, which no test minds."""
    torch.manual_seed(0)
    network = create("nasnet_a_mobile", 10, cells_per_stage=1, filters=8, stem_filters=4, image_size=64)
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    weights.save(network, path, classes=[str(digit) for digit in range(10)])
    return path


@pytest.fixture(scope="session")
def small_config():
    """Returns a function that configures a detector small enough for a step in tenths of a second."""

    def make(run_dir: Path, backbone_file: Path, data, **recipe) -> DetectionConfig:
        return DetectionConfig(
            run_dir=str(run_dir),
            backbone=BackboneSource(weights=str(backbone_file)),
            data=data,
            detector=TorchvisionFpnConfig(
                fpn_channels=8,
                rpn=RpnConfig(
                    anchor_sizes=[16, 32, 64, 96, 128],
                    batch_size_per_image=32,
                    pre_nms_train=50,
                    pre_nms_test=50,
                    post_nms_train=30,
                    post_nms_test=30,
                ),
                box_head=BoxHeadConfig(width=16, batch_size_per_image=16, pooled_size=3, score_threshold=0.0),
            ),
            recipe=DetectionRecipe(**{"batch_size": 2, "steps": 4, "lr": 0.01, "warmup_steps": 2} | recipe),
            trainer=TrainerConfig(device="cpu", threads=1, checkpoint_steps=1),
            logger=LoggerConfig(name="csv"),
        )

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_config, backbone_file, scenes):
    """A finished run: its folder and what it returned."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(small_config(folder, backbone_file, scenes))


@pytest.fixture
def data(tmp_path):
    """Writes the annotations of a small data set; see `annotated_folder`."""
    return annotated_folder(tmp_path)


@pytest.fixture
def yolo(tmp_path):
    """a.png with one cat, b.png without a label file."""
    root = tmp_path / "set"
    for name in ("a", "b"):
        picture(root / "images" / f"{name}.png")
    put(root / "labels" / "a.txt", ROW)
    put(root / "data.yaml", "names: [cat, dog]\n")
    return root


@pytest.fixture
def voc(tmp_path):
    """The same."""
    root = tmp_path / "set"
    for name in ("a", "b"):
        picture(root / "JPEGImages" / f"{name}.png")
    put(root / "Annotations" / "a.xml", xml())
    return root
