import collections
import dataclasses
import itertools
import json
import math
import statistics

import pytest
import torch
from toy_search import reward

from backbones.genotype import Block
from backbones.ranges import ConfigError
from search.messages import Failure, Result
from search.space import Space
from search.strategies.config import ControllerConfig, EvolutionConfig, PrimSkipConfig, RandomConfig
from search.strategies.protocol import State
from search.strategies.start import KnownFirst
from search.strategies.uniform import RandomSearch

SPACE = Space(blocks=2)


def score(proposals):
    return [Result(proposal, reward=reward(proposal.genotype)) for proposal in proposals]


def flat(state):
    return {name: tensor.tolist() for name, tensor in state.tensors.items()}, state.values


class StrategyContract:
    """The laws of `Strategy`; a subclass gives the fixture `config`."""

    def build(self, config, seed=0):
        return config.build(SPACE, seed)

    def test_proposals_are_numbered_and_lie_in_the_space(self, config):
        proposals = self.build(config).propose(7, [])
        assert [proposal.number for proposal in proposals] == list(range(7))
        assert all(SPACE.decode(p.decisions) == p.genotype for p in proposals)

    def test_asking_in_parts_gives_the_same_as_asking_once(self, config):
        parts = self.build(config)
        first = parts.propose(2, [])
        assert first + parts.propose(5, first) == self.build(config).propose(7, [])

    def test_seeds_differ_and_repeat(self, config):
        assert self.build(config, 1).propose(3, []) == self.build(config, 1).propose(3, [])
        assert self.build(config, 1).propose(3, []) != self.build(config, 2).propose(3, [])

    def test_state_is_enough_to_go_on(self, config):
        strategy, copy = self.build(config), None
        for _ in range(4):
            proposals = strategy.propose(5, [])
            strategy.observe(score(proposals[:3]))
            copy = self.build(config)
            tensors, values = strategy.state_dict()
            copy.load_state_dict(State(tensors, json.loads(json.dumps(values))))
            assert flat(copy.state_dict()) == flat(strategy.state_dict())
            assert copy.propose(2, proposals[3:]) == strategy.propose(2, proposals[3:])
            strategy.observe(score(proposals[3:]))

    def test_tensors_are_the_same_dictionary_until_they_change(self, config):
        """By which the ledger knows that they need not be written again."""
        strategy = self.build(config)
        for _ in range(9):
            before = strategy.state_dict().tensors
            values = flat(strategy.state_dict())[0]
            strategy.observe(score(strategy.propose(1, [])))
            assert flat(State(before, {}))[0] == values
            after = strategy.state_dict().tensors
            assert after is before or flat(State(after, {}))[0] != values

    def test_state_does_not_change_with_the_strategy(self, config):
        strategy = self.build(config)
        state = strategy.state_dict()
        before = flat(state)
        strategy.observe(score(strategy.propose(20, [])))
        assert flat(state) == before

    def test_state_that_is_not_its_own_is_refused_and_changes_nothing(self, config):
        strategy, same = self.build(config), self.build(config)
        for each in (strategy, same):
            each.observe(score(each.propose(9, [])))
        tensors, values = strategy.state_dict()
        another = RandomConfig() if isinstance(config, ControllerConfig) else ControllerConfig()
        foreign = [
            self.build(another).state_dict(),
            State({}, {}),
            State({**tensors, "more": torch.zeros(2)}, values),
            State(tensors, {**values, "more": 1}),
            *(State(tensors, {k: v for k, v in values.items() if k != gone}) for gone in values),
            *(State({**tensors, name: torch.zeros(7, 7)}, values) for name in tensors),
            *(State({k: v for k, v in tensors.items() if k != gone}, values) for gone in tensors),
        ]
        for state in foreign:
            with pytest.raises(ValueError, match="strategy state has"):
                strategy.load_state_dict(state)
        assert flat(strategy.state_dict()) == flat(same.state_dict())
        assert strategy.propose(2, []) == same.propose(2, [])

    def test_chance_outside_does_not_matter(self, config):
        torch.manual_seed(1)
        first = self.build(config).propose(2, [])
        torch.manual_seed(2)
        assert self.build(config).propose(2, []) == first

    def test_failed_children_are_accepted(self, config):
        strategy = self.build(config)
        proposals = strategy.propose(6, [])
        strategy.observe([Result(proposal, failure=Failure.NOT_FINITE) for proposal in proposals])
        assert len(strategy.propose(1, [])) == 1


class TestRandom(StrategyContract):
    @pytest.fixture
    def config(self):
        return RandomConfig()

    def test_learns_nothing(self, config):
        strategy = self.build(config)
        first = strategy.propose(3, [])
        strategy.observe(score(first))
        assert first + strategy.propose(3, []) == self.build(config).propose(6, [])


class TestPrimSkip(StrategyContract):
    @pytest.fixture
    def config(self):
        return PrimSkipConfig()

    def test_blocks_have_the_pattern_in_its_place_and_are_equally_likely(self, config):
        kernels = itertools.product(["sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"], repeat=2)
        states = itertools.permutations(range(3), 2)
        pattern = {Block(*each, *names, "add") for each, names in itertools.product(states, kernels)}
        proposals = self.build(config).propose(3000, [])
        for name in ("normal", "reduction"):
            cells = [getattr(proposal.genotype, name).blocks for proposal in proposals]
            assert {cell[0] for cell in cells} == {Block(0, 1, "identity", "identity", "add")}
            counts = collections.Counter(cell[1] for cell in cells)
            assert counts.keys() == pattern
            assert max(abs(count - 3000 / 54) for count in counts.values()) < 5 * math.sqrt(3000 / 54)
        assert all(p.log_prob == pytest.approx(-2 * math.log(54)) for p in proposals)

    @pytest.mark.parametrize("space", [Space(operations=("identity",)), Space(combinations=("concat",))])
    def test_a_space_without_such_cells_is_refused(self, config, space):
        with pytest.raises(ConfigError, match="name = prim_skip needs identity and a sep_conv in space"):
            config.build(space, 0)


class TestEvolution(StrategyContract):
    @pytest.fixture
    def config(self):
        return EvolutionConfig(population=4, sample=2)

    @staticmethod
    def changes(one, other):
        return sum(a != b for a, b in zip(one.decisions, other.decisions, strict=True))

    def test_children_are_random_until_the_population_is_full_of_scored_ones(self, config):
        strategy, random = self.build(config), self.build(RandomConfig())
        drawn = [proposal.decisions for proposal in random.propose(12, [])]
        for rewards in ([0.5, None, 0.4, 0.3], [None, None, None], [None, 0.1], [0.2, 0.3, 0.4]):
            proposals = strategy.propose(len(rewards), [])
            full = proposals[0].number > 8
            assert [each.decisions == drawn[each.number] for each in proposals] == [not full] * len(rewards)
            failure = {None: Failure.REJECTED}
            strategy.observe(
                [
                    Result(each, reward=reward, failure=failure.get(reward))
                    for each, reward in zip(proposals, rewards, strict=True)
                ]
            )

    def test_a_child_is_the_best_of_the_sample_but_for_one_decision(self):
        strategy = self.build(EvolutionConfig(population=4, sample=100))  # which holds all four
        first = strategy.propose(4, [])
        rewards = (0.1, 0.3, 0.9, 0.2)
        strategy.observe([Result(p, reward=r) for p, r in zip(first, rewards, strict=True)])
        children = strategy.propose(30, first)
        assert [self.changes(first[2], child) for child in children] == [1] * 30
        assert all(child.log_prob is None for child in children)

    def test_the_population_ages(self):
        """The oldest leaves however good it is, and failed children push nobody out."""
        strategy = self.build(EvolutionConfig(population=4, sample=100))
        best, *others = strategy.propose(4, [])
        strategy.observe([Result(best, reward=0.9), *(Result(each, reward=0.1) for each in others)])
        failed, scored = strategy.propose(2, [])
        strategy.observe([Result(failed, failure=Failure.CRASH)])
        assert self.changes(best, strategy.propose(1, [])[0]) == 1
        strategy.observe([Result(scored, reward=0.2)])
        assert [self.changes(scored, child) for child in strategy.propose(9, [])] == [1] * 9

    def test_every_member_of_the_population_is_a_parent_where_the_sample_is_one(self):
        strategy = self.build(EvolutionConfig(population=4, sample=1))
        members = strategy.propose(4, [])
        strategy.observe([Result(each, reward=each.number / 4) for each in members])
        children = strategy.propose(80, [])
        parents = [min(members, key=lambda member: self.changes(member, child)) for child in children]
        counts = [parents.count(member) for member in members]
        assert sum(counts) == 80
        assert min(counts) >= 8  # 20 are expected, with a standard deviation of 3.9


class TestKnownFirst(StrategyContract):
    @pytest.fixture
    def config(self, tmp_path):
        paths = [tmp_path / f"{number}.json" for number in range(2)]
        for number, path in enumerate(paths):
            SPACE.decode(SPACE.sample(99, number)).save(path)
        return EvolutionConfig(population=4, sample=2, start=[str(path) for path in paths])

    @pytest.mark.parametrize(
        "plain", [RandomConfig(), EvolutionConfig(population=4), ControllerConfig(architectures_per_update=4)]
    )
    def test_any_strategy_goes_on_as_if_there_were_no_known_cells(self, config, plain):
        known = self.build(dataclasses.replace(plain, start=config.start))
        strategy = self.build(plain)
        proposals = known.propose(2, [])
        assert [p.decisions for p in proposals] == [SPACE.sample(99, number) for number in range(2)]
        known.observe([Result(each, reward=1.0) for each in proposals])
        for _ in range(3):
            own, shifted = strategy.propose(5, []), known.propose(5, [])
            assert shifted == [dataclasses.replace(each, number=each.number + 2) for each in own]
            strategy.observe(score(own))
            known.observe(score(shifted))

    def test_a_known_cell_that_has_changed_is_refused(self, config):
        state = self.build(config).state_dict()
        SPACE.decode(SPACE.sample(99, 7)).save(config.start[1])
        with pytest.raises(
            ConfigError, match=r"start: .*1.json holds another cell than when the search began"
        ):
            self.build(config).load_state_dict(state)

    def test_the_strategy_hears_only_of_its_own_cells_as_it_numbered_them(self, config):
        heard = []

        class Listening(RandomSearch):
            def propose(self, n, pending):
                heard.append(("pending", [each.number for each in pending]))
                return super().propose(n, pending)

            def observe(self, results):
                heard.append(("results", [each.proposal.number for each in results]))

        known = KnownFirst(Listening(RandomConfig(), SPACE, 0), SPACE, config.start)
        first = known.propose(4, [])
        known.observe(score(first[1:3]))
        known.propose(1, [first[0], first[3]])
        assert heard == [("pending", []), ("results", [0]), ("pending", [1])]

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (Space(blocks=3), "start: .*0.json: normal has 2 blocks, this space has 3"),
            (
                Space(blocks=2, operations=("conv_1x1",)),
                r"start: .*0.json: normal.blocks\[0\].\w+_op = '\w+', this space has conv_1x1",
            ),
        ],
    )
    def test_cells_outside_the_space_are_refused(self, config, space, message):
        with pytest.raises(ValueError, match=message):
            config.build(space, 0)


class TestController(StrategyContract):
    @pytest.fixture
    def config(self):
        return ControllerConfig(architectures_per_update=4, lr=0.01)

    def test_updates_when_a_batch_is_full(self, config):
        strategy = self.build(config)
        proposals = strategy.propose(8, [])
        before = flat(strategy.state_dict())[0]
        strategy.observe(score(proposals[:3]))
        assert flat(strategy.state_dict())[0] == before
        strategy.observe(score(proposals[3:4]))
        assert flat(strategy.state_dict())[0] != before
        assert strategy.state_dict().values["updates"] == 1

    @pytest.mark.parametrize("stands_for", [0.0, 0.25])
    def test_failure_counts_as_the_reward_that_stands_for_it(self, config, stands_for):
        config = dataclasses.replace(config, failed_reward=stands_for)
        failed, scored = self.build(config), self.build(config)
        proposals = failed.propose(4, [])
        assert scored.propose(4, []) == proposals
        failed.observe([*score(proposals[:3]), Result(proposals[3], failure=Failure.TIMEOUT)])
        scored.observe([*score(proposals[:3]), Result(proposals[3], reward=stands_for)])
        assert flat(failed.state_dict()) == flat(scored.state_dict())

    def test_failure_counts_as_the_lowest_reward_unless_told_otherwise(self):
        assert ControllerConfig().failed_reward == 0.0

    def test_result_without_a_log_probability_cannot_be_learned_from(self, config):
        strategy = self.build(config)
        (proposal,) = self.build(RandomConfig()).propose(1, [])
        assert proposal.log_probs is None
        with pytest.raises(ValueError, match="child 0 has no log-probabilities to learn from"):
            strategy.observe([Result(proposal, reward=0.5)])

    @pytest.mark.parametrize(
        "setting",
        [
            {"init": 0.2},
            {"lr": 0.02},
            {"architectures_per_update": 5},
            {"passes": 5},
            {"clip": 1e-6},
            {"ratio": "architecture"},
            {"ratio": "drop"},
            {"ratio": "vtrace"},
            {"entropy_weight": 1.0},
            {"baseline_decay": 0.5},
        ],
    )
    def test_every_setting_matters(self, config, setting):
        usual, changed = self.build(config), self.build(dataclasses.replace(config, **setting))
        for strategy in (usual, changed):
            for _ in range(3):
                proposals = strategy.propose(5, [])
                strategy.observe([Result(each, reward=each.number % 3 / 2) for each in proposals])
        assert flat(usual.state_dict())[0] != flat(changed.state_dict())[0]

    def test_advantages_are_taken_against_past_rewards_only(self, config):
        strategy = self.build(config)
        proposals = strategy.propose(3, [])
        strategy.observe([Result(p, reward=r) for p, r in zip(proposals, (0.5, 0.9, 0.1), strict=True)])
        batch = strategy.state_dict().values["batch"]
        # baselines before each: none, 0.5, 0.95 * 0.5 + 0.05 * 0.9 = 0.52
        assert [entry["advantage"] for entry in batch] == pytest.approx([0.0, 0.4, -0.42])

    def test_state_of_another_space_is_refused_and_changes_nothing(self, config):
        strategy, other = self.build(config), config.build(Space(blocks=3), 0)
        before = flat(strategy.state_dict())
        with pytest.raises(ValueError, match="strategy state has the tensors"):
            strategy.load_state_dict(other.state_dict())
        assert flat(strategy.state_dict()) == before

    def test_finds_a_known_optimum_sooner_than_random(self):
        """With the paper's settings, 600 cells each; the optimum is the favourite operation everywhere."""
        space = Space(blocks=1, operations=("identity", "conv_1x1", "conv_3x3", "avg_pool_3x3"))
        late: dict[str, list[float]] = {}
        for name, config in (("controller", ControllerConfig()), ("random", RandomConfig())):
            late[name] = []
            for seed in range(3):
                strategy = config.build(space, seed)
                rewards: list[float] = []
                for _ in range(30):
                    results = score(strategy.propose(20, []))
                    strategy.observe(results)
                    rewards += [reward(result.proposal.genotype) for result in results]
                late[name].append(statistics.mean(rewards[-100:]))
        assert max(late["random"]) < 0.35  # a quarter of the operations by chance
        assert min(late["controller"]) > 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden = 0"),
        ({"clip": 0.0}, "clip = 0.0"),
        ({"ratio": "cell"}, "ratio = 'cell', expected one of decision, architecture, drop, vtrace"),
        ({"baseline_decay": 1.0}, r"baseline_decay = 1.0, must be in \[0, 1\)"),
        ({"entropy_weight": -1.0}, "entropy_weight"),
    ],
)
def test_controller_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ControllerConfig(**settings)
