"""The separable convolution, and a lean form of its training step.

The lean form keeps three maps for the backward pass instead of six: the input, which other operations share,
and the outputs of both 1x1 convolutions. The depthwise outputs, the normalised map and its ReLU are computed
again, from stored statistics: gradients are exact, and batch norm's running statistics are updated once.
Figures: docs/performance.md.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers import Activated, SameConv2d
from backbones.norm import (
    differentiable_gradients,
    is_transformed,
    normalise,
    normalise_backward,
    scale_and_shift,
)


class SeparableConv(Activated):
    """Depthwise, 1x1, norm, ReLU, depthwise, 1x1, norm: seven layers. lean: see above; it acts in training.

    Gradients that are to be differentiated in turn are computed from the plain form, in its memory.
    Raises ValueError where lean meets norms other than batch norm, such as those synchronised over processes.
    """

    lean = False

    def forward(self, x: Tensor) -> Tensor:
        layers: Iterable[Any] = self
        depthwise, pointwise, norm, _, depthwise_2, pointwise_2, norm_2 = layers
        lean = self.lean and norm.training and norm_2.training and torch.is_grad_enabled()
        if not lean or is_transformed(x, norm.weight, norm.running_mean):
            return super().forward(x)
        for module in (norm, norm_2):
            if not isinstance(module, nn.BatchNorm2d):
                raise ValueError(
                    f"activation memory 'lean' needs BatchNorm2d, the network has {type(module).__name__}: "
                    "use 'checkpoint'"
                )
        weights = [depthwise.weight, pointwise.weight, depthwise_2.weight, pointwise_2.weight]
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x, *weights = (value.to(torch.get_autocast_dtype(device)) for value in (x, *weights))
        with torch.autocast(device, enabled=False):
            return _Lean.apply(x, *weights, norm.weight, norm.bias, norm_2.weight, norm_2.bias, self)


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, depthwise, pointwise, depthwise_2, pointwise_2, *rest):
        layers = rest[-1]
        first, _, norm, _, second, _, norm_2 = layers
        middle = F.conv2d(_convolved(x, depthwise, first), pointwise)
        normalised, *statistics = normalise(middle, norm)
        activated = normalised.to(x.dtype).relu_()
        last = F.conv2d(_convolved(activated, depthwise_2, second), pointwise_2)
        output, *statistics_2 = normalise(last, norm_2)
        ctx.layers = layers
        weights = (depthwise, pointwise, depthwise_2, pointwise_2, *rest[:-1])
        ctx.save_for_backward(x, middle, last, *statistics, *statistics_2, *weights)
        return output

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, middle, last, mean, inverse_std, mean_2, inverse_std_2, *weights = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # asked for by create_graph=True
            plain = partial(_plain, ctx.layers)
            return *differentiable_gradients(plain, (x, *weights), grad), None
        depthwise, pointwise, depthwise_2, pointwise_2, scale, shift, scale_2, _ = weights
        first, _, norm, _, second, _, norm_2 = ctx.layers

        grad, scale_2_grad, shift_2_grad = normalise_backward(
            grad, last, scale_2, mean_2, inverse_std_2, norm_2.eps
        )
        activated = scale_and_shift(middle, scale, shift, mean, inverse_std).to(middle.dtype).relu_()
        convolved = _convolved(activated, depthwise_2, second)
        grad, pointwise_2_grad = _pointwise_backward(grad, convolved, pointwise_2)
        del convolved
        grad, depthwise_2_grad = _depthwise_backward(grad, activated, depthwise_2, second)
        grad = torch.ops.aten.threshold_backward(grad, activated, 0)
        del activated

        grad, scale_grad, shift_grad = normalise_backward(grad, middle, scale, mean, inverse_std, norm.eps)
        grad, pointwise_grad = _pointwise_backward(grad, _convolved(x, depthwise, first), pointwise)
        grad, depthwise_grad = _depthwise_backward(grad, x, depthwise, first)
        return (
            grad,
            *(depthwise_grad, pointwise_grad, depthwise_2_grad, pointwise_2_grad),
            *(scale_grad, shift_grad, scale_2_grad, shift_2_grad),
            None,
        )


def _plain(layers: Iterable[Any], x: Tensor, *weights: Tensor) -> Tensor:
    """What `_Lean` computes, as PyTorch's own operations; running statistics stay as they are."""
    depthwise, pointwise, depthwise_2, pointwise_2, scale, shift, scale_2, shift_2 = weights
    first, _, norm, _, second, _, norm_2 = layers
    middle = F.conv2d(_convolved(x, depthwise, first), pointwise)
    activated = F.batch_norm(middle, None, None, scale, shift, training=True, eps=norm.eps).relu()
    last = F.conv2d(_convolved(activated, depthwise_2, second), pointwise_2)
    return F.batch_norm(last, None, None, scale_2, shift_2, training=True, eps=norm_2.eps)


def _convolved(x: Tensor, weight: Tensor, layer: nn.Conv2d) -> Tensor:
    x, padding, _ = _padded(x, layer)
    return F.conv2d(x, weight, None, layer.stride, padding, groups=layer.groups)


def _padded(x: Tensor, layer: nn.Conv2d) -> tuple[Tensor, tuple[int, ...], tuple[int, int]]:
    """The map as the convolution takes it, the padding that is left to do, rows and columns put before."""
    if not isinstance(layer, SameConv2d):
        assert not isinstance(layer.padding, str)
        return x, layer.padding, (0, 0)
    left, right, top, bottom = pads = layer.pads(x)
    if (top, left) == (bottom, right):
        return x, (top, left), (0, 0)
    return F.pad(x, pads), (0, 0), (top, left)


def _pointwise_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x_grad, weight_grad, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return x_grad, weight_grad


def _depthwise_backward(grad: Tensor, x: Tensor, weight: Tensor, layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    padded, padding, (top, left) = _padded(x, layer)
    x_grad, weight_grad, _ = torch.ops.aten.convolution_backward(
        *(grad, padded, weight, None, layer.stride, padding, [1, 1], False, [0, 0], layer.groups),
        [True, True, False],
    )
    if padded is not x:
        x_grad = x_grad[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return x_grad, weight_grad
