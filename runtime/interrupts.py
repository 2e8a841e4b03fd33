"""Ctrl-C and SIGTERM during a training: the step is finished, a checkpoint written, the caller told.

Lightning would drop what it did since the last checkpoint and end the process by `sys.exit`.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from runtime.launch import launched_rank

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = {
    signal.SIGINT: "Press Ctrl-C again to stop immediately.",
    signal.SIGTERM: "A second SIGTERM stops immediately.",
}


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
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does. Only a main thread can."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


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
