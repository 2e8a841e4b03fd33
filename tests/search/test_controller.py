import math

import numpy as np
import pytest
import torch
from torch import nn

from runtime.device import torch_threads
from runtime.random import uniforms
from search.space import Space
from search.strategies.controller import Policy
from search.strategies.ppo import Episode, chosen_log_probs, entropy, next_baseline, ppo_loss, update


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
    controller = policy(space, init=1.0)
    samples = [controller.sample(uniforms(50, 1, number)) for number in range(6)]
    draws = torch.tensor([decisions for decisions, _ in samples])
    with torch.no_grad():
        expected = chosen_log_probs(controller(draws), draws)
    torch.testing.assert_close(
        torch.tensor([log_probs for _, log_probs in samples]), expected, atol=1e-3, rtol=0
    )


def test_sampling_inverts_the_distribution():
    space = Space(blocks=1)
    controller = policy(space, init=2.0)
    grid = [np.full(10, (i + 0.5) / 200) for i in range(200)]
    with torch_threads(1):
        first = [controller.sample(chance)[0][0] for chance in grid]
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
def test_ppo_loss_is_the_clipped_surrogate(ratio, advantage, loss):
    log_prob = torch.tensor([[math.log(ratio) - 80.0]])
    value = ppo_loss(log_prob, torch.tensor([[-80.0]]), torch.tensor([advantage]), clip=0.2)
    assert value.item() == pytest.approx(loss, rel=1e-4)


def test_ppo_loss_is_the_mean_and_sends_no_gradient_beyond_the_clip():
    log_prob = torch.tensor([[math.log(1.5)], [0.0]], requires_grad=True)
    loss = ppo_loss(log_prob, torch.zeros(2, 1), torch.tensor([1.0, 1.0]), clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-(1.2 + 1.0) / 2)
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [[0.0], [-0.5]]


def test_each_action_of_an_architecture_is_clipped_by_itself():
    log_prob = torch.tensor([[math.log(1.5), math.log(1.1), math.log(0.5)]], requires_grad=True)
    loss = ppo_loss(log_prob, torch.zeros(1, 3), torch.tensor([0.1]), clip=0.2)
    assert loss.item() == pytest.approx(-0.1 * (1.2 + 1.1 + 0.5))
    loss.backward()
    assert log_prob.grad is not None
    assert log_prob.grad[0].tolist() == pytest.approx([0.0, -0.11, -0.05])


def test_both_ratios_have_one_gradient_on_policy_and_not_after_it_has_moved():
    space = Space(blocks=1)
    sampler = policy(space)
    samples = [sampler.sample(uniforms(10, 1, number)) for number in range(4)]
    episodes = [Episode(*sample, advantage=number - 1.0) for number, sample in enumerate(samples)]

    def moved(passes, per_decision):
        learner = policy(space)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
        options = {"clip": 0.2, "entropy_weight": 0.0, "per_decision": per_decision}
        update(learner, optimizer, episodes, passes=passes, **options)
        return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])

    torch.testing.assert_close(moved(1, True), moved(1, False), atol=1e-6, rtol=0)
    assert not torch.allclose(moved(3, True), moved(3, False), atol=1e-4, rtol=0)


def test_entropy_sums_the_steps_and_ignores_padding():
    log_probs = torch.tensor([[[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]]).log().clamp_min(-1e9)
    assert entropy(log_probs).item() == pytest.approx(math.log(2) + 1.5 * math.log(2))


def test_log_probs_are_those_of_what_was_chosen():
    log_probs = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.2, 0.8], [0.6, 0.4]]]).log()
    chosen = chosen_log_probs(log_probs, torch.tensor([[0, 1], [1, 0]]))
    torch.testing.assert_close(chosen.exp(), torch.tensor([[0.5, 0.9], [0.8, 0.6]]))


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
        update(coin, optimizer, episodes, passes=passes, clip=0.2, entropy_weight=weight)
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
