"""The wheel as a user has it: in an environment without extras, far from the clone, by the console command.

Then each extra alone. `make test-install`; it downloads PyTorch unless pip has it already.
"""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.install.conftest import REPOSITORY, Environment

pytestmark = pytest.mark.install

SIDE = 32
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
LABELLED = "data=imagefolder data.workers=0 data.resident=true data.eval_crop=1.0"
DIGITS = "data=digits data.train_limit=64 data.test_limit=32"
SCENES = "data=coco data.workers=0 data.min_sizes=[64] data.test_min_size=64"
SEARCH = """
    space.blocks=2 strategy.architectures_per_update=2 budget.children=2 window=2
    child.image_size=8 child.cells_per_stage=1 child.filters=4 child.epochs=1 child.batch_size=8
    child.batch_norm_momentum=0.5
"""
CELLS = """
    backbone.cells_per_stage=1 backbone.filters=8 backbone.stem=imagenet backbone.stem_filters=8
    backbone.image_size=32 backbone.padding=symmetric backbone.batch_norm_momentum=0.5
"""
CLASSIFICATION = """
    recipe.epochs=1 recipe.batch_size=8 recipe.lr=0.05 validate_every_epochs=null
    trainer.threads=1 trainer.device=cpu
"""
DETECTION = """
    detector.fpn_channels=8 detector.box_head.width=16 detector.box_head.pooled_size=3
    detector.rpn.anchor_sizes=[8,16,32,64,128] detector.rpn.batch_size_per_image=32
    recipe.steps=2 recipe.batch_size=2 recipe.lr=0.01 recipe.warmup_steps=1
    trainer.threads=1 trainer.device=cpu
"""
SETTINGS = {"search": SEARCH, "classification": CLASSIFICATION, "detection": SCENES + DETECTION}
PACKAGES = {"backbones", "runtime", "classification", "search", "detection", "conf", "pipeline"}


def stage(name: str, *words: str | Path, run_dir: str = "run") -> list[str]:
    """The words of a tiny training, without wandb; run_dir: relative to the folder that it runs in."""
    given = [*SETTINGS[name].split(), f"run_dir={run_dir}", *map(str, words)]
    return [name, *given, *(() if any(word.startswith("logger=") for word in given) else ("logger=csv",))]


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """Class folders: images of three colours, 8 of each to train, 4 to test."""
    root = tmp_path_factory.mktemp("labelled")
    for split, count in (("train", 8), ("test", 4)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for shade in range(count):
                pixels = tuple(value + 5 * shade + (split == "test") for value in colour)
                Image.new("RGB", (SIDE, SIDE), pixels).save(root / split / name / f"{shade}.png")
    return root


@pytest.fixture(scope="session")
def coco(tmp_path_factory) -> Path:
    """COCO's layout: coloured squares on grey, 4 images to train, 2 for evaluation."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, count in (("train", 4), ("val", 2)):
        (root / f"{split}2017").mkdir()
        content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": 1 + k, "name": name} for k, name in enumerate(COLOURS)]
        for number in range(count):
            name = f"{number}.png"
            picture = Image.new("RGB", (64, 64), (128, 128, 128))
            for k, colour in enumerate(COLOURS.values()):
                left, top, side = 2 + 20 * k, 4 + 10 * number, 16
                picture.paste(colour, (left, top, left + side, top + side))
                box = {"bbox": [left, top, side, side], "area": side * side, "iscrowd": 0}
                identity = {"id": 1 + len(content["annotations"]), "image_id": number, "category_id": 1 + k}
                content["annotations"].append(identity | box)
            picture.save(root / f"{split}2017" / name)
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 64})
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def genotype(base, folders, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    base.celltransfer(folder, *stage("search", *LABELLED.split(), f"data.root={folders}"))
    return folder / "run" / "genotype.json"


@pytest.fixture(scope="session")
def backbone(base, folders, genotype, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classification")
    cell = ("backbone=genotype", f"backbone.name={genotype}", *CELLS.split())
    base.celltransfer(folder, *stage("classification", *LABELLED.split(), f"data.root={folders}", *cell))
    return folder / "run" / "backbone.safetensors"


@pytest.fixture(scope="session")
def detector(base, coco, backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    base.celltransfer(folder, *stage("detection", f"data.root={coco}", f"backbone.weights={backbone}"))
    return folder / "run" / "detector.safetensors"


def test_the_wheel_holds_every_configuration_and_neither_tests_nor_benchmarks(wheel):
    command = ["git", "ls-tree", "-r", "--name-only", "HEAD"]
    tracked = subprocess.check_output(command, cwd=REPOSITORY, text=True)
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if name.endswith(".py")}
    wanted = [
        name
        for name in tracked.splitlines()
        if name.endswith((".py", ".yaml", ".j2")) and name.split("/")[0] in packages
    ]
    assert sorted(name for name in names if ".dist-info/" not in name) == sorted(wanted)
    assert packages == {*PACKAGES, "celltransfer.py"}


def test_classes_from_the_search_to_the_prediction(base, folders, genotype, backbone, tmp_path):
    assert not base.has("sklearn")
    assert json.loads(genotype.read_text())
    base.celltransfer(tmp_path, "classification.check_data", folders)
    data = (*LABELLED.split(), f"data.root={folders}")
    base.celltransfer(tmp_path, "classification.evaluate", f"weights={backbone}", *data)
    printed = base.celltransfer(tmp_path, "classification.predict", backbone, folders / "test/red", "--json")
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [{guess["class"] for guess in line["top"]} for line in lines] == [set(COLOURS)] * 4
    base.celltransfer(tmp_path, "pipeline.report", backbone.parent)
    assert "<html" in (backbone.parent / "report.html").read_text()


def test_boxes_from_the_training_to_the_prediction(base, coco, detector, tmp_path):
    annotations, images = coco / "annotations" / "instances_val2017.json", coco / "val2017"
    base.celltransfer(tmp_path, "detection.check_data", annotations, images)
    data = (*SCENES.split(), f"data.root={coco}")
    base.celltransfer(tmp_path, "detection.evaluate", f"weights={detector}", *data)
    base.celltransfer(tmp_path, "detection.predict", detector, images, "--output", tmp_path / "drawn")
    assert {path.name for path in (tmp_path / "drawn").iterdir()} >= {"detections.json"}
    base.celltransfer(tmp_path, "pipeline.report", detector.parent)
    assert "<html" in (detector.parent / "report.html").read_text()


def test_torch_program_needs_no_extra(base, backbone, tmp_path):
    exported(base, backbone, tmp_path, "torch", ".pt2")


@pytest.mark.parametrize(
    ("module", "what", "words"),
    [
        ("sklearn", "scikit-learn", lambda *_: stage("search", *DIGITS.split())),
        ("ray", "ray", lambda *files: on_folders_searched(*files, "executor=ray")),
        ("tensorboard", "tensorboard", lambda *files: on_folders(*files, "logger=tensorboard")),
        ("timm", "timm", lambda *files: on_folders(*files, "backbone.name=timm/resnet18")),
        ("onnx", "onnx", lambda *files: ["backbones", "export", files[2], "--format", "onnx"]),
        ("openvino", "openvino", lambda *files: ["backbones", "export", files[2], "--format", "openvino"]),
        ("detectron2", "detectron2", lambda *files: on_scenes(*files, "detector=detectron2_fpn")),
    ],
    ids=["demo", "ray", "tensorboard", "timm", "export-onnx", "export-openvino", "detectron2"],
)
def test_a_choice_without_its_extra_says_what_to_install(
    base, folders, coco, backbone, tmp_path, module, what, words
):
    """Before anything is written."""
    assert not base.has(module)
    message = base.celltransfer(tmp_path, *words(folders, coco, backbone), code=1)
    assert "Traceback" not in message
    assert what in message
    assert "which is not installed" in message
    assert "pip install" in message
    assert not any(tmp_path.iterdir())


def on_folders(folders: Path, coco: Path, backbone: Path, *words: str) -> list[str]:
    return stage(
        "classification", *LABELLED.split(), f"data.root={folders}", "backbone.image_size=32", *words
    )


def on_folders_searched(folders: Path, coco: Path, backbone: Path, *words: str) -> list[str]:
    return stage("search", *LABELLED.split(), f"data.root={folders}", *words)


def on_scenes(folders: Path, coco: Path, backbone: Path, *words: str) -> list[str]:
    return stage("detection", f"data.root={coco}", f"backbone.weights={backbone}", *words)


def exported(environment: Environment, backbone: Path, folder: Path, form: str, suffix: str) -> None:
    output = folder / f"network{suffix}"
    environment.celltransfer(folder, "backbones", "export", backbone, "--format", form, "--output", output)
    assert output.stat().st_size > 0


def test_extra_demo_searches_the_digits(with_extra, tmp_path):
    with_extra("demo").celltransfer(tmp_path, *stage("search", *DIGITS.split()))
    assert (tmp_path / "run" / "genotype.json").is_file()


def test_extra_tensorboard_logs_there(with_extra, folders, coco, backbone, tmp_path):
    words = on_folders(
        folders, coco, backbone, "backbone=nasnet_a_cifar", *CELLS.split(), "logger=tensorboard"
    )
    with_extra("tensorboard").celltransfer(tmp_path, *words)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_extra_ray_looks_for_a_cluster(with_extra, folders, tmp_path):
    words = on_folders_searched(folders, folders, folders, "executor=ray", "executor.address=127.0.0.1:1")
    assert "no Ray cluster" in with_extra("ray").celltransfer(tmp_path, *words, code=1)


def test_extra_timm_trains_its_networks(with_extra, folders, coco, backbone, tmp_path):
    words = on_folders(folders, coco, backbone, "backbone.name=timm/resnet18")
    with_extra("timm").celltransfer(tmp_path, *words)
    assert (tmp_path / "run" / "backbone.safetensors").is_file()


def test_extra_export_writes_both_formats(with_extra, backbone, tmp_path):
    environment = with_extra("export")
    exported(environment, backbone, tmp_path, "onnx", ".onnx")
    exported(environment, backbone, tmp_path, "openvino", ".xml")


def test_extra_detectron2_with_the_pinned_wheel_trains(with_extra, folders, coco, backbone, tmp_path):
    """The wheel is tagged for one version of Python, hence --target; as `make detectron2` installs it."""
    environment = with_extra("detectron2")
    wheel = REPOSITORY / "requirements" / "detectron2.txt"
    options = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", "3.10")
    environment.pip("install", *options, "--target", environment.packages, "--requirement", wheel)
    environment.celltransfer(tmp_path, *on_scenes(folders, coco, backbone, "detector=detectron2_fpn"))
    assert (tmp_path / "run" / "detector.safetensors").is_file()
