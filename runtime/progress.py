"""Progress with images per second and the time left: a bar in a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

PLAIN_SECONDS = 15.0
"""Between two lines where the output is not a terminal."""


class Track:
    """Counts work done. All speeds are this process's own, so a resumed run is not fooled."""

    def __init__(
        self,
        console: Console,
        total: int,
        description: str,
        done: int,
        images_per_unit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        seconds_left: Callable[[], float | None] | None = None,
    ) -> None:
        """clock: seconds since any moment. seconds_left: knows better than the mean time of a unit so far."""
        self.total, self.description, self.done = total, description, done
        self.images_per_unit = images_per_unit
        self._clock, self._seconds_left = clock, seconds_left
        self._first, self._start, self._last_line = done, clock(), clock()
        self._seconds_aside = 0.0
        self._aside_since: float | None = None
        self._console, self._figures, self._note, self._printed = console, "", "", -1
        self._bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            self._bar = _TwoLines(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[speed]}"),
                console=console,
                redirect_stdout=sys.stdout.isatty(),  # else it goes to a file, not above the bar
            )
            self._task = self._bar.add_task(description, total=total, completed=done, speed="", text="")
            self._bar.start()

    def advance(self, n: int = 1, figures: str = "") -> None:
        """Counts n more units. figures: shown from now on, such as `loss 0.31`."""
        self.done, self._note = self.done + n, ""
        self._figures = figures or self._figures
        self._show()

    def note(self, text: str) -> None:
        """Shows beside the figures what happens within a unit, until the next is done."""
        self._note = text
        self._show()

    def aside(self, what: str) -> None:
        """Shows other work that the units wait for, until `back`; images per second leave it out."""
        if self._aside_since is None:
            self._aside_since = self._clock()
        self._show(what)

    def back(self) -> None:
        if self._aside_since is not None:
            self._seconds_aside += self._clock() - self._aside_since
            self._aside_since = None

    def left(self) -> str:
        """Time left as `m:ss`, `h:mm:ss` or `2 d 5:12:00`, `?` before anything is known."""
        known = self._seconds_left() if self._seconds_left else self._mean_time_left()
        if known is None:
            return "?"
        seconds = int(known)
        if self._seconds_left and (days := seconds // 86400):
            return f"{days} d {seconds // 3600 % 24}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        minutes, hours = seconds // 60 % 60, seconds // 3600
        return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"

    def _mean_time_left(self) -> float | None:
        done_here = self.done - self._first
        if done_here <= 0:
            return None
        return (self._clock() - self._start) / done_here * max(0, self.total - self.done)

    def images_per_second(self) -> float | None:
        """Without the time aside; None before anything is known, or where the units are not images."""
        seconds = (self._aside_since or self._clock()) - self._start - self._seconds_aside
        done_here = self.done - self._first
        if self.images_per_unit is None or done_here <= 0 or seconds <= 0:
            return None
        return done_here * self.images_per_unit / seconds

    def _show(self, instead: str | None = None) -> None:
        """instead: of the figures."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, speed=self._speed(), text=self._text(instead))
        elif self._clock() - self._last_line >= PLAIN_SECONDS:
            self._last_line = self._clock()
            self._print_line(instead)

    def _speed(self) -> str:
        speed = self.images_per_second()
        shown = "" if speed is None else f"{speed:,.{1 if speed < 10 else 0}f} images/s, "
        return f"{shown}ETA {self.left()}"

    def _text(self, instead: str | None = None) -> str:
        return instead or "  ".join(filter(None, (self._figures, self._note)))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._printed < self.done:
            self._print_line()

    def _print_line(self, instead: str | None = None) -> None:
        self._printed = self.done
        line = f"{self.description} {self.done}/{self.total}, {self._speed()}  {self._text(instead)}"
        self._console.print(line.rstrip(), highlight=False, soft_wrap=True)


class ConsoleHandler(logging.StreamHandler):
    """Logs to what `sys.stderr` is at the moment: while a bar is shown, that is the space above it.

    stream: which Hydra's default names; not used."""

    def __init__(self, stream: object = None) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _TwoLines(Progress):
    """The bar, and what is beside it in a line of its own: both together are wider than most terminals."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if text := task.fields["text"]:
                yield Text(text, no_wrap=True, overflow="ellipsis")


@contextmanager
def track(
    total: int,
    description: str,
    done: int = 0,
    images_per_unit: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    quiet: bool = False,
    seconds_left: Callable[[], float | None] | None = None,
) -> Iterator[Track]:
    """Shows progress on stderr. total, done: units of work in all and before this process; of a total of 0
    there is nothing to show.

    images_per_unit: what images per second are counted by. None: they are not shown. clock, seconds_left:
    see `Track`.
    quiet: counts and shows nothing."""
    console = Console(stderr=True, quiet=quiet or not total)
    progress = Track(console, total, description, done, images_per_unit, clock, seconds_left)
    try:
        yield progress
    finally:
        progress.close()


def as_text(figures: Mapping[str, float], between: str = "  ") -> str:
    """Each figure after its name, with four digits."""
    return between.join(f"{name} {value:.4g}" for name, value in figures.items())
