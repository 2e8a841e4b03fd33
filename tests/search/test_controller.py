import math

import numpy as np
import pytest
import torch
from torch import nn

from runtime.device import torch_threads
from runtime.random import uniforms
from search.space import Space
from search.strategies.config import RATIOS
from search.strategies.policy import Policy
from search.strategies.ppo import SURROGATES, Episode, chosen, entropy, next_baseline, update
from search.strategies.sampler import Sampler


def policy(space, seed=0, init=0.1):
    return Policy(space, hidden=100, init=init, generator=torch.Generator().manual_seed(seed))


def test_fresh_policy_is_nearly_uniform_over_the_paper_space():
    space = Space()
    draws = torch.tensor([space.sample(0, number) for number in range(8)])
    with torch.no_grad():
        assert entropy(policy(space)(draws)).mean().item() == pytest.approx(84.6, abs=0.2)


def test_weights_start_uniform_between_minus_and_plus_a_tenth():
    values = torch.cat([parameter.flatten() for parameter in policy(Space()).parameters()])
    assert values.abs().max() <= 0.1
    assert values.std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.01)


def test_options_that_do_not_exist_have_no_probability():
    space = Space(blocks=3)
    draws = torch.tensor([space.sample(0, number) for number in range(4)])
    probabilities = policy(space)(draws).exp()
    assert torch.equal(probabilities > 0, torch.from_numpy(space.mask()).expand_as(probabilities))
    torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(4, 30))


def test_sampler_reports_the_log_probabilities_that_training_computes():
    space = Space()
    # Far from uniform, so that a wrong input or a shifted step would show.
    controller = policy(space, init=0.3)
    samples = [Sampler(controller).draw(uniforms(50, 1, number)) for number in range(6)]
    draws, reported = (torch.tensor(each) for each in zip(*samples, strict=True))
    with torch.no_grad():
        expected = chosen(controller(draws), draws)
    assert expected.std() > 0.5
    torch.testing.assert_close(reported, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(reported.double().sum(dim=1), expected.double().sum(dim=1), atol=1e-5, rtol=0)


def test_sampled_log_probabilities_are_float32_numbers():
    """As the ledger keeps them: a resumed search learns from the same bits."""
    _, log_probs = Sampler(policy(Space())).draw(uniforms(50, 1))
    assert list(log_probs) == np.float32(log_probs).tolist()


def test_threads_do_not_change_the_draws():
    sampler = Sampler(policy(Space()))
    with torch_threads(1):
        alone = sampler.draw(uniforms(50, 1))
    with torch_threads(2):
        assert Sampler(policy(Space())).draw(uniforms(50, 1)) == alone


def test_sampling_inverts_the_distribution():
    space = Space(blocks=1)
    controller = policy(space, init=2.0)
    sampler = Sampler(controller)
    first = [sampler.draw(np.full(10, (i + 0.5) / 200))[0][0] for i in range(200)]
    with torch.no_grad():
        expected = controller(torch.zeros(1, 10, dtype=torch.int64))[0, 0, :2].exp().numpy()
    np.testing.assert_allclose(np.bincount(first, minlength=2) / 200, expected, atol=1 / 200)


def test_later_options_depend_on_earlier_ones():
    space = Space(blocks=2)
    one, other = [0] * 20, [1] + [0] * 19
    with torch.no_grad():
        log_probs = policy(space, init=1.0)(torch.tensor([one, other]))
    assert torch.equal(log_probs[0, 0], log_probs[1, 0])
    assert not torch.allclose(log_probs[0, 19], log_probs[1, 19])


def surrogate(name, ratios, advantages, clip=0.2):
    """The loss of `[E, T]` ratios, all old log-probabilities being -2, and its gradient by their logs."""
    log_ratio = torch.tensor(ratios).log()
    log_probs = (log_ratio - 2).requires_grad_()
    loss = SURROGATES[name](log_probs, torch.full_like(log_ratio, -2.0), torch.tensor(advantages), clip)
    loss.backward()
    assert log_probs.grad is not None
    return loss.item(), log_probs.grad


@pytest.mark.parametrize("name", ["decision", "architecture"])
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 2.0, -2.2),  # inside the clip range
        (1.5, 2.0, -2.4),  # a gain is credited up to 1.2
        (0.5, 2.0, -1.0),  # a loss in full
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 1.6),  # 0.8 * 2
    ],
)
def test_surrogate_of_one_decision_is_ppos(name, ratio, advantage, loss):
    assert surrogate(name, [[ratio]], [advantage])[0] == pytest.approx(loss, rel=1e-4)


def test_surrogates_are_means_over_architectures():
    for name in SURROGATES:
        both, alone = surrogate(name, [[1.1], [1.0]], [1.0, 3.0]), surrogate(name, [[1.1]], [1.0])
        assert both[1][0].item() == pytest.approx(alone[1].item() / 2)


def test_one_ratio_for_the_architecture_is_the_product_and_clips_all_decisions_together():
    loss, gradient = surrogate("architecture", [[1.15, 1.15], [1.15, 1 / 1.15]], [1.0, 1.0])
    assert loss == pytest.approx(-(1.2 + 1.0) / 2)  # 1.3225 is clipped, 1 is not
    assert gradient[0].tolist() == [0.0, 0.0]
    assert gradient[1].tolist() == pytest.approx([-0.5, -0.5])


def test_ratios_of_decisions_are_clipped_one_by_one_and_summed():
    loss, gradient = surrogate("decision", [[1.15, 1.5]], [2.0])
    assert loss == pytest.approx(-2 * (1.15 + 1.2))
    assert gradient.tolist() == [pytest.approx([-2 * 1.15, 0.0])]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(("ratio", "learned"), [(0.5, False), (0.85, True), (1.15, True), (1.5, False)])
def test_dropping_learns_nothing_outside_the_clip_on_either_side(ratio, learned, advantage):
    loss, gradient = surrogate("drop", [[ratio, 1.0]], [advantage])
    assert loss == pytest.approx(-advantage * ratio * learned)
    assert gradient.tolist() == [pytest.approx([-advantage * ratio * learned] * 2)]


def test_vtrace_weighs_a_decision_by_the_truncated_ratios_from_it_on():
    """1802.01561, with the reward after the last decision: c's below 1 cut what flows back through them."""
    _, gradient = surrogate("vtrace", [[0.9, 0.5, 2.0, 0.8]], [3.0])
    weights = [0.9 * 0.5 * 1 * 0.8, 0.5 * 1 * 0.8, 1 * 0.8, 0.8]
    assert gradient.tolist() == [pytest.approx([-3 * weight for weight in weights])]


@pytest.mark.parametrize("name", SURROGATES)
def test_all_surrogates_are_reinforce_where_the_policy_is_the_samplers(name):
    _, gradient = surrogate(name, [[1.0, 1.0], [1.0, 1.0]], [3.0, -1.0])
    torch.testing.assert_close(gradient, torch.tensor([[-1.5, -1.5], [0.5, 0.5]]))


def test_every_ratio_of_the_configuration_has_its_surrogate():
    assert set(SURROGATES) == set(RATIOS)


def test_entropy_sums_the_steps_and_ignores_padding():
    log_probs = torch.tensor([[[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]]).log().clamp_min(-1e9)
    assert entropy(log_probs).item() == pytest.approx(math.log(2) + 1.5 * math.log(2))


def test_log_probabilities_are_those_of_what_was_chosen():
    log_probs = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.8], [0.6, 0.4]]]).log()
    found = chosen(log_probs, torch.tensor([[0, 1], [1, 0]]))
    torch.testing.assert_close(found.exp(), torch.tensor([[0.5, 0.9], [0.8, 0.6]]))


def test_baseline_is_the_moving_average_of_past_rewards():
    assert next_baseline(None, 0.4, decay=0.95) == 0.4
    assert next_baseline(0.4, 0.8, decay=0.95) == pytest.approx(0.42)


def test_update_takes_its_passes_on_the_surrogate_and_the_entropy_bonus():
    """One pass of plain gradient descent on a policy of two options without a past, worked out by hand."""

    class Coin(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([[1.0, 0.0]]))

        def forward(self, decisions):
            return torch.log_softmax(self.logits, dim=1).expand(len(decisions), 1, 2)

    def after(passes, advantage, weight):
        coin = Coin()
        optimizer = torch.optim.SGD(coin.parameters(), lr=1.0)
        episodes = [Episode((0,), log_probs=(math.log(p),), advantage=advantage)]
        update(coin, optimizer, episodes, passes=passes, ratio="decision", clip=0.2, entropy_weight=weight)
        return coin.logits.detach()[0].tolist()

    p = 1 / (1 + math.exp(-1))
    slope = p * (1 - p)  # of p, by the first logit
    # The ratio is 1, so its gradient is that of log p: 1 - p for the first logit.
    assert after(1, 0.5, 0.0) == pytest.approx([1 + 0.5 * (1 - p), -0.5 * (1 - p)])
    # Entropy falls with p by log(p / (1 - p)) = 1: the bonus moves towards the fair coin.
    assert after(1, 0.0, 0.5) == pytest.approx([1 - 0.5 * slope, 0.5 * slope])
    # A second pass has the gradient of its own place alone, not the sum with the first.
    q = 1 / (1 + math.exp(-(1 - slope)))
    fall = math.log(q / (1 - q)) * q * (1 - q)
    assert after(2, 0.0, 0.5) == pytest.approx([1 - 0.5 * slope - 0.5 * fall, 0.5 * slope + 0.5 * fall])
