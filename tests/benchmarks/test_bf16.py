"""The benchmark of bfloat16 runs on a narrow network and one round."""

import dataclasses

import pytest
import torch
from small_detectors import BRIEF

from backbones.build import build
from backbones.spec import NetworkSpec
from benchmarks import bf16
from search.children.config import ChildConfig

TINY = NetworkSpec(BRIEF, 1, 8, stem_filters=4, image_size=64, stem="imagenet")


@pytest.mark.slow
def test_every_section_compares_bf16_with_f32(monkeypatch):
    monkeypatch.setattr(bf16, "create", lambda name, classes: build(TINY, classes))
    monkeypatch.setattr(bf16, "IMAGE_SIDE", 64)
    monkeypatch.setattr(bf16, "DETECTOR_SIDES", (64, 96))
    monkeypatch.setattr(bf16, "ChildConfig", lambda: ChildConfig(filters=4, cells_per_stage=1, batch_size=2))
    torch.manual_seed(0)
    rows = [*bf16.networks("tiny", 2, 1), *bf16.detectors("tiny", 1), *bf16.children(1)]
    assert [row.work.split(",")[0] for row in rows] == ["tiny 64", "detector", "training step of a child"]
    assert all(row.way == "bf16" and row.quartiles[1] > 0 for row in rows)
    assert all(dataclasses.astuple(row)[-2] is None for row in rows)
