import dataclasses

import pytest
import torch
from toy_search import Opens, ScrambledConfig

from backbones.genotype import GenotypeError
from search.children.attempt import report_progress
from search.executors.config import InlineConfig, SimulatedConfig
from search.messages import ChildFailed, ChildTask, Failure, Proposal, Result
from search.space import Space


def task(number, **settings):
    space = Space(blocks=1)
    decisions = space.sample(0, number)
    return ChildTask(Proposal(number, space.decode(decisions), decisions), seed=number, **settings)


def score(genotype, task):
    return Result(task.proposal, reward=task.proposal.number / 10)


class ExecutorContract:
    """The laws of `Executor`; a subclass gives the fixture `config`, of one device."""

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

    def test_every_task_gives_one_result(self, config):
        results = self.drain(config.build(Opens(score), "search"), [task(n) for n in range(8)])
        assert sorted((r.proposal.number, r.reward) for r in results) == [(n, n / 10) for n in range(8)]

    def test_capacity_returns_when_work_is_done(self, config):
        executor = config.build(Opens(score), "search")
        free = executor.capacity()
        assert free >= 1
        self.drain(executor, [task(0)])
        assert executor.capacity() == free

    def test_busy_executor_refuses(self, config):
        executor = config.build(Opens(score), "search")
        for number in range(executor.capacity()):
            executor.submit(task(number))
        with pytest.raises(RuntimeError):
            executor.submit(task(99))

    def test_cancelled_task_gives_no_result(self, config):
        executor = config.build(Opens(score), "search")
        executor.submit(task(3))
        executor.cancel(3)
        executor.cancel(4)
        assert [result.proposal.number for result in self.drain(executor, [task(5)])] == [5]
        assert list(executor.poll()) == []

    def test_poll_without_tasks_is_empty(self, config):
        assert list(config.build(Opens(score), "search").poll()) == []

    def test_a_running_child_tells_how_far_it_is(self, config):
        def reporting(genotype, task):
            for epoch in range(task.proposal.number):
                report_progress(epoch + 0.5, 3)
            return score(genotype, task)

        executor, told = config.build(Opens(reporting), "search"), []
        for number in (1, 2):
            executor.submit(task(number))
            while not executor.poll(lambda *told_now: told.append(told_now)):
                pass
        assert told == [(1, 0.5, 3), (2, 0.5, 3), (2, 1.5, 3)]
        report_progress(0.5, 3)  # outside a search nobody listens
        assert len(told) == 3

    def test_task_that_is_to_be_alone_ends_after_those_before_it_and_lets_none_in(self, config):
        executor = config.build(Opens(score), "search")
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

    def test_alone_counts_for_one_task_only(self, config):
        executor = config.build(Opens(score), "search")
        free = executor.capacity()
        self.drain(executor, [task(0, alone=True)])
        executor.submit(task(1))
        assert executor.capacity() == free - 1

    @pytest.mark.parametrize(
        ("error", "failure"),
        [
            (ChildFailed(Failure.TIMEOUT, "late"), Failure.TIMEOUT),
            (GenotypeError("normal.blocks is empty"), Failure.INVALID),
            (MemoryError(), Failure.OUT_OF_MEMORY),
            (torch.OutOfMemoryError("CUDA out of memory"), Failure.OUT_OF_MEMORY),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Failure.OUT_OF_MEMORY),
            (ZeroDivisionError("division by zero"), Failure.CRASH),
        ],
    )
    def test_what_an_evaluator_raises_is_a_typed_failure(self, config, error, failure):
        def evaluator(genotype, task):
            raise error

        (result,) = self.drain(config.build(Opens(evaluator), "search"), [task(0)])
        assert (result.reward, result.failure) == (None, failure)

    def test_evaluator_that_answers_for_another_child_has_crashed(self, config):
        executor = config.build(Opens(lambda genotype, given: Result(task(7).proposal, reward=1.0)), "search")
        (result,) = self.drain(executor, [task(0)])
        assert result.proposal.number == 0
        assert result.failure is Failure.CRASH

    def test_interrupts_pass_through(self, config):
        def evaluator(genotype, task):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.drain(config.build(Opens(evaluator), "search"), [task(0)])


class TestInline(ExecutorContract):
    @pytest.fixture
    def config(self):
        return InlineConfig()


class TestScrambled(ExecutorContract):
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


def test_result_has_either_a_reward_or_a_failure():
    good = Result(task(0).proposal, reward=0.5)
    with pytest.raises(ValueError, match="child 0"):
        dataclasses.replace(good, reward=None)
    with pytest.raises(ValueError, match="child 0"):
        dataclasses.replace(good, failure=Failure.CRASH)
