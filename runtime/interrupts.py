"""Ctrl-C and SIGTERM: what was begun is finished and written, the caller told.

Of a training run that is the step and a checkpoint: Lightning would drop what it did since the last
checkpoint and end the process by `sys.exit`. Of a search it is the record of its children.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from runtime.launch import launched_rank

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = {
    signal.SIGINT: "Press Ctrl-C again to stop immediately.",
    signal.SIGTERM: "A second SIGTERM stops immediately.",
}
_SOON = 0.1
"""Seconds, in which what could not raise an interrupt has ended."""


@contextmanager
def signals_held() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end of the block; processes forked inside never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """For a process whose parent handles Ctrl-C and SIGTERM, which a terminal or `timeout` sends to both."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def sigterm_as_interrupt() -> None:
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does. Only a main thread can.

    Either is raised again where Python could only print it: in a destructor, or as a reference ends.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
        if not isinstance(sys.unraisablehook, _RaisedAgain):
            sys.unraisablehook = _RaisedAgain(sys.unraisablehook)


class _RaisedAgain:
    """An `unraisablehook` that sends SIGTERM to its own process for an interrupt; before: takes all else."""

    def __init__(self, before: Callable[[Any], object]) -> None:
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        if unraisable.exc_type not in (KeyboardInterrupt, Interrupted):
            self.before(unraisable)
            return
        again = threading.Timer(_SOON, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Delivers Ctrl-C and SIGTERM when the block has ended; a second one within the block at once.

    For a moment's work that must not be left half-done. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    owner, noted = os.getpid(), list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        if noted or os.getpid() != owner:  # a forked process ends as it would without us
            restore()
            signal.raise_signal(number)
        noted.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield
    finally:
        restore()
        if noted:
            signal.raise_signal(noted[0])


class Interrupted(BaseException):
    """A training was interrupted. No KeyboardInterrupt, which Lightning would keep from the caller."""


class Interrupts:
    """Notes the first signal in `asked`; the second one raises Interrupted wherever the program is."""

    def __init__(self) -> None:
        self.asked = False
        self._owner = 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block signals are noted; it ends with KeyboardInterrupt where it ends by Interrupted."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.asked, self._owner = False, os.getpid()
        self.listen()
        try:
            yield
        except Interrupted:
            raise KeyboardInterrupt from None
        finally:
            if self._in_main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def listen(self) -> None:
        """Takes the signals, also from whoever took them in the meantime. Only a main thread can."""
        if self._in_main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked process
            return
        if self.asked:
            raise Interrupted
        self.asked = True
        if launched_rank() == 0:
            notice = f"\nStopping after this step and its checkpoint. {_AGAIN[signal.Signals(number)]}\n"
            os.write(2, notice.encode())  # neither print nor log may be entered twice, and one may be running

    @staticmethod
    def _in_main_thread() -> bool:
        return threading.current_thread() is threading.main_thread()
