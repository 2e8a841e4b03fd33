import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from backbones import weights
from backbones.genotype import Block, Cell, Genotype
from backbones.zoo import create
from detection import check_data, predict
from detection.backbone import BackboneSource, FrozenStatistics, freeze_statistics
from detection.data import CocoDataConfig
from detection.detector import Detector
from detection.evaluate import METRICS, EvaluateConfig
from detection.evaluate import run as evaluate
from detection.module import DetectionRecipe
from detection.scenes import CATEGORY_IDS
from detection.train import run as train
from runtime.folder import plain

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_run_leaves_weights_predictions_and_the_twelve_numbers(trained, scenes):
    folder, result = trained
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert list(result["metrics"]) == list(METRICS)
    assert all(0 <= value <= 1 for value in result["metrics"].values())
    assert list(result["per_class"]) == [str(digit) for digit in range(10)]
    areas = scenes.open("val").coco.areas[~scenes.open("val").coco.crowd]
    absent = [key for key, here in (("s", areas < 32**2), ("l", areas > 96**2)) if not here.any()]
    assert result["undefined"] == [metric + size for metric in ("AP", "AR") for size in absent]
    assert "APl" in result["undefined"]  # no digit of a scene is larger than 84 px
    predictions = json.loads((folder / "predictions.json").read_text())
    assert {frozenset(p) for p in predictions} == {frozenset(["image_id", "category_id", "bbox", "score"])}
    assert {p["image_id"] for p in predictions} <= set(scenes.open("val").coco.image_ids.tolist())


def test_a_finished_run_returns_its_figures_without_its_data(
    trained, small_config, backbone_file, scenes, tmp_path
):
    folder, result = trained
    moved = type(scenes)(**vars(scenes) | {"root": str(tmp_path / "gone")})
    assert train(small_config(folder, backbone_file, moved)) == result
    assert not (tmp_path / "gone").exists()


def test_the_weights_alone_give_the_numbers_of_the_run(trained, scenes, tmp_path, capsys):
    folder, result = trained
    config = EvaluateConfig(weights=str(folder / "detector.safetensors"), data=scenes, output=str(tmp_path))
    assert evaluate(config)["metrics"] == result["metrics"]
    assert json.loads((tmp_path / "predictions.json").read_text()) == json.loads(
        (folder / "predictions.json").read_text()
    )


def test_the_detector_file_describes_itself_as_the_backbone_file_does(trained, backbone_file):
    _, ours = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    _, theirs = weights.read_safetensors(backbone_file, "backbone")
    assert (ours["engine"], ours["head"]) == ("torchvision_fpn", "fpn")
    assert ours["input"] == {"min_size": 96, "max_size": 192}
    for key in ("network", "preprocessing"):
        assert ours[key] == theirs[key]
    assert ours["categories"][:2] == [{"id": 1, "name": "0"}, {"id": 3, "name": "1"}]


def test_a_device_that_is_none_is_named_without_a_traceback(trained, scenes, tmp_path, capsys):
    file = str(trained[0] / "detector.safetensors")
    arguments = [file, str(scenes.prepare() / "val"), "--output", str(tmp_path / "out"), "--device", "foo"]
    assert predict.main(arguments) == 1
    assert capsys.readouterr().err.startswith("device = 'foo', expected auto, cpu, cuda")
    assert not (tmp_path / "out").exists()


def test_a_detector_looks_at_pictures_and_tensors_alike(trained, scenes):
    detector = Detector.load(trained[0] / "detector.safetensors", device="cpu")
    images = scenes.open("val")
    picture = images.read(0).resize((300, 200))
    tensor = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(200, 300, 3).permute(2, 0, 1)
    )
    by_picture, by_bytes, by_floats = (detector([image])[0] for image in (picture, tensor, tensor / 255))
    assert len(by_picture["boxes"]) > 0
    for other in (by_bytes, by_floats):
        assert torch.equal(by_picture["boxes"], other["boxes"])
        assert torch.equal(by_picture["scores"], other["scores"])
    boxes = by_picture["boxes"]
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 300).all()
    assert (boxes[:, [1, 3]] <= 200).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert by_picture["names"] == [detector.categories[label].name for label in by_picture["labels"].tolist()]
    assert by_picture["scores"].tolist() == sorted(by_picture["scores"].tolist(), reverse=True)


def test_files_that_are_no_detector_are_refused_with_the_key(trained, backbone_file, tmp_path):
    with pytest.raises(ValueError, match=r"backbone\.safetensors: kind = 'backbone', expected 'detector'"):
        Detector.load(backbone_file)
    tensors, metadata = weights.read_safetensors(trained[0] / "detector.safetensors", "detector")
    path = tmp_path / "detector.safetensors"

    def changed(**values):
        return metadata["preprocessing"] | values

    for changes, message in (
        ({"engine": "yolo"}, "engine = yolo, expected one of torchvision_fpn"),
        ({"categories": [{"id": "one", "name": "1"}]}, "Expected `int`, got `str`"),
        (
            {"categories": metadata["categories"][:3]},
            r"box_head.class_logits.weight is \(11, 16\), expected \(4, 16\)",
        ),
        (
            {"detector": {**metadata["detector"], "fpn_channels": 0}},
            "detector.fpn_channels = 0, must be at least 1",
        ),
        ({"input": {"min_size": 0, "max_size": 192}}, "input: input.min_size = 0, must be in 32..10000"),
        ({"input": {"min_size": 96}}, "input: .*max_size"),
        (
            {"preprocessing": changed(mean=[0.5] * 4)},
            "preprocessing: preprocessing.std = .*expected 4 values",
        ),
        ({"preprocessing": changed(mean=[0.5], std=[0.5])}, "preprocessing.mean has 1 values, expected 3"),
        ({"preprocessing": changed(std=[0.5, 0.5, 0])}, "preprocessing: preprocessing.std = "),
        (
            {"preprocessing": changed(mean="grey")},
            r"preprocessing: Expected `array`, got `str` - at `\$.mean`",
        ),
    ):
        weights.write_safetensors(path, "detector", tensors, metadata | changes)
        with pytest.raises(ValueError, match=message) as refusal:
            Detector.load(path)
        assert str(refusal.value).startswith(f"{path}: ")


def test_pretrained_statistics_are_frozen_and_fresh_ones_are_not(
    trained, small_config, backbone_file, scenes, tmp_path
):
    source = weights.load(backbone_file).state_dict()
    tensors = load_file(trained[0] / "detector.safetensors")
    name = "cells.cell_0.blocks"
    means = [key for key in tensors if key.endswith("running_mean") and name in key]
    assert means
    assert all(torch.equal(tensors[key], source[key.removeprefix("backbone.")]) for key in means)

    config = small_config(tmp_path / "scratch", backbone_file, scenes, steps=1)
    config.backbone = BackboneSource(weights=str(backbone_file), from_scratch=True)
    train(config)
    fresh = load_file(tmp_path / "scratch" / "detector.safetensors")
    assert not any(torch.equal(fresh[key], source[key.removeprefix("backbone.")]) for key in means)


def test_a_control_from_scratch_may_have_a_momentum_of_its_own_and_a_slow_one_is_warned_of(
    small_config, backbone_file, scenes, tmp_path, caplog
):
    means = {}
    for name, momentum in (("slow", None), ("fast", 0.9)):
        caplog.clear()
        config = small_config(tmp_path / name, backbone_file, scenes, steps=2)
        config.backbone = BackboneSource(
            weights=str(backbone_file), from_scratch=True, batch_norm_momentum=momentum
        )
        train(config)
        warned = "after 2 batches the statistics that evaluation uses still consist to 100 %" in caplog.text
        assert warned == (momentum is None)
        means[name] = load_file(tmp_path / name / "detector.safetensors")["backbone.stem.1.running_mean"]
    # Of weights that start alike: 0.0003 leaves 0.9997^2 of the start, 0.9 leaves 0.01 of it.
    assert means["fast"].abs().sum() > 100 * means["slow"].abs().sum() > 0


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet"])
def test_a_network_of_timm_becomes_a_detector(name, small_config, scenes, tmp_path):
    """The second has its activations inside its batch norms."""
    pytest.importorskip("timm")
    network = create(name, 10, image_size=64)
    network(torch.randn(8, 3, 64, 64))  # moves the running statistics
    weights.save(network, tmp_path / "backbone.safetensors", classes=[str(digit) for digit in range(10)])
    metrics = train(small_config(tmp_path / "run", tmp_path / "backbone.safetensors", scenes))["metrics"]
    assert list(metrics) == list(METRICS)

    tensors = load_file(tmp_path / "run" / "detector.safetensors")
    for norm, value in network.state_dict().items():
        if "running_mean" in norm and f"backbone.{norm}" in tensors:  # the classifier's layers are gone
            assert torch.equal(tensors[f"backbone.{norm}"], value)
    stem = next(name for name in network.state_dict() if name.endswith("conv1.weight") or "conv_stem" in name)
    assert not torch.equal(tensors[f"backbone.{stem}"], network.state_dict()[stem])
    detector = Detector.load(tmp_path / "run" / "detector.safetensors", device="cpu")
    assert detector.engine.backbone.spec.timm == name.removeprefix("timm/")
    found = detector([Image.open(next((Path(scenes.root) / "val").glob("*.png")))])
    assert found[0]["boxes"].shape[1] == 4


def test_a_network_without_a_pyramid_is_refused_by_name(small_config, scenes, tmp_path):
    pytest.importorskip("timm")
    weights.save(create("timm/test_vit", 10), tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="backbone has 16: choose another network of timm than test_vit"):
        train(small_config(tmp_path / "run", tmp_path / "backbone.safetensors", scenes))
    assert not (tmp_path / "run").exists()


def test_frozen_statistics_normalise_as_evaluation_does():
    plain_norm = torch.nn.BatchNorm2d(3)
    plain_norm.load_state_dict(
        {name: torch.rand_like(v.float()) + 0.5 for name, v in plain_norm.state_dict().items()}
    )
    frozen = freeze_statistics(torch.nn.Sequential(copy.deepcopy(plain_norm)))[0]
    assert isinstance(frozen, FrozenStatistics)
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(frozen.train()(x), plain_norm.eval()(x))
    for name, value in plain_norm.state_dict().items():
        assert torch.equal(frozen.state_dict()[name], value)


def test_a_run_killed_between_steps_continues_to_the_same_bits(
    trained, small_config, backbone_file, scenes, tmp_path
):
    """kill -9 in the middle of training, then the same command again; `trained` is the unbroken run."""
    unbroken, expected = trained
    config = small_config(tmp_path, backbone_file, scenes)
    script = textwrap.dedent(
        f"""
        import os
        import msgspec
        from detection.module import DetectionModule
        from detection.scenes import ScenesDataConfig
        from detection.train import DetectionConfig, run

        step = DetectionModule.training_step
        def step_or_die(self, samples, index):
            if self.global_step == 3:
                os.kill(os.getpid(), 9)
            return step(self, samples, index)
        DetectionModule.training_step = step_or_die

        content = {plain(config)!r}
        config = msgspec.convert(content, DetectionConfig)
        config.data = ScenesDataConfig(**content["data"])
        run(config)
        """
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "metrics.json").exists()

    assert train(config) == expected
    ours, theirs = (load_file(folder / "detector.safetensors") for folder in (tmp_path, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_cifar_stem_is_refused_in_one_sentence_before_anything_is_written(small_config, scenes, tmp_path):
    path = tmp_path / "backbone.safetensors"
    weights.save(create("nasnet_a_cifar", 10, cells_per_stage=1, filters=4, stem_filters=4), path)
    with pytest.raises(
        ValueError, match=r"backbone\.safetensors has the cifar stem.*train the classifier with the"
    ):
        train(small_config(tmp_path / "run", path, scenes))
    assert not (tmp_path / "run").exists()


def test_a_genotype_without_a_map_at_stride_4_is_refused_for_what_it_is(small_config, scenes, tmp_path):
    normal = Cell.with_unused_concat([Block(0, 0, "sep_conv_3x3", "identity")])
    reduction = Cell.with_unused_concat([Block(1, 1, "sep_conv_3x3", "max_pool_3x3")])
    Genotype(normal, reduction).save(tmp_path / "genotype.json")
    config = small_config(tmp_path / "run", tmp_path, scenes)
    config.backbone = BackboneSource(name=str(tmp_path / "genotype.json"), cells_per_stage=1, filters=8)
    with pytest.raises(
        ValueError, match="this genotype's cells leave no map at stride 4; choose another child"
    ):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "give one, a backbone.safetensors or a network's name"),
        ({"weights": "a", "name": "b"}, "give one"),
        ({"weights": "a", "filters": 8}, "backbone.filters belongs to backbone.name"),
        ({"weights": "a", "batch_norm_momentum": 0.1}, "backbone.batch_norm_momentum belongs to"),
        ({"weights": "a", "from_scratch": True, "filters": 8}, "backbone.filters belongs to backbone.name"),
        ({"name": "nasnet_a_mobile", "from_scratch": True}, "from_scratch needs backbone.weights"),
    ],
)
def test_contradicting_backbone_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        BackboneSource(**keys)


def test_categories_that_differ_between_the_splits_are_refused(
    small_config, backbone_file, coco_folder, coco_file, tmp_path
):
    coco_file("annotations/instances_val2017.json", categories=lambda c: [{**c[0], "name": "brush"}, c[1]])
    config = small_config(tmp_path / "run", backbone_file, CocoDataConfig(root=str(coco_folder)))
    with pytest.raises(ValueError, match=r"instances_val2017\.json has 2 categories.*'brush'.*'toothbrush'"):
        train(config)


def test_the_rate_warms_up_and_falls_by_ten_at_the_milestones():
    recipe = DetectionRecipe(warmup_steps=10, milestones=[0.5, 0.75])
    assert [recipe.rate(step, 100) for step in (0, 5, 10, 49)] == pytest.approx([0.001, 0.5005, 1, 1])
    assert [recipe.rate(step, 100) for step in (50, 74, 75, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_a_momentum_that_never_forgets_is_refused():
    with pytest.raises(ValueError, match=r"recipe\.momentum = 1\.0, must be in \[0, 1\)"):
        DetectionRecipe(momentum=1.0)


def test_predict_draws_lists_and_tabulates(trained, scenes, tmp_path, capsys):
    images = scenes.prepare() / "val"
    paths = sorted(str(path) for path in images.iterdir())[:2]
    output = tmp_path / "out"
    weights_file = str(trained[0] / "detector.safetensors")
    found = Detector.load(weights_file, "cpu")([Image.open(path) for path in paths])
    least = float(torch.cat([one["scores"] for one in found]).median())
    arguments = ["--output", str(output), "--min-score", str(least), "--device", "cpu"]
    assert predict.main([weights_file, *paths, *arguments]) == 0
    content = json.loads((output / "detections.json").read_text())
    expected = [
        (
            number,
            path,
            name,
            pytest.approx(score, abs=1e-6),
            pytest.approx([x, y, right - x, low - y], abs=1e-3),
        )
        for number, (path, one) in enumerate(zip(paths, found, strict=True), start=1)
        for name, score, (x, y, right, low) in zip(
            one["names"], one["scores"].tolist(), one["boxes"].tolist(), strict=True
        )
        if score >= least
    ]
    assert expected
    keys = ("image_id", "file_name", "category", "score", "bbox")
    assert [tuple(detection[key] for key in keys) for detection in content] == expected
    ids = dict(zip((str(digit) for digit in range(10)), CATEGORY_IDS, strict=True))
    assert all(detection["category_id"] == ids[detection["category"]] for detection in content)
    assert sorted(path.name for path in output.iterdir()) == [
        *(f"{i}_{Path(path).stem}.png" for i, path in enumerate(paths, start=1)),
        "detections.json",
    ]
    drawn = Image.open(output / f"1_{Path(paths[0]).stem}.png")
    assert drawn.size == Image.open(paths[0]).size
    assert drawn.tobytes() != Image.open(paths[0]).convert("RGB").tobytes()
    assert Path(paths[0]).name in capsys.readouterr().out


def test_predict_names_an_unreadable_image_before_anything_is_written(trained, scenes, tmp_path, capsys):
    good = str(next((scenes.prepare() / "val").iterdir()))
    (tmp_path / "broken.png").write_bytes(Path(good).read_bytes()[:200])
    arguments = [str(trained[0] / "detector.safetensors"), good, str(tmp_path / "broken.png")]
    assert predict.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert "broken.png: cannot be read as an image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predict_names_what_is_not_there(trained, tmp_path, capsys):
    weights_file = str(trained[0] / "detector.safetensors")
    assert predict.main([weights_file, "none.png", "--output", str(tmp_path)]) == 1
    assert predict.main(["none.safetensors", str(REPOSITORY / "README.md"), "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors == ["none.png: no such image or folder", "none.safetensors: no such detector file"]


def test_check_data_passes_good_data(coco_folder, capsys):
    arguments = [
        str(coco_folder / "annotations/instances_val2017.json"),
        str(coco_folder / "val2017"),
        "--json",
    ]
    assert check_data.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {
        "images": 2,
        "images without boxes": 0,
        "boxes": 3,
        "crowd regions": 1,
        "categories": 2,
    }
    assert report["per_category"] == {"toothbrush": 1, "person": 2}
    assert report["problems"] == []


def test_check_data_lists_every_broken_rule_at_once(coco_folder, coco_file, capsys):
    def spoil(annotations):
        bad = {"id": 5, "image_id": 99, "category_id": 4, "bbox": [1, 1, 0, 1]}
        return [*annotations, bad]

    (coco_folder / "val2017" / "b.png").unlink()
    path = coco_file("annotations/instances_val2017.json", annotations=spoil)
    assert check_data.main([str(path), str(coco_folder / "val2017")]) == 1
    printed = capsys.readouterr().out
    for part in (
        "id given more than once: 1 (5)",
        "image_id is not among images, annotation: 1 (5 of image 99)",
        "category_id is not among categories, annotation: 1 (5 with category 4)",
        "bbox has no area, annotation: 1",
        "no such file in",
        "5 problems, 4 fatal",
    ):
        assert part in printed


def test_check_data_fails_for_boxes_that_are_merely_left_out_and_says_that_they_are(
    coco_folder, coco_file, capsys
):
    path = coco_file(
        "annotations/instances_val2017.json", annotations=lambda a: [{**a[0], "bbox": [1, 2, 0, 5]}, *a[1:]]
    )
    assert check_data.main([str(path), str(coco_folder / "val2017")]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].startswith("left out: annotations: bbox has no area")
    assert printed[-1] == "1 problems, 0 fatal"


def test_check_data_reports_what_is_not_json(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{")
    assert check_data.main([str(tmp_path / "a.json"), str(tmp_path)]) == 1
    assert "not JSON" in capsys.readouterr().out
