import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from runtime.progress_callback import ProgressCallback, RunningMean


class TwoTerms(L.LightningModule):
    """Its losses are 1 and the number of the batch, counted from 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.loss_parts = {}

    def training_step(self, batch, index):
        zero = 0 * self.weight.sum()
        parts = {"loss_cls": zero + 1, "loss_aux": zero + index}
        self.loss_parts = {name: part.detach() for name, part in parts.items()}
        return sum(parts.values())

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.25)


def test_the_line_shows_epoch_rate_and_the_mean_loss_with_its_parts(tmp_path, capsys):
    callback = ProgressCallback("training", images_per_step=4)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(TwoTerms(), DataLoader(range(3), batch_size=1))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("training 6/6")
    assert line.endswith("epoch 2/2  lr 0.25  loss 2  (cls 1, aux 1)")  # the mean of 0, 1, 2, 0, 1, 2


def test_a_running_mean_follows_the_newest_batches():
    mean = RunningMean()
    for value in [*[10.0] * 40, *[0.0] * 40]:
        mean.add({"loss_cls": torch.tensor(value)})
    assert mean.shown() == f"loss {10 * 0.95**40:.4g}"
    mean.add({})
    mean.add({"loss_rpn": torch.tensor(1.0), "loss_cls": torch.tensor(2.0)})
    assert mean.shown() == "loss 3  (rpn 1, cls 2)"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_shown(value):
    mean = RunningMean()
    mean.add({"loss": torch.tensor(1.0)})
    mean.add({"loss": torch.tensor(value)})
    assert mean.shown() in ("loss nan", "loss inf")
