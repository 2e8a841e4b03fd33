"""Children of a search on a CUDA GPU: `make gpu-check`."""

import dataclasses

import pytest
import torch
from toy_search import DIGITS, TINY

from search.children.images import ChildImages
from search.children.training import train_child
from search.messages import ChildTask, Proposal
from search.space import Space


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_deterministic_children_give_equal_bits(device, precision, monkeypatch):
    config = dataclasses.replace(TINY, deterministic=True, precision=precision, device=device)
    images = ChildImages.open(DIGITS, config, seed=0)
    space, losses = Space(blocks=2), []
    cross_entropy = torch.nn.functional.cross_entropy

    def noted(*arguments):
        assert torch.are_deterministic_algorithms_enabled()
        losses.append(cross_entropy(*arguments))
        return losses[-1]

    monkeypatch.setattr("torch.nn.functional.cross_entropy", noted)
    genotype = space.decode(space.sample(0, 0))
    curves = [
        train_child(genotype, ChildTask(Proposal(0, genotype, ()), seed=3), images, config).curve
        for _ in range(2)
    ]
    assert not torch.are_deterministic_algorithms_enabled()
    assert curves[0] == curves[1]
    steps = len(losses) // 2
    assert torch.equal(torch.stack(losses[:steps]), torch.stack(losses[steps:]))
