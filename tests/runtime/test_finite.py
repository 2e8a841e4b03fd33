"""Trainings that stop being finite, on a network of three layers."""

import json

import lightning as L
import pytest
import torch
from torch import nn

from runtime.config import TrainerConfig
from runtime.finite import NonFiniteError
from runtime.folder import RunFolder
from runtime.loading import ResumableLoader
from runtime.resume import LAST, PREVIOUS
from runtime.trainer import build_trainer, last_checkpoint


class Pictures:
    """Sample i is the number i, its file is i.png."""

    def __len__(self):
        return 6

    def __getitem__(self, sample):
        return torch.tensor([float(sample[1])])

    def sample_name(self, index):
        return f"{index}.png"


class Spoiling(nn.Module):
    """Divides by zero for the sample 4 where it is asked to, after a draw that decides nothing else."""

    on = False

    def forward(self, x):
        return x / torch.where(x == 4, 0.0, 1.0) if self.on else x


class Chain(L.LightningModule):
    def __init__(self, spoil):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(1, 1), Spoiling(), nn.Linear(1, 1)
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(1)
        self.middle.on = spoil == "module"
        self.spoil = spoil

    def training_step(self, batch, batch_idx):
        loss = self.last(self.middle(self.norm(self.drop(batch * 0 + 1)) * 0 + batch)).square().mean()
        self.log("loss", loss)
        if self.spoil == "loss" and 4 in batch:
            return loss * float("nan")
        if self.spoil == "gradient" and 4 in batch:
            return loss.sqrt() * 0 + (loss - loss).sqrt()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD([*self.last.parameters(), *self.norm.parameters()], lr=0.001)


def fit(folder, module):
    run = RunFolder(folder)
    config = TrainerConfig(device="cpu", checkpoint_seconds=None, checkpoint_steps=1)
    loader = ResumableLoader(Pictures(), 2, seed=0, shuffle=False)
    build_trainer(config, run, [], [], max_steps=9).fit(module, loader, weights_only=True)


@pytest.mark.parametrize(
    ("spoil", "what", "culprit"),
    [
        (
            "module",
            "the loss is inf; run again, the first output that is not finite is that of middle (Spoiling)",
            "middle (Spoiling)",
        ),
        (
            "loss",
            "the loss is nan; run again, every module's output is finite, so the loss itself is not",
            None,
        ),
        ("gradient", "the gradient of last.weight, last.bias, norm.weight is not finite", None),
    ],
)
def test_a_value_that_is_not_finite_stops_the_step_and_is_traced(tmp_path, spoil, what, culprit):
    torch.manual_seed(0)
    module = Chain(spoil)
    with pytest.raises(NonFiniteError) as error:
        fit(tmp_path, module)  # the third batch is that of 4.png and 5.png
    path = tmp_path / "non_finite.json"
    assert str(error.value) == (
        f"step 3, learning rate 0.001: {what}. The batch: 4.png, 5.png (more in {path})"
    )
    assert json.loads(path.read_text()) == {
        "step": 3,
        "learning_rates": [0.001],
        "what": what,
        "module": culprit,
        "samples": ["4.png", "5.png"],
    }
    assert all(p.isfinite().all() for p in module.parameters())
    assert torch.load(last_checkpoint(RunFolder(tmp_path)), weights_only=True)["global_step"] == 2
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {LAST, PREVIOUS}
