import io
import logging
import re
import sys

import pytest

from runtime.progress import ConsoleHandler, track


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_time_left_follows_this_process_speed_alone(clock):
    with track(total=100, description="search", done=40, clock=clock) as bar:
        assert bar.left() == "?"
        clock.now += 20
        bar.advance(10)
        assert bar.left() == "1:40"  # 50 units left at 2 s each


def test_images_per_second_are_of_this_process_and_leave_out_what_was_done_aside(clock):
    with track(total=100, description="training", done=40, images_per_unit=32, clock=clock) as bar:
        assert bar.images_per_second() is None
        clock.now += 20
        bar.advance(10)
        bar.aside("evaluation 0/2")
        clock.now += 15
        bar.aside("evaluation 1/2")
        clock.now += 15
        assert bar.images_per_second() == 16  # 10 x 32 images in 20 s
        bar.back()
        clock.now += 20
        bar.advance(10)
        assert bar.images_per_second() == 16
        assert bar.left() == "2:20"  # 40 units left at 3.5 s each: evaluation comes again


def test_a_long_time_left_is_told_in_hours(clock):
    with track(total=1000, description="training", clock=clock) as bar:
        clock.now += 3600
        bar.advance(100)
        assert bar.left() == "9:00:00"


def test_a_line_tells_images_per_second_and_what_is_done_aside(clock, capsys):
    with track(total=4, description="training", images_per_unit=800, clock=clock) as bar:
        clock.now += 20
        bar.advance(2, "loss 0.5")
        bar.aside("evaluation 0/2")
        clock.now += 20
        bar.aside("evaluation 1/2")
        bar.back()
        clock.now += 1
        bar.advance(2, "loss 0.25")
    assert capsys.readouterr().err.splitlines() == [
        "training 2/4, 80 images/s, ETA 0:20  loss 0.5",
        "training 2/4, 80 images/s, ETA 0:40  evaluation 1/2",
        "training 4/4, 152 images/s, ETA 0:00  loss 0.25",
    ]


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    with track(total=4, description="search", clock=clock) as bar:
        for reward in (0.1, 0.2, 0.3, 0.4):
            clock.now += 10
            bar.advance(1, f"best {reward}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["search 2/4, ETA 0:20  best 0.2", "search 4/4, ETA 0:00  best 0.4"]


def interrupted():
    with track(total=9, description="detection") as bar:
        bar.advance(3)
        raise KeyboardInterrupt


def test_an_interrupted_bar_says_how_far_it_came(capsys):
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err.startswith("detection 3/9")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(terminal):
    """What was written, without control sequences, as the lines that stay on the screen or are drawn over."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").split("\n")


def test_a_log_line_has_a_line_of_its_own_above_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    log = logging.Logger("a log")
    log.addHandler(ConsoleHandler())
    with track(total=4, description="training") as bar:
        bar.advance(1, "loss 0.5")
        log.warning("half of it is done")
        bar.note("child 2, epoch 1.0/3")
        log.warning("and more")
    shown = lines(terminal)
    assert "half of it is done" in shown
    assert "and more" in shown
    assert any(line.startswith("training ━") for line in shown)
    assert "loss 0.5  child 2, epoch 1.0/3" in [line.strip() for line in shown]


def test_a_note_lasts_until_the_next_unit_is_done(clock, capsys):
    with track(total=2, description="search", clock=clock) as bar:
        clock.now += 20
        bar.note("child 0, epoch 0.5/1")
        clock.now += 20
        bar.advance(1, "best 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "search 0/2, ETA ?  child 0, epoch 0.5/1",
        "search 1/2, ETA 0:40  best 0.5",
    ]
