"""`python -m detection.profile`: costs by part, held against `backbones.costs` and built detectors."""

import pytest

from backbones.costs import profile as network_profile
from backbones.factory import create
from backbones.timm_spec import TimmSpec
from backbones.zoo import resolve_spec
from conf.compose import detection_experiment
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import Fixed
from detection.detector import Detector
from detection.engines.config import ENGINES, TorchvisionC4Config, TorchvisionFpnConfig
from detection.engines.costs import profile
from detection.profile import main

SMALL = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4, "image_size": 64}


@pytest.fixture(scope="module")
def small():
    return resolve_spec("nasnet_a_mobile", **SMALL)


def test_trunk_and_region_are_the_networks_own_parts(small):
    """At 272 px the map at stride 16 is 17x17, as a crop is, so the tail is the network's last stage."""
    trunk, _, region, _ = profile(TorchvisionC4Config(), small, 80, (272, 272))
    parts = network_profile(small, 272).parts[:-1]  # without the classifier
    cut = next(index for index, part in enumerate(parts) if part.name == "reduction_1")
    for ours, theirs in ((trunk, parts[:cut]), (region, parts[cut:])):
        assert ours.multiply_adds == sum(part.multiply_adds for part in theirs)
        assert ours.parameters == sum(part.parameters for part in theirs)
        assert ours.activation_bytes == sum(part.activation_bytes for part in theirs)


def test_the_heads_of_the_papers_detector_by_hand(small):
    _, first, region, scores = profile(TorchvisionC4Config(), small, 80, (600, 400))
    places, channels = 38 * 25, network_profile(small, 64).parts[-2].shape[0]
    map_channels = sum(
        part.shape[0] for part in network_profile(small, 64).parts if part.name in ("reduction_0", "cell_1")
    )
    assert first.multiply_adds == places * (9 * map_channels * 512 + 512 * 12 * 5)
    assert scores.multiply_adds == channels * (81 + 4 * 80)
    assert (region.times, scores.times) == (300, 300)


@pytest.mark.parametrize(
    ("config", "network"),
    [(TorchvisionFpnConfig(), "nasnet_a_mobile"), (TorchvisionC4Config(), "timm/test_resnet")],
)
def test_the_parts_hold_all_parameters_of_the_detector(config, network):
    spec = resolve_spec(network, **({} if network.startswith("timm/") else SMALL))
    backbone = create(spec)
    backbone.remove_classifier()
    engine = config.build(backbone, 5)
    parts = profile(config, spec, 5, (96, 128))
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in engine.parameters())


def test_a_pyramid_is_counted_at_the_padded_size(small):
    """100x100 is padded to 128x128, where the maps have 32, 16, 8, 4 and 2 places a side."""
    _, _, first, head = profile(TorchvisionFpnConfig(), small, 3, (100, 100))
    places = 32**2 + 16**2 + 8**2 + 4**2 + 2**2
    assert first.multiply_adds == places * (9 * 256 * 256 + 256 * 3 * 5)
    assert head.times == 1000  # fully connected layers run once per proposal
    assert head.multiply_adds == 256 * 49 * 1024 + 1024 * 1024 + 1024 * (4 + 3 * 4)


def test_another_engine_of_the_kind_costs_the_same(small):
    one, other = (ENGINES[f"{package}_c4"] for package in ("torchvision", "detectron2"))
    assert profile(one(name=one.engine), small, 3, (64, 96)) == profile(
        other(name=other.engine), small, 3, (64, 96)
    )


def test_what_a_detector_cannot_see_is_refused(small):
    with pytest.raises(ValueError, match=r"size = 20, must be in 32\.\.10000"):
        profile(TorchvisionC4Config(), small, 3, (64, 20))
    with pytest.raises(ValueError, match="timm/test_vit cannot be split at stride 16"):
        profile(TorchvisionC4Config(), TimmSpec("test_vit"), 3, (160, 160))


def read(printed: str) -> tuple[str, list[list[str]], str]:
    """Title, cells of each row below the headings, and what stands below the table."""
    title, *lines = printed.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    return title.strip(), rows, lines[-1]


def as_printed(parts) -> list[list[str]]:
    """Name, runs, parameters, millions and billions of multiply-adds, MB of activations once and in all."""
    rows = [
        [
            part.name,
            f"{part.times}",
            f"{part.parameters:,}",
            f"{part.multiply_adds / 1e6:,.1f} M",
            f"{part.times * part.multiply_adds / 1e9:,.2f} B",
            f"{part.activation_bytes / 1e6:,.1f} MB",
            f"{part.times * part.activation_bytes / 1e6:,.1f} MB",
        ]
        for part in parts
    ]
    parameters = sum(part.parameters for part in parts)
    operations = sum(part.times * part.multiply_adds for part in parts)
    stored = sum(part.times * part.activation_bytes for part in parts)
    total = ["total", "", f"{parameters:,}", "", f"{operations / 1e9:,.2f} B", "", f"{stored / 1e6:,.1f} MB"]
    return [*rows, total]


def test_a_file_is_profiled_at_its_fixed_size(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backbone = create(small)
    backbone.remove_classifier()
    config = TorchvisionC4Config(rpn_channels=16)
    engine = config.build(backbone, 2)
    categories = [CategoryEntry(1, "cat"), CategoryEntry(2, "dog")]
    detector = Detector(engine, config, categories, Fixed(96))
    detector.save("detector.safetensors", {})
    assert main(detection_experiment, ["detector.safetensors"]) == 0
    title, rows, below = read(capsys.readouterr().out)
    assert title == "detector.safetensors, torchvision_c4: one image of 96x96 px, 2 classes"
    assert rows == as_printed(profile(config, small, 2, (96, 96)))
    assert rows[-1][2] == f"{sum(p.numel() for p in engine.parameters()):,}"
    assert below.startswith("regions at once: 64 of each image in training, about ")


def test_an_experiment_brings_detector_and_size(capsys):
    arguments = ["--name", "nasnet_a_mobile", "--experiment", "table4_nasnet_a_mobile"]
    assert main(detection_experiment, arguments) == 0
    title, rows, _ = read(capsys.readouterr().out)
    assert title == "nasnet_a_mobile, torchvision_c4: one image of 600x600 px, 80 classes"
    spec = resolve_spec("nasnet_a_mobile")
    assert rows == as_printed(profile(detection_experiment(arguments[-1]).detector, spec, 80, (600, 600)))
    assert [row[1] for row in rows] == ["1", "1", "300", "300", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a detector.safetensors, or --name NETWORK"),
        (["--name", "nasnet_a_mobile"], "--name needs --experiment or --detector"),
        (["--name", "nasnet_a_mobile", "--detector", "torchvision_fpn"], "give --size H W"),
    ],
)
def test_what_is_missing_is_said(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(detection_experiment, arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_name_is_one_line(capsys):
    assert main(detection_experiment, ["--name", "nasnet_a_mobil", "--detector", "torchvision_c4"]) == 1
    assert "did you mean nasnet_a_mobile" in capsys.readouterr().err
