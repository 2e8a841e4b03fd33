import os
import signal
import subprocess
import sys
import threading

import pytest

from runtime.interrupts import interrupts_deferred, sigterm_as_interrupt

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers():
    before, hook = [signal.getsignal(number) for number in BOTH], sys.unraisablehook
    sigterm_as_interrupt()
    yield
    sys.unraisablehook = hook
    for number, handler in zip(BOTH, before, strict=True):
        signal.signal(number, handler)


def interrupted(numbers, done):
    with interrupts_deferred():
        for number in numbers:
            os.kill(os.getpid(), number)
            done.append(number)


LOST = """
import os, signal, sys, time
from runtime.interrupts import sigterm_as_interrupt

class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)
sigterm_as_interrupt()
try:
    Destroyed()
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", BOTH)
def test_an_interrupt_where_python_cannot_raise_one_is_raised_soon(number):
    command = [sys.executable, "-c", LOST, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.parametrize("number", BOTH)
def test_a_block_ends_before_its_interrupt_is_delivered(number):
    done, handlers = [], [signal.getsignal(each) for each in BOTH]
    with pytest.raises(KeyboardInterrupt):
        interrupted([number], done)
    assert done == [number]
    assert [signal.getsignal(each) for each in BOTH] == handlers


def test_a_second_interrupt_is_delivered_within_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt):
        interrupted([signal.SIGTERM, signal.SIGINT, signal.SIGINT], done)
    assert done == [signal.SIGTERM]


def test_a_signal_that_was_ignored_stays_so_and_one_that_ends_the_process_ends_it():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    done = []
    interrupted([signal.SIGTERM], done)
    assert done == [signal.SIGTERM]
    if not (child := os.fork()):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        interrupted([signal.SIGTERM], done)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_process_forked_within_the_block_is_ended_by_the_first_signal():
    with interrupts_deferred():
        if not (child := os.fork()):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except KeyboardInterrupt:
                os._exit(3)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_a_thread_runs_the_block_and_leaves_the_handlers():
    handlers, seen = [signal.getsignal(each) for each in BOTH], []

    def block():
        with interrupts_deferred():
            seen.extend(signal.getsignal(each) for each in BOTH)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == handlers
