"""Progress with the time left: a bar in a terminal, plain lines in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_SECONDS = 15.0
"""Between two lines where the output is not a terminal."""


class Track:
    """Counts work done. Time left is from this process's own speed, so a resumed run is not fooled."""

    def __init__(self, console: Console, total: int, description: str, done: int) -> None:
        self.total, self.description, self.done = total, description, done
        self._first, self._start, self._last_line = done, time.monotonic(), time.monotonic()
        self._console, self._figures, self._printed = console, "", -1
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left {task.fields[left]}  {task.fields[figures]}"),
                console=console,
            )
            self._task = self._bar.add_task(description, total=total, completed=done, left="?", figures="")
            self._bar.start()

    def advance(self, n: int = 1, **figures: float) -> None:
        """Counts n more units. figures: shown beside the bar, such as `loss=0.31`."""
        self.done += n
        if figures:
            self._figures = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, left=self.left(), figures=self._figures)
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._print_line()

    def left(self) -> str:
        """Time left as `m:ss`, `?` before anything is known."""
        done_here = self.done - self._first
        if done_here <= 0:
            return "?"
        seconds = (time.monotonic() - self._start) / done_here * max(0, self.total - self.done)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._printed < self.done:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = self.done
        self._console.print(
            f"{self.description} {self.done}/{self.total}, left {self.left()}  {self._figures}".rstrip(),
            highlight=False,
        )


@contextmanager
def track(total: int, description: str, done: int = 0) -> Iterator[Track]:
    """Shows progress on stderr. total, done: units of work in all and before this process."""
    progress = Track(Console(stderr=True), total, description, done)
    try:
        yield progress
    finally:
        progress.close()


class ProgressCallback(L.Callback):
    """The same progress over a Trainer's optimiser steps, with the loss that `log("loss", …)` left."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._track: Track | None = None
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._step = trainer.global_step
        if not trainer.is_global_zero:
            return
        total = int(trainer.estimated_stepping_batches)
        self._track = Track(Console(stderr=True), total, self.description, self._step)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if self._track is not None and trainer.global_step > self._step:
            figures = {key: float(trainer.callback_metrics[key]) for key in self._shown(trainer)}
            self._track.advance(trainer.global_step - self._step, **figures)
            self._step = trainer.global_step

    def _shown(self, trainer: L.Trainer) -> list[str]:
        # Reading a figure waits for the device, so it is done rarely where that costs.
        fresh = trainer.strategy.root_device.type == "cpu" or trainer.global_step % 50 == 0
        return [key for key in ("loss",) if fresh and key in trainer.callback_metrics]

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._track is not None:
            self._track.close()
            self._track = None
