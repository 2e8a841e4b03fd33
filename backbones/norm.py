"""Batch norm of a training step as two functions, with a faster exact form for few channels on the CPU.

PyTorch's kernel walks over the channels of a pixel, so that a map of 11 channels takes longer than one of 44.
Such a map is seen as fewer pixels with more channels, `[M / G, G * C]`; the G sums of a channel are added.
Letters: N images, C channels, H W pixels, M = N * H * W, G pixels in a group. Figures: docs/performance.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 16
"""Channels below which the grouped form is the faster one."""

GROUPED_WIDTH = 128
"""Channels that a group of pixels has at most, twice this number excluded."""


class Normalised(NamedTuple):
    """A normalised map and what its backward pass needs: mean and 1 / sqrt(variance + eps), `[C]` each."""

    map: Tensor
    mean: Tensor
    inverse_std: Tensor


def normalise(x: Tensor, norm: nn.BatchNorm2d) -> Normalised:
    """`[N, C, H, W]` normalised by its own statistics; updates the running ones where `norm` tracks them.

    Raises ValueError for a single value per channel, which has no variance.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"batch norm in training got a single value per channel, size {list(x.shape)}")
    running_mean, running_var, momentum = None, None, norm.momentum
    if norm.track_running_stats:
        running_mean, running_var = norm.running_mean, norm.running_var
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:  # the average of all batches
                momentum = 1.0 / float(norm.num_batches_tracked)
    momentum = momentum or 0.0
    if not is_narrow(x):
        return Normalised(
            *torch.native_batch_norm(
                x, norm.weight, norm.bias, running_mean, running_var, True, momentum, norm.eps
            )
        )
    grouped = _grouped(x)
    means, variances = torch.batch_norm_update_stats(grouped, None, None, momentum)
    means, variances = means.view(-1, x.shape[1]), variances.view(-1, x.shape[1])
    mean = means.mean(0)
    variance = variances.mean(0) + means.var(0, unbiased=False)
    if running_mean is not None and running_var is not None:
        pixels = x.numel() // x.shape[1]
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (pixels / (pixels - 1)), momentum)
    inverse_std = (variance + norm.eps).rsqrt()
    return Normalised(scale_and_shift(x, norm.weight, norm.bias, mean, inverse_std), mean, inverse_std)


def scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    """What `normalise` gave, from its statistics."""
    scale = weight * inverse_std
    shift = bias - mean * scale
    if is_narrow(x):
        grouped = _grouped(x)
        groups = grouped.shape[1] // len(scale)
        output = torch.empty_like(x)
        torch.addcmul(shift.repeat(groups), grouped, scale.repeat(groups), out=_grouped(output))
        return output
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


def normalise_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, of the weight and of the bias, from that of `normalise`'s map."""
    if not (is_narrow(x) and grad.is_contiguous(memory_format=torch.channels_last)):
        mask = [True, True, True]
        return torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inverse_std, True, eps, mask
        )
    grads, pixels = _grouped(grad), _grouped(x)
    groups, count = pixels.shape[1] // len(mean), x.numel() // x.shape[1]
    # The kernel, asked for the sums alone, sees every group as channels of its own.
    _, weight_grads, bias_grads = torch.ops.aten.native_batch_norm_backward(
        grads[:, :, None, None],
        pixels[:, :, None, None],
        weight.repeat(groups),
        None,
        None,
        mean.repeat(groups),
        inverse_std.repeat(groups),
        True,
        eps,
        [False, True, True],
    )
    weight_grad, bias_grad = weight_grads.view(groups, -1).sum(0), bias_grads.view(groups, -1).sum(0)
    # scale * (grad - bias_grad / M - x_hat * weight_grad / M), its factors of x and of grad collected.
    scale = weight * inverse_std
    of_x = -scale * inverse_std * weight_grad / count
    constant = -scale * bias_grad / count - of_x * mean
    x_grad = torch.empty_like(x)
    of_group = torch.addcmul(constant.repeat(groups), pixels, of_x.repeat(groups), out=_grouped(x_grad))
    of_group.addcmul_(grads, scale.repeat(groups))
    return x_grad, weight_grad, bias_grad


def is_narrow(x: Tensor) -> bool:
    pixels = x.numel() // x.shape[1]
    return (
        x.shape[1] < NARROW
        and pixels % 2 == 0
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _grouped(x: Tensor) -> Tensor:
    """The map as `[M / G, G * C]`, a view; G is a power of two that divides M."""
    channels = x.shape[1]
    pixels, groups = x.numel() // channels, 1
    while channels * groups < GROUPED_WIDTH and pixels % (2 * groups) == 0:
        groups *= 2
    return x.permute(0, 2, 3, 1).view(-1, groups * channels)


def is_transformed(*tensors: Tensor | None) -> bool:
    """Whether a transformation of `torch.func`, such as vmap, hides one of the tensors."""
    if torch.compiler.is_compiling():
        return False
    return any(x is not None and torch.func.debug_unwrap(x) is not x for x in tensors)


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of `function`'s inputs, computed by PyTorch, so that they can be differentiated in turn."""
    wanted = [x for x in inputs if x.requires_grad]
    found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return [next(found) if x.requires_grad else None for x in inputs]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d):
        return tuple(normalise(x, norm))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, norm = inputs
        _, mean, inverse_std = output
        ctx.mark_non_differentiable(mean, inverse_std)
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = norm.eps

    @staticmethod
    def backward(ctx, grad: Tensor, *_):
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for by create_graph=True

            def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)

            return *differentiable_gradients(plain, (x, weight, bias), grad), None
        return *normalise_backward(grad, x, weight, mean, inverse_std, ctx.eps), None


class NarrowBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that trains faster on the CPU where channels are few and maps in channels_last.

    Under `torch.compile` and the transformations of `torch.func` it is the plain one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.training
            and not torch.compiler.is_compiling()
            and not is_transformed(x, self.weight, self.running_mean)
            and is_narrow(x)
        ):
            return _Normalise.apply(x, self.weight, self.bias, self)[0]
        return super().forward(x)
