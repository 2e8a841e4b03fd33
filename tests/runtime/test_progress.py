import pytest

from runtime import progress
from runtime.progress import track


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_time_left_follows_this_process_speed_alone(clock):
    with track(total=100, description="search", done=40) as bar:
        assert bar.left() == "?"
        clock.now += 20
        bar.advance(10)
        assert bar.left() == "1:40"  # 50 units left at 2 s each


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    with track(total=4, description="search") as bar:
        for reward in (0.1, 0.2, 0.3, 0.4):
            clock.now += 10
            bar.advance(best=reward)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["search 2/4, left 0:20  best 0.2", "search 4/4, left 0:00  best 0.4"]


def interrupted():
    with track(total=9, description="detection") as bar:
        bar.advance(3)
        raise KeyboardInterrupt


def test_an_interrupted_bar_says_how_far_it_came(clock, capsys):
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err.startswith("detection 3/9")
