"""Stops a training whose numbers are no longer finite, and says where that began."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from backbones.files import write_json
from runtime.distributed import any_rank, gather
from runtime.interrupts import Interrupted
from runtime.loading import ResumableLoader

REPORT = "non_finite.json"
SHOWN_SAMPLES = 8


class NonFiniteError(ValueError):
    """The loss or a gradient is not a finite number."""


class NonFiniteGuard(L.Callback):
    """Stops before the optimiser step that a loss or gradient which is not finite would spoil.

    The weights and the last checkpoint stay good. Raises NonFiniteError that names the step, the learning
    rate, the terms of the loss that are not finite, the samples of the batch and the first module whose
    output is not when the batch is run once more; `folder/non_finite.json` lists all samples.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batch: Any = None
        self._batch_index = 0
        self._samples: list[str] = []
        self._random: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch, self._batch_index = batch, batch_idx
        self._random = _random_states(module.device)

    def on_train_batch_end(self, *_: Any) -> None:
        self._batch = None

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor) -> None:
        spoiled = not torch.isfinite(loss)
        if any_rank(spoiled)[0]:
            culprit = self._first_module(module)  # in every rank: synchronised norms need them all
            what = f"the loss is {loss.item()}{_parts(module)}; {_told(culprit)}" if spoiled else None
            self._stop(trainer, what, culprit)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.precision == "16-mixed":  # its loss scaling expects overflows and skips those steps
            return
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients.values())):
            names = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
            shown = ", ".join(names[:3]) or "all parameters together"
            self._stop(trainer, f"the gradient of {shown} is not finite")

    def _first_module(self, module: L.LightningModule) -> str | None:
        """Runs the batch again from the same random state; the module's name, None where all are finite."""
        found: list[str] = []
        with _observed(module, found), _same_state(module, self._random), torch.no_grad():
            module.training_step(self._batch, self._batch_index)  # type: ignore[call-arg]
        return found[0] if found else None

    def _stop(self, trainer: L.Trainer, what: str | None, culprit: str | None = None) -> None:
        """what: None in a rank that only stops because another one does."""
        found = [each for each in gather((what, culprit, _samples(trainer))) if each[0] is not None]
        if not trainer.is_global_zero:
            raise Interrupted
        what, culprit = found[0][:2]
        samples = [sample for each in found for sample in each[2]]
        rates = sorted({group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups})
        step = trainer.global_step + 1
        report = {"step": step, "learning_rates": rates, "what": what, "module": culprit, "samples": samples}
        path = self.folder / REPORT
        message = (
            f"step {step}, learning rate {', '.join(f'{rate:.3g}' for rate in rates)}: {what}. "
            f"The batch: {', '.join(samples[:SHOWN_SAMPLES])}{', …' * (len(samples) > SHOWN_SAMPLES)}"
        )
        try:
            write_json(path, report)
            message += f" (more in {path})"
        except OSError as error:
            message += f" ({path} could not be written: {error})"
        raise NonFiniteError(message)


def _parts(module: L.LightningModule) -> str:
    """Which terms of the loss are not finite, where the module keeps them as `loss_parts`."""
    parts: dict[str, Tensor] = getattr(module, "loss_parts", {})
    spoiled = [f"{name} {value.item()}" for name, value in parts.items() if not value.isfinite()]
    return f" ({', '.join(spoiled)})" if spoiled else ""


def _told(culprit: str | None) -> str:
    if culprit is None:
        return "run again, every module's output is finite, so the loss itself is not"
    return f"run again, the first output that is not finite is that of {culprit}"


def _samples(trainer: L.Trainer) -> list[str]:
    """Names of the samples of the batch: the data set's where it has `sample_name(index)`, else indices."""
    loader = trainer.train_dataloader
    if not isinstance(loader, ResumableLoader):
        return []
    name = getattr(loader.dataset, "sample_name", lambda index: f"image {index}")
    return [name(index) for _, index in loader.last_samples()]


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def _observed(module: nn.Module, found: list[str]) -> Iterator[None]:
    """Notes the names of modules whose output is not finite, in the order in which they end."""

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not all(t.isfinite().all() for t in _tensors(output)):
                found.append(f"{name} ({type(modules[name]).__name__})")

        return hook

    modules = {name: child for name, child in module.named_modules() if name}
    handles = [child.register_forward_hook(watch(name)) for name, child in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


@contextmanager
def _same_state(module: L.LightningModule, random: list[Tensor]) -> Iterator[None]:
    """Runs what is inside from the random state given, uncompiled; buffers are put back afterwards."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    torch.set_rng_state(random[0])
    if len(random) > 1:
        torch.cuda.set_rng_state(random[1], module.device)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
