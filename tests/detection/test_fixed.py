"""Detection of one image with no branch on how much is found: what exported programs are made of."""

import copy

import pytest
import torch
from small_detectors import small_c4_detector, small_detector

from backbones.runtimes import open_program
from detection.data.coco_file import CategoryEntry
from detection.deployment.export import pattern
from detection.deployment.fixed import FixedDetector, fixed_detections, fixed_proposals
from detection.deployment.operators import BY_TORCH
from detection.deployment.program import to_onnx
from detection.deployment.runner import Runner
from detection.detector import Detector
from detection.model import boxes
from detection.model.config import RpnConfig, SecondStageConfig
from detection.model.heads import SecondStage
from detection.model.rpn import Proposals, RegionProposals

CATEGORIES = [CategoryEntry(3, "red"), CategoryEntry(7, "b"), CategoryEntry(90, "c")]


SIZES = [(96, 128), (70, 101), (130, 33)]


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def expected(detector: Detector, image: torch.Tensor):
    with torch.inference_mode():
        return detector.engine.predict([image[0]])[0]


def real(detections):
    """Those that are not padding."""
    valid = detections["valid"]
    return {key: detections[key][valid] for key in ("boxes", "scores", "labels")}


def same(one, other) -> bool:
    """In order, which `compare` does not ask for."""
    return len(one["labels"]) == len(other["labels"]) and all(
        torch.allclose(one[key].float(), other[key].float(), rtol=0, atol=1e-3) for key in other
    )


def padded(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """To multiples of 32 with noise, which the program must not see, and the size without it."""
    height, width = image.shape[2:]
    whole = torch.rand(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    whole[:, :, :height, :width] = image
    return whole, torch.tensor([height, width])


def colours(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(pattern(height, width, seed)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [small_detector, small_c4_detector], ids=["fpn", "c4"])
def test_the_form_without_branches_finds_what_the_engine_finds(make, size):
    detector = make(CATEGORIES)
    detector.engine.divisor = 32
    program = FixedDetector(copy.deepcopy(detector.engine))
    for image in (picture(*size), colours(*size)):
        wanted = expected(detector, image)
        with torch.inference_mode():
            found = program(*padded(image))
        assert len(wanted["labels"]) > 5
        assert found["valid"].shape == (min(100, 30 * len(CATEGORIES)),)
        assert same(real(found), wanted)
        assert not found["boxes"][~found["valid"]].any()
        assert not found["scores"][~found["valid"]].any()


class Tied(torch.nn.Module):
    """Both stages on numbers that are given: what an exported program makes of scores, without a network."""

    SIZE = (96, 128)
    LIMITS = torch.tensor([128.0, 96, 128, 96])
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
        proposals = fixed_proposals(self.rpn, found, self.LIMITS)
        return fixed_detections(self.head, logits, deltas, proposals, self.LIMITS)


@pytest.mark.slow
def test_scores_that_tie_give_the_same_detections_in_every_form(tmp_path):
    """Also in the same order: of equal scores the first proposal, then the first class."""
    tied = Tied()
    trace = torch.export.export(tied, tied.inputs(0), strict=False)
    names = ["objectness", "moves", "logits", "deltas"]
    (tmp_path / "a.onnx").write_bytes(to_onnx(trace, names).SerializeToString())
    session = open_program(tmp_path / "a.onnx")
    program, ties = trace.run_decompositions(BY_TORCH).module(), 0
    for seed in range(100):
        inputs = tied.inputs(seed)
        wanted = tied.engine(*inputs)
        ties += len(wanted["scores"]) - len(wanted["scores"].unique())
        answers = session.run(dict(zip(names, (one.numpy() for one in inputs), strict=True)))
        by_onnx = {key: torch.from_numpy(value) for key, value in answers.items()}
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
        found = FixedDetector(copy.deepcopy(detector.engine))(*padded(image))
    assert 0 < len(wanted["labels"]) <= 4
    assert same(real(found), wanted)


def test_weights_that_are_not_finite_give_no_detections():
    detector = small_detector(CATEGORIES)
    with torch.no_grad():
        detector.engine.box_head.box_deltas.weight.fill_(torch.nan)
        found = FixedDetector(copy.deepcopy(detector.engine))(*padded(picture(64, 64)))
    assert not found["valid"].any()
    assert len(expected(detector, picture(64, 64))["labels"]) == 0


def test_an_exported_network_is_no_detector(tmp_path):
    tied = Tied()
    names = ["objectness", "moves", "logits", "deltas"]
    trace = torch.export.export(tied, tied.inputs(0), strict=False)
    (tmp_path / "a.onnx").write_bytes(to_onnx(trace, names).SerializeToString())
    with pytest.raises(ValueError, match="its metadata has no categories"):
        Runner.open(tmp_path / "a.onnx")
