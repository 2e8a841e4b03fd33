"""Recipes: update rules, schedules, decay and loss against their formulas."""

import copy
import math

import pytest
import torch
from torch import nn

from backbones.network import NASNet
from backbones.published import NASNET_A
from backbones.spec import NetworkSpec
from classification.callbacks import ExponentialAverage, L2Gradient
from classification.config import RecipeConfig
from classification.module import classification_loss
from classification.optimizers import TFRMSProp, build_optimizer, build_schedule, cosine


def small_network(**options):
    return NASNet(NetworkSpec(NASNET_A, 1, 4, stem="cifar", stem_filters=4, image_size=8), 3, **options)


def step_by_recipe(optimizer, clip_norm=None):
    """What Lightning does between backward pass and step, for an optimiser that a recipe built."""
    L2Gradient().on_before_optimizer_step(None, None, optimizer)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()


def test_rmsprop_is_tensorflows_update():
    # RMSPropOptimizer(lr, decay, momentum, epsilon), by hand for one weight and two steps.
    lr, decay, momentum, epsilon, l2 = 0.5, 0.9, 0.8, 1.0, 0.1
    weight, gradients = 2.0, [3.0, -1.0]
    parameter = nn.Parameter(torch.tensor([weight]))
    group = {"params": [parameter], "l2": l2}
    optimizer = TFRMSProp([group], lr, decay=decay, momentum=momentum, epsilon=epsilon)
    mean_square, step = 1.0, 0.0
    for gradient in gradients:
        g = gradient + l2 * weight
        mean_square = decay * mean_square + (1 - decay) * g**2
        step = momentum * step + lr * g / math.sqrt(mean_square + epsilon)
        weight -= step
        parameter.grad = torch.tensor([gradient])
        step_by_recipe(optimizer)
        assert parameter.item() == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("epsilon", [1.0, 1e-10])
def test_rmsprop_equals_timms(momentum, epsilon):
    timm = pytest.importorskip("timm.optim")
    generator = torch.Generator().manual_seed(0)
    recipe = RecipeConfig(
        optimizer="rmsprop", lr=0.05, momentum=momentum, rms_epsilon=epsilon, weight_decay=0.01
    )
    ours = nn.Linear(5, 7).double()
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer(recipe, ours)
    # timm's decay is L2, too; its epsilon lies inside the root and its mean square starts at 1 in any case.
    groups = [{"params": [theirs.weight], "weight_decay": 0.01}, {"params": [theirs.bias]}]
    reference = timm.RMSpropTF(
        groups, lr=0.05, alpha=0.9, eps=epsilon, momentum=momentum, lr_in_momentum=True
    )
    for step in range(20):
        for rates in (optimizer.param_groups, reference.param_groups):
            for group in rates:
                group["lr"] = 0.05 * 0.9**step  # a falling rate tells lr_in_momentum's two meanings apart
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, dtype=torch.float64, generator=generator)
            other.grad = mine.grad.clone()
        step_by_recipe(optimizer)
        reference.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_l2_is_part_of_the_loss_whose_gradient_is_clipped(optimizer):
    # TF-slim differentiates loss + l2 / 2 * |weights|^2 and clips that; here the same by autograd.
    recipe = RecipeConfig(optimizer=optimizer, lr=0.1, weight_decay=0.5, clip_norm=0.7)
    ours = nn.Linear(4, 3).double()
    theirs = copy.deepcopy(ours)
    images = torch.randn(6, 4, dtype=torch.float64)
    for network, l2 in ((ours, 0.0), (theirs, 0.5)):
        step = build_optimizer(recipe, network)
        if l2:
            for group in step.param_groups:
                group["l2"] = 0.0
        for _ in range(3):
            step.zero_grad()
            (network(images).square().mean() + l2 / 2 * network.weight.square().sum()).backward()
            step_by_recipe(step, recipe.clip_norm)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=0.0)


def test_adamw_shrinks_the_decayed_weights_and_needs_no_l2():
    network = nn.Linear(2, 2)
    recipe = RecipeConfig(optimizer="adamw", lr=0.1, weight_decay=0.5, momentum=0.8, adam_decay=0.99)
    optimizer, before = build_optimizer(recipe, network), copy.deepcopy(network.state_dict())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step_by_recipe(optimizer)
    torch.testing.assert_close(network.weight.data, before["weight"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(network.bias.data, before["bias"])
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.99)}


def test_the_rate_rises_linearly_then_falls_by_the_cosine():
    recipe = RecipeConfig(epochs=10, lr=0.02, warmup_epochs=2.5)
    optimizer = build_optimizer(recipe, small_network())
    schedule = build_schedule(recipe, optimizer, steps_per_epoch=4)
    rates = []
    for _ in range(41):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([0.02 * (step + 1) / 11 for step in range(10)])
    assert rates[10:] == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 30)) for step in range(31)])


def test_cosine_falls_from_lr_to_zero_in_one_half_period():
    recipe = RecipeConfig(epochs=10, lr=0.02)
    optimizer = build_optimizer(recipe, small_network())
    schedule = build_schedule(recipe, optimizer, steps_per_epoch=4)
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
    schedule = build_schedule(recipe, build_optimizer(recipe, small_network()), steps_per_epoch=10)
    factor = schedule.lr_lambdas[0]
    assert [factor(step) for step in (0, 23, 24, 47, 48)] == pytest.approx([1, 1, 0.97, 0.97, 0.97**2])


def test_the_rate_is_scaled_to_the_batch():
    # docs/nasnet.md, T15: 0.04 * 50 replicas for a batch of 1600.
    assert RecipeConfig(lr=2.0, reference_batch_size=1600, batch_size=32).scaled_lr == pytest.approx(0.04)
    assert RecipeConfig(lr=0.025, batch_size=64).scaled_lr == 0.025


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adamw"])
def test_only_weights_of_convolutions_and_linear_layers_decay(optimizer):
    network = small_network()
    built = build_optimizer(RecipeConfig(optimizer=optimizer, weight_decay=0.01), network)
    key = "weight_decay" if optimizer == "adamw" else "l2"
    decays = {id(p): group[key] for group in built.param_groups for p in group["params"]}
    assert optimizer == "adamw" or not any(group.get("weight_decay") for group in built.param_groups)
    for name, parameter in network.named_parameters():
        assert decays[id(parameter)] == (0.01 if parameter.ndim > 1 else 0), name
    assert len(decays) == len(list(network.parameters()))


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, labels = torch.tensor([[2.0, 0.5, -1.0, 0.0]]), torch.tensor([1])
    log_probabilities = logits.log_softmax(dim=1)[0]
    target = torch.tensor([0.025, 0.925, 0.025, 0.025])
    loss = classification_loss(0.1, 0.4)
    torch.testing.assert_close(loss(logits, None, labels), {"loss_cls": -(target * log_probabilities).sum()})


def test_the_auxiliary_head_adds_four_tenths_of_its_loss():
    logits, auxiliary = torch.randn(2, 5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    plain = classification_loss(0.0, 0.4)
    [main] = plain(logits, None, labels).values()
    [side] = plain(auxiliary, None, labels).values()
    torch.testing.assert_close(plain(logits, auxiliary, labels), {"loss_cls": main, "loss_aux": 0.4 * side})


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
        ({"batch_size": 0}, "batch_size = 0, must be at least 1"),
        ({"optimizer": "adam"}, "optimizer = 'adam', expected one of sgd, rmsprop, adamw"),
        ({"lr": 0.0}, "lr = 0.0, must be above 0"),
        ({"mixup_alpha": -0.1}, "mixup_alpha = -0.1, must be at least 0"),
        ({"rand_augment_magnitude": 31}, "rand_augment_magnitude = 31, must be in 0..30"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs = 5, must be in [0, 5)"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0, must be in [0, 1), or null"),
        ({"drop_path_keep": 0.0}, "drop_path_keep = 0.0, must be in (0, 1]"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        RecipeConfig(**values)
    assert str(error.value) == message
