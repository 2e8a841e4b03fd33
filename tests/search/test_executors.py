import dataclasses
from contextlib import closing

import pytest
from small_evaluators import RAISES, Behaves, task
from toy_search import Opens, ScrambledConfig

from search.children.attempt import report_progress
from search.executors.config import InlineConfig, ProcessConfig, SimulatedConfig
from search.messages import Failure, Result


class ExecutorContract:
    """The laws of `Executor`; a subclass gives the fixture `config`, of one device.

    A test leaves the executor as it found it, so that slow ones may be shared."""

    @pytest.fixture
    def executor(self, config):
        with closing(config.build(Behaves(), "search")) as executor:
            yield executor

    def drain(self, executor, tasks):
        results, waiting, running = [], list(tasks), 0
        while waiting or running:
            while waiting and executor.capacity() > 0:
                executor.submit(waiting.pop(0))
                running += 1
            new = executor.poll()
            results += new
            running -= len(new)
        return results

    def test_every_task_gives_one_result(self, executor):
        results = self.drain(executor, [task(n) for n in range(8)])
        assert sorted((r.proposal.number, r.reward) for r in results) == [(n, n / 10) for n in range(8)]

    def test_a_result_says_where_it_was_made(self, executor):
        (result,) = self.drain(executor, [task(0)])
        assert result.site.pid > 1
        assert result.site.device == "cpu"

    def test_capacity_returns_when_work_is_done(self, executor):
        free = executor.capacity()
        assert free >= 1
        self.drain(executor, [task(0)])
        assert executor.capacity() == free

    def test_busy_executor_refuses(self, executor):
        free = executor.capacity()
        for number in range(free):
            executor.submit(task(number))
        with pytest.raises(RuntimeError):
            executor.submit(task(99))
        results: list[Result] = []
        while len(results) < free:
            results += executor.poll()

    def test_cancelled_task_gives_no_result(self, executor):
        executor.submit(task(3))
        executor.cancel(3)
        executor.cancel(4)
        assert [result.proposal.number for result in self.drain(executor, [task(5)])] == [5]
        assert list(executor.poll()) == []

    def test_poll_without_tasks_is_empty(self, executor):
        assert list(executor.poll()) == []

    def test_a_running_child_tells_how_far_it_is(self, executor):
        told = []
        for number in (1, 2):
            executor.submit(task(number, "report"))
            while not executor.poll(lambda *told_now: told.append(told_now)):
                pass
        assert told == [(1, 0.5, 3), (2, 0.5, 3), (2, 1.5, 3)]
        report_progress(0.5, 3)  # outside a search nobody listens
        assert len(told) == 3

    def test_task_that_is_to_be_alone_ends_after_those_before_it_and_lets_none_in(self, executor):
        before = [task(number) for number in range(executor.capacity() - 1)]
        for each in before:
            executor.submit(each)
        executor.submit(task(99, alone=True))
        results: list[Result] = []
        while len(results) <= len(before):
            assert executor.capacity() == 0
            with pytest.raises(RuntimeError):
                executor.submit(task(100))
            results += executor.poll()
        assert [result.proposal.number for result in results][-1] == 99
        assert executor.capacity() == len(before) + 1

    def test_alone_counts_for_one_task_only(self, executor):
        free = executor.capacity()
        self.drain(executor, [task(0, alone=True)])
        executor.submit(task(1))
        assert executor.capacity() == free - 1
        while not executor.poll():
            pass

    def test_what_an_evaluator_raises_is_a_typed_failure(self, executor):
        results = self.drain(executor, [task(number, number) for number in range(len(RAISES))])
        found = {result.proposal.number: (result.reward, result.failure) for result in results}
        assert found == {number: (None, failure) for number, (_, failure) in enumerate(RAISES)}

    def test_evaluator_that_answers_for_another_child_is_invalid(self, executor):
        (result,) = self.drain(executor, [task(0, "answer for another")])
        assert result.proposal.number == 0
        assert result.failure is Failure.INVALID


class InTheDriver:
    """Executors whose children run in the process of the search."""

    def test_interrupts_pass_through(self, executor):
        with pytest.raises(KeyboardInterrupt):
            self.drain(executor, [task(0, "interrupt")])


class TestInline(ExecutorContract, InTheDriver):
    @pytest.fixture
    def config(self):
        return InlineConfig()


class TestScrambled(ExecutorContract, InTheDriver):
    """The fake of the search's tests keeps the laws, too."""

    @pytest.fixture
    def config(self):
        return ScrambledConfig()


class TestSimulated(ExecutorContract):
    @pytest.fixture
    def config(self):
        return SimulatedConfig(workers=3)

    def test_time_moves_to_the_next_finish(self):
        def seconds(genotype, task):
            return Result(task.proposal, reward=0.0, seconds=[4, 1, 3, 2][task.proposal.number])

        executor, seen = SimulatedConfig(workers=2).build(Opens(seconds), "search"), []
        waiting = [task(number) for number in range(4)]
        while waiting or executor.capacity() < 2:
            while waiting and executor.capacity():
                executor.submit(waiting.pop(0))
            seen.append((*(result.proposal.number for result in executor.poll()), executor.now // 1_000_000))
        # Child 2 takes the worker of child 1 at 1 s; 0 and 2 end together at 4 s; 3 is alone until 6 s.
        assert seen == [(1, 1), (0, 2, 4), (3, 6)]
        assert executor.utilisation(4_000_000) == 1.0
        assert executor.utilisation(6_000_000) == (4 + 1 + 3 + 2) / 12


class TestProcesses(ExecutorContract):
    """Further laws of processes: tests/search/test_processes.py."""

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        with closing(ProcessConfig(workers=2).build(Behaves(), "search")) as executor:
            yield executor


def test_result_has_either_a_reward_or_a_failure():
    good = Result(task(0).proposal, reward=0.5)
    with pytest.raises(ValueError, match="child 0"):
        dataclasses.replace(good, reward=None)
    with pytest.raises(ValueError, match="child 0"):
        dataclasses.replace(good, failure=Failure.CRASH)
