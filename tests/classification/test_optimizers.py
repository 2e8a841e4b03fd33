"""Recipes: update rules, schedules, decay and loss against their formulas."""

import math

import pytest
import torch
from torch import nn

from backbones.network import NASNet
from backbones.spec import NetworkSpec
from backbones.zoo import NASNET_A
from classification.module import classification_loss
from classification.optimizers import ExponentialAverage, RecipeConfig, TFRMSProp, cosine


def small_network(**options):
    return NASNet(NetworkSpec(NASNET_A, 1, 4, stem="cifar", stem_filters=4, image_size=8), 3, **options)


def test_rmsprop_is_tensorflows_update():
    # RMSPropOptimizer(lr, decay, momentum, epsilon), by hand for one weight and two steps.
    lr, decay, momentum, epsilon, l2 = 0.5, 0.9, 0.8, 1.0, 0.1
    weight, gradients = 2.0, [3.0, -1.0]
    parameter = nn.Parameter(torch.tensor([weight]))
    optimizer = TFRMSProp([parameter], lr, decay=decay, momentum=momentum, epsilon=epsilon, weight_decay=l2)
    mean_square, step = 1.0, 0.0
    for gradient in gradients:
        g = gradient + l2 * weight
        mean_square = decay * mean_square + (1 - decay) * g**2
        step = momentum * step + lr * g / math.sqrt(mean_square + epsilon)
        weight -= step
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
        assert parameter.item() == pytest.approx(weight, rel=1e-6)


def test_cosine_falls_from_lr_to_zero_in_one_half_period():
    recipe = RecipeConfig(epochs=10, lr=0.02)
    optimizer = recipe.build_optimizer(small_network())
    schedule = recipe.build_schedule(optimizer, steps_per_epoch=4)
    rates = []
    for _ in range(40):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 40)) for step in range(40)])
    assert schedule.get_last_lr()[0] == 0
    assert cosine(45, 40) == 0


def test_exponential_falls_by_3_percent_every_2_4_epochs():
    recipe = RecipeConfig(schedule="exponential", lr=1.0)
    schedule = recipe.build_schedule(recipe.build_optimizer(small_network()), steps_per_epoch=10)
    factor = schedule.lr_lambdas[0]
    assert [factor(step) for step in (0, 23, 24, 47, 48)] == pytest.approx([1, 1, 0.97, 0.97, 0.97**2])


def test_the_rate_is_scaled_to_the_batch():
    # docs/nasnet.md, T15: 0.04 * 50 replicas for a batch of 1600.
    assert RecipeConfig(lr=2.0, lr_batch_size=1600, batch_size=32).scaled_lr == pytest.approx(0.04)
    assert RecipeConfig(lr=0.025, batch_size=64).scaled_lr == 0.025


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_only_weights_of_convolutions_and_linear_layers_decay(optimizer):
    network = small_network()
    built = RecipeConfig(optimizer=optimizer, weight_decay=0.01).build_optimizer(network)
    decays = {id(p): group["weight_decay"] for group in built.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert decays[id(parameter)] == (0.01 if parameter.ndim > 1 else 0), name
    assert len(decays) == len(list(network.parameters()))


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, labels = torch.tensor([[2.0, 0.5, -1.0, 0.0]]), torch.tensor([1])
    log_probabilities = logits.log_softmax(dim=1)[0]
    target = torch.tensor([0.025, 0.925, 0.025, 0.025])
    loss = classification_loss(0.1, 0.4)
    torch.testing.assert_close(loss(logits, None, labels), -(target * log_probabilities).sum())


def test_the_auxiliary_head_adds_four_tenths_of_its_loss():
    logits, auxiliary = torch.randn(2, 5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    plain = classification_loss(0.0, 0.4)
    expected = plain(logits, None, labels) + 0.4 * plain(auxiliary, None, labels)
    torch.testing.assert_close(plain(logits, auxiliary, labels), expected)


def test_the_average_follows_its_formula_and_takes_the_statistics_along():
    average = ExponentialAverage(0.5)
    model = nn.BatchNorm1d(1)
    # The callback's own averaging function, on PyTorch's averaged copy that Lightning would make.
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True, **average._kwargs)
    expected = None
    for n, value in enumerate([4.0, 8.0, 16.0]):
        model.weight.data.fill_(value)
        model.running_var.fill_(value)
        averaged.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert averaged.module.weight.item() == pytest.approx(expected)
    assert averaged.module.running_var.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "recipe.batch_size = 0, must be at least 1"),
        ({"batch_size": 10, "accumulate": 4}, "recipe.batch_size = 10 is no multiple of accumulate"),
        ({"optimizer": "adam"}, "recipe.optimizer = 'adam', known are sgd and rmsprop"),
        ({"lr": 0.0}, "recipe.lr = 0.0, must be above 0"),
        ({"ema_decay": 1.0}, "recipe.ema_decay = 1.0, must lie in [0, 1)"),
        ({"drop_path_keep": 0.0}, "recipe.drop_path_keep = 0.0, must lie in (0, 1]"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        RecipeConfig(**values)
    assert str(error.value) == message
