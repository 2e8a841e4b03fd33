"""What Lightning drives: one network, one loss, an optimiser with its schedule, and the epoch's figures."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler

from backbones.base import Classifier, ScheduledDropPath, training_forward
from backbones.image_transforms import normalise
from classification.metrics import ClassificationSums
from classification.mixing import Mixing
from runtime.distributed import broadcast_buffers, gather, world
from runtime.steps import at_step

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor | None, Tensor], dict[str, Tensor]]


def classification_loss(label_smoothing: float, auxiliary_weight: float) -> Loss:
    """(logits `[N, K]`, auxiliary logits or None, targets) to the terms of the loss, mean cross entropies.

    The targets are labels `[N]` or probabilities of the classes `[N, K]`, such as mixed ones; compared is
    1 - label_smoothing of them plus label_smoothing / K on every class (1512.00567, section 7). The
    auxiliary head's term has its weight already.
    """

    def loss(logits: Tensor, auxiliary: Tensor | None, targets: Tensor) -> dict[str, Tensor]:
        terms = {"loss_cls": functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)}
        if auxiliary is not None:
            side = functional.cross_entropy(auxiliary, targets, label_smoothing=label_smoothing)
            terms["loss_aux"] = auxiliary_weight * side
        return terms

    return loss


class ClassificationModule(L.LightningModule):
    """Parts are handed in. Batches: images, uint8 or normalised float, and labels.

    loss_parts: terms of the loss in the step that ran last.

    make_schedule: stepped after each optimiser step. mixing: of training batches, where there is one; the
    accuracy in training then is that of the mixed images by the first one's label. train_forward: what
    a training step calls in place of `training_forward(network)`, such as the same compiled. channels_last:
    the order of a batch's images in memory; False: NCHW.
    """

    def __init__(
        self,
        network: Classifier,
        loss: Loss,
        make_optimizer: Callable[[Classifier], torch.optim.Optimizer],
        make_schedule: Callable[[torch.optim.Optimizer], LRScheduler],
        mixing: Mixing | None = None,
        *,
        train_forward: Callable[[Tensor], tuple[Tensor, Tensor | None]] | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.train_forward = train_forward or training_forward(network)
        self.channels_last = channels_last
        self.mixing = mixing
        self.network = network
        self.loss = loss
        self.make_optimizer, self.make_schedule = make_optimizer, make_schedule
        self.loss_parts: dict[str, Tensor] = {}
        self.train_sums = ClassificationSums(network.num_classes)
        self.test_sums = ClassificationSums(network.num_classes)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.network)
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        images, labels = batch
        images = normalise(images, self.network.preprocessing)
        return images if self.channels_last else images.contiguous(), labels

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        targets = labels
        if self.mixing is not None:
            place = {"epoch": self.trainer.current_epoch, "batch": batch_idx, "rank": self.global_rank}
            images, targets = self.mixing(images, labels, **place)
        logits, auxiliary = self.train_forward(images)
        losses = self.loss(logits, auxiliary, targets)
        self.loss_parts = {name: loss.detach() for name, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        self.train_sums.add(logits.detach(), labels, total)
        parts = self.loss_parts if len(losses) > 1 else {}
        self.log_dict({"loss": total, **parts, **at_step(self.trainer, self.trainer.global_step + 1)})
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self.network(images)
        self.test_sums.add(logits, labels, functional.cross_entropy(logits, labels))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not `on_train_epoch_start`, which Lightning leaves out where a longer run begins.
        if batch_idx == 0:
            self.train_sums.reset()

    def on_train_epoch_end(self) -> None:
        figures = {f"train/{key}": value for key, value in _over_ranks(self.train_sums).metrics().items()}
        self._log({**figures, "lr": self.trainer.optimizers[0].param_groups[0]["lr"]})

    def on_validation_epoch_start(self) -> None:
        self.test_sums.reset()
        broadcast_buffers(self.network)  # what an average may be by now

    def on_validation_epoch_end(self) -> None:
        figures = _over_ranks(self.test_sums).metrics()
        self._log({f"test/{key}": value for key, value in figures.items()})

    def _log(self, figures: dict[str, float]) -> None:
        self.log_dict(figures | at_step(self.trainer, self.trainer.global_step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = gather(_on_cpu(self.train_sums))
        checkpoint["train_sums"] = states[0] if len(states) == 1 else {"ranks": states}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["train_sums"].get("ranks", [checkpoint["train_sums"]])
        if len(states) == self.trainer.world_size:
            self.train_sums.load_state_dict(states[self.global_rank])
        elif self.global_rank == 0:  # continued by another number of processes
            self.train_sums.load_state_dict(_total(states))


def _on_cpu(sums: ClassificationSums) -> dict[str, Tensor]:
    return {key: value.cpu() for key, value in sums.state_dict().items()}


def _total(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([state[key] for state in states]).sum(dim=0) for key in states[0]}


def _over_ranks(sums: ClassificationSums) -> ClassificationSums:
    """The sums of all ranks together."""
    if world() == 1:
        return sums
    everyone = ClassificationSums(sums.num_classes)
    everyone.load_state_dict(_total(gather(_on_cpu(sums))))
    return everyone


class DropPathSchedule(L.Callback):
    """Tells the network before each batch which share of the optimiser steps is done."""

    def __init__(self, network: Classifier) -> None:
        self.network = network

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if isinstance(self.network, ScheduledDropPath) and self.network.drop_path_keep < 1:
            self.network.set_progress(trainer.global_step / trainer.estimated_stepping_batches)
