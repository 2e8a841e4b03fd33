"""Exported programs find what the detector finds; they are read by the runtimes they are for."""

import copy
import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from small_detectors import small_c4_detector, small_detector

from detection.data.coco_file import CategoryEntry
from detection.deployment.fixed import FixedDetector, fixed_detections, fixed_proposals
from detection.deployment.program import OUTPUTS, agreement, export, pattern, real, to_onnx
from detection.detector import Detector
from detection.export import main
from detection.model import boxes
from detection.model.config import RpnConfig, SecondStageConfig
from detection.model.heads import SecondStage
from detection.model.rpn import Proposals, RegionProposals

CATEGORIES = [CategoryEntry(3, "red"), CategoryEntry(7, "b"), CategoryEntry(90, "c")]


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def expected(detector: Detector, image: torch.Tensor):
    with torch.inference_mode():
        return detector.engine.predict([image[0]])[0]


def same(one, other) -> bool:
    """In order, which `agreement` does not ask for."""
    return len(one["labels"]) == len(other["labels"]) and all(
        torch.allclose(one[key].float(), other[key].float(), rtol=0, atol=1e-3) for key in one
    )


@pytest.mark.parametrize("size", [(96, 128), (70, 101), (33, 64)])
@pytest.mark.parametrize("make", [small_detector, small_c4_detector], ids=["fpn", "c4"])
def test_the_form_without_branches_finds_what_the_engine_finds(make, size):
    detector = make(CATEGORIES)
    program = FixedDetector(copy.deepcopy(detector.engine))
    for image in (picture(*size), pattern(*size)):
        wanted = expected(detector, image)
        with torch.inference_mode():
            found = program(image)
        assert len(wanted["labels"]) > 5
        assert found["valid"].shape == (min(100, 30 * len(CATEGORIES)),)
        assert same(real(found), wanted)
        assert not found["boxes"][~found["valid"]].any()
        assert not found["scores"][~found["valid"]].any()


class Tied(torch.nn.Module):
    """Both stages on numbers that are given: what an exported program makes of scores, without a network."""

    SIZE = (96, 128)
    LEVELS = ((16, 12, 16, 8), (32, 6, 8, 16))  # anchor, rows, columns, stride

    def __init__(self):
        super().__init__()
        config = RpnConfig(anchor_sizes=[16, 32], pre_nms_test=40, post_nms_test=30, nms_threshold=0.5)
        self.rpn = RegionProposals(config, 4, [8, 16], [[16], [32]], 4).eval()
        self.head = SecondStage(SecondStageConfig(detections_per_image=20), 4, len(CATEGORIES)).eval()
        grids = [
            boxes.grid_anchors(boxes.cell_anchors([size], [0.5, 1, 2]), rows, columns, stride)
            for size, rows, columns, stride in self.LEVELS
        ]
        self.anchors, self.counts = torch.cat(grids), [len(grid) for grid in grids]

    def inputs(self, seed):
        """Few values of everything. Rows of class logits are few, too: a sum in another order is another."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(4, len(CATEGORIES) + 1, generator=generator)
        rows[:2, 1:3] = rows[:2, :1]
        return (
            (2 * torch.randn(1, len(self.anchors), generator=generator)).round(),
            torch.randn(1, len(self.anchors), 4, generator=generator).round() / 4,
            rows[torch.randint(0, 4, (30,), generator=generator)],
            torch.randn(30, len(CATEGORIES), 4, generator=generator).round(),
        )

    def engine(self, objectness, moves, logits, deltas):
        found = Proposals(self.anchors, objectness, moves, self.counts)
        (proposals,) = self.rpn.select(found, [self.SIZE])
        count = len(proposals)
        return self.head.detect(logits[:count], deltas[:count], [proposals], [self.SIZE])[0]

    def forward(self, objectness, moves, logits, deltas):
        found = Proposals(self.anchors, objectness, moves, self.counts)
        proposals = fixed_proposals(self.rpn, found, self.SIZE)
        return fixed_detections(self.head, logits, deltas, proposals, self.SIZE)


def test_scores_that_tie_give_the_same_detections_in_every_form():
    """Also in the same order: of equal scores the first proposal, then the first class."""
    tied = Tied()
    traced = torch.export.export(tied, tied.inputs(0), strict=False)
    names = ["objectness", "moves", "logits", "deltas"]
    model = to_onnx(traced, names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    program, ties = traced.module(), 0
    for seed in range(100):
        inputs = tied.inputs(seed)
        wanted = tied.engine(*inputs)
        ties += len(wanted["scores"]) - len(wanted["scores"].unique())
        answers = session.run(None, dict(zip(names, (one.numpy() for one in inputs), strict=True)))
        by_onnx = dict(zip(OUTPUTS, map(torch.from_numpy, answers), strict=True))
        for found in (tied(*inputs), program(*inputs), by_onnx):
            assert same(real(found), wanted), seed
    assert ties > 500


def test_padding_is_never_found():
    """More places than there is anything to find: proposals, candidates and detections are all padded."""
    detector = small_detector(CATEGORIES)
    image = picture(64, 64)
    detector.engine.rpn.config.nms_threshold = 0.3
    detector.engine.box_head.config.score_threshold = float(expected(detector, image)["scores"][4])
    wanted = expected(detector, image)
    with torch.inference_mode():
        found = FixedDetector(copy.deepcopy(detector.engine))(image)
    assert 0 < len(wanted["labels"]) <= 4
    assert same(real(found), wanted)


def test_weights_that_are_not_finite_give_no_detections():
    detector = small_detector(CATEGORIES)
    with torch.no_grad():
        detector.engine.box_head.box_deltas.weight.fill_(torch.nan)
        found = FixedDetector(copy.deepcopy(detector.engine))(picture(64, 64))
    assert not found["valid"].any()
    assert len(expected(detector, picture(64, 64))["labels"]) == 0


def onnx(path: Path, image: torch.Tensor):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answers = session.run(names, {"image": image.numpy()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True)), session


def test_the_command_writes_what_onnxruntime_answers_as_the_detector_does(tmp_path, capsys):
    detector = small_c4_detector(CATEGORIES)
    detector.save(tmp_path / "detector.safetensors", {})
    path = tmp_path / "detector.onnx"
    size = ["--size", "64", "96"]
    words = [str(tmp_path / "detector.safetensors"), "--format", "onnx", *size, "--output", str(path)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{path}\n"
    image = picture(64, 96)
    found, session = onnx(path, image)
    assert same(real(found), expected(detector, image))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["categories"]) == [{"id": c.id, "name": c.name} for c in CATEGORIES]
    described = json.loads(metadata["input"])
    assert (described["height"], described["width"], described["min_size"]) == (64, 96, 96)
    assert not [other for other in tmp_path.iterdir() if other.name.startswith(".")]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_detector, small_c4_detector], ids=["fpn", "c4"])
def test_each_format_finds_what_the_detector_finds(make, tmp_path):
    detector = make(CATEGORIES)
    image = picture(70, 101)
    wanted = expected(detector, image)
    export(detector, tmp_path / "a.pt2", "torch", 70, 101)
    extra = {"categories.json": "", "input.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert same(real(program.module()(image)), wanted)
    assert json.loads(extra["input.json"])["width"] == 101
    export(detector, tmp_path / "a.onnx", "onnx", 70, 101)
    assert same(real(onnx(tmp_path / "a.onnx", image)[0]), wanted)


@pytest.mark.slow
def test_a_detector_that_finds_nothing_is_exported_with_a_warning(tmp_path, caplog):
    detector = small_c4_detector(CATEGORIES)
    torch.nn.init.zeros_(detector.engine.box_head.class_logits.weight)
    torch.nn.init.constant_(detector.engine.box_head.class_logits.bias[-1:], 1000.0)
    export(detector, tmp_path / "a.pt2", "torch", 64, 64)
    assert "finds nothing on 8 coloured patterns" in caplog.text


@pytest.mark.slow
def test_a_program_of_other_weights_is_not_written(tmp_path, monkeypatch):
    class Other(FixedDetector):
        def __init__(self, engine):
            super().__init__(engine)
            engine.box_head.class_logits.weight.neg_()

    monkeypatch.setattr("detection.deployment.program.FixedDetector", Other)
    with pytest.raises(ValueError, match=r"was not written: it finds \d+% of what the detector finds"):
        export(small_c4_detector(CATEGORIES), tmp_path / "a.pt2", "torch", 64, 64)
    assert list(tmp_path.iterdir()) == []


def test_agreement_counts_partners_on_both_sides():
    one = {
        "boxes": torch.tensor([[0.0, 0, 9, 9], [5, 5, 9, 9]]),
        "scores": torch.tensor([0.9, 0.5]),
        "labels": torch.tensor([0, 1]),
    }
    nothing = {key: value[:0] for key, value in one.items()}
    assert agreement(one, one, 1e-3) == agreement(nothing, nothing, 1e-3) == 1.0
    assert agreement(one, nothing, 1e-3) == 0.0
    for key, by in (("boxes", 0.01), ("scores", 0.01), ("labels", 1)):
        other = {**one, key: one[key].clone()}
        other[key][0] += by
        assert agreement(one, other, 1e-3) == 0.5


@pytest.mark.parametrize(
    ("format", "name", "size", "message"),
    [
        ("onnx", "a.pt2", (64, 64), "a file of format onnx must end in .onnx"),
        ("torch", "a.onnx", (64, 64), "a file of format torch must end in .pt2"),
        ("openvino", "a.xml", (64, 64), "format = 'openvino', expected one of onnx, torch"),
        ("torch", "a.pt2", (8, 64), "size = 8, must be in 32..10000 pixels"),
        ("torch", ".pt2", (64, 64), "must end in .pt2"),
    ],
)
def test_a_wrong_request_is_refused_before_any_work(tmp_path, format, name, size, message):
    with pytest.raises(ValueError) as refusal:
        export(None, tmp_path / name, format, *size)  # type: ignore[arg-type]
    assert message in str(refusal.value)


def test_a_missing_package_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnx, .* -m pip install -e .*\[export\]"):
        export(None, tmp_path / "a.onnx", "onnx", 64, 64)  # type: ignore[arg-type]
