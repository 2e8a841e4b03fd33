"""What a network costs, worked out from its spec: nothing is built, nothing runs (but networks of timm).

Operations count themselves; `_cell` follows `cell.CellModule` and reads the wiring from the genotype, too.
The tests hold both against a count of real networks.
Letters: C channels, H W pixels, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.base import Classifier
from backbones.build import build
from backbones.genotype import Block
from backbones.network import NASNet
from backbones.operations import OPERATIONS
from backbones.plan import CellPlan, live_outputs, plan_cells
from backbones.spec import NetworkSpec
from backbones.tally import Map, Tally
from backbones.timm_spec import TimmSpec


@dataclass(frozen=True)
class PartProfile:
    """Costs of one part for one image: the stem, a cell under its plan's name, or the classifier.

    shape: of the output, `(C, H, W)`, or `(K,)` of the classifier. For the counts see `Profile`.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    buffers: int
    multiply_adds: int
    activation_bytes: int
    pooled_bytes: int = 0
    gathered_bytes: int = 0


@dataclass(frozen=True)
class Profile:
    """Costs of one image of `image_size` x `image_size` pixels, by part in order of execution.

    Cells that the output does not depend on are not built, so they are no part of it; neither is the
    auxiliary head, which only training has.
    """

    image_size: int
    parts: tuple[PartProfile, ...]

    @property
    def parameters(self) -> int:
        """Trainable ones."""
        return sum(part.parameters for part in self.parts)

    @property
    def buffers(self) -> int:
        """Batch norm's running means and variances (the paper's 88.9M counts them, docs/nasnet.md, T18)."""
        return sum(part.buffers for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """Of the convolutions and the classifier."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def activation_bytes(self) -> int:
        """float32 outputs of every convolution, batch norm and pooling and of every cell.

        Near what plain training keeps for its backward pass, and not a bound of it: that leaves out outputs
        which nothing differentiates again, and has ReLUs of its own.
        """
        return sum(part.activation_bytes for part in self.parts)

    @property
    def pooled_bytes(self) -> int:
        """float32 outputs of the poolings; 0 where the network is not one of ours, as the next."""
        return sum(part.pooled_bytes for part in self.parts)

    @property
    def gathered_bytes(self) -> int:
        """What convolutions that look at more than one pixel, and are not depthwise, read: their input
        channels at each pixel of their outputs, in float32."""
        return sum(part.gathered_bytes for part in self.parts)


def profile(
    network: Classifier | NetworkSpec | TimmSpec,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Profile:
    """Counts a network's costs in well under 50 ms. Nothing is built or run.

    image_size: side in pixels; None is the spec's own. num_classes counts for a spec only; None is the
    spec's `default_classes`. A network is counted with its own classifier, or none, and with the cells that
    it has left.
    Raises ValueError where the network could not be built, or not run at that size, is fused, or has been
    changed otherwise since it was built from its spec.
    """
    if isinstance(network, nn.Module):
        return _of_network(network, image_size)
    classes = network.default_classes if num_classes is None else num_classes
    if isinstance(network, TimmSpec):
        return _measure(network, image_size, classes)
    return _of_spec(network, image_size, classes)


def _of_network(network: Classifier, image_size: int | None) -> Profile:
    spec = network.spec
    if isinstance(network, NASNet):
        if network.fused:
            raise ValueError("a fused network has no profile: take that of the network that it was made of")
        counted = _of_spec(network.spec, image_size, 1)
        parts = [part for part in counted.parts if part.name == "stem" or part.name in network.cells]
        if isinstance(network.classifier, nn.Linear):
            parts.append(_classifier(network.classifier.in_features, network.classifier.out_features))
        counted = Profile(counted.image_size, tuple(parts))
    elif not isinstance(spec, TimmSpec):
        raise ValueError(f"{type(network).__name__} has no profile, only networks of `create` have")
    else:
        counted = _measure(spec, image_size, network.num_classes)
    parameters = (p for name, p in network.named_parameters() if not name.startswith("auxiliary."))
    if (found := sum(parameter.numel() for parameter in parameters)) != counted.parameters:
        raise ValueError(
            f"the network has {found:,} parameters, and {counted.parameters:,} as its spec describes it: "
            "it was changed since, so take the profile of the spec"
        )
    return counted


def _classifier(features: int, classes: int) -> PartProfile:
    return PartProfile("classifier", (classes,), (features + 1) * classes, 0, features * classes, 0)


def _of_spec(spec: NetworkSpec, image_size: int | None, classes: int) -> Profile:
    size = spec.image_size if image_size is None else image_size
    if size < spec.smallest_image:
        raise ValueError(f"image_size = {size}, the network needs at least {spec.smallest_image}")
    if classes < 1:
        raise ValueError(f"num_classes = {classes}, must be at least 1")

    tally = Tally()
    side, plans = spec.stem_side(size), plan_cells(spec)
    # At stride 1 from a map of its own size, the stem's convolution does as much.
    outputs = {0: tally.conv_norm(Map(spec.in_channels, side, side), spec.stem_filters, 3)}
    strides = [spec.stem_stride, *(plan.stride for plan in plans)]
    parts = [_part("stem", tally, outputs[0])]
    live = live_outputs(plans)
    for index, plan in enumerate(plans, start=1):
        if index not in live:
            continue
        tally = Tally()
        outputs[index] = _cell(tally, plan, outputs, strides)
        parts.append(_part(plan.name, tally, outputs[index]))
    parts.append(_classifier(outputs[len(plans)].channels, classes))
    return Profile(size, tuple(parts))


def _part(name: str, tally: Tally, output: Map) -> PartProfile:
    return PartProfile(name, (output.channels, output.height, output.width), **vars(tally))


def _measure(spec: TimmSpec, image_size: int | None, num_classes: int) -> Profile:
    """One part, counted in a forward pass on the meta device, which computes shapes alone.

    Matrix products of attention are among the multiply-adds; the activations are all layers' outputs.
    """
    with torch.device("meta"):
        net = build(spec, num_classes).eval()
        size = net.preprocessing.size if image_size is None else image_size
        image = torch.empty(1, spec.in_channels, size, size)
    activations = 0

    def keep(module: object, inputs: object, output: object) -> None:
        nonlocal activations
        activations += 4 * output.numel() if isinstance(output, torch.Tensor) else 0

    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(keep)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        net(image)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    buffers = sum(b.numel() for name, b in net.named_buffers() if "num_batches" not in name)
    multiply_adds = flops.get_total_flops() // 2
    part = PartProfile(spec.timm, (num_classes,), parameters, buffers, multiply_adds, activations)
    return Profile(size, (part,))


def _cell(tally: Tally, plan: CellPlan, outputs: Mapping[int, Map], strides: Sequence[int]) -> Map:
    live, pooled = plan.cell.live_states(), set[tuple[int, str]]()
    states: dict[int, Map] = {}
    if 0 in live:
        states[0] = tally.conv_norm(outputs[plan.h], plan.channels)
    if 1 in live:
        if plan.h_prev is None:
            states[1] = outputs[plan.h]
        elif strides[plan.h_prev] != strides[plan.h]:
            states[1] = tally.factorized_reduction(outputs[plan.h_prev], plan.channels)
        else:
            states[1] = tally.fit(outputs[plan.h_prev], plan.channels)
    for b, block in enumerate(plan.cell.blocks):
        if 2 + b in live:
            states[2 + b] = _block(tally, block, plan, states, pooled)
    for state in plan.cell.concat:
        if state < 2 and plan.reduction:
            states[state] = tally.factorized_reduction(states[state], plan.channels)
        elif state < 2:
            states[state] = tally.fit(states[state], plan.channels)
    out = states[plan.cell.concat[0]]
    return tally.keep(Map(plan.width, out.height, out.width))


def _block(
    tally: Tally, block: Block, plan: CellPlan, states: Mapping[int, Map], pooled: set[tuple[int, str]]
) -> Map:
    """pooled: states with the pools that they have gone through; a cell pools once for all who ask for it."""
    for state, name in ((block.left, block.left_op), (block.right, block.right_op)):
        operation, x, stride = OPERATIONS[name], states[state], 2 if plan.reduction and state < 2 else 1
        out = operation.cost(Tally() if (state, name) in pooled else tally, x, plan.channels, stride)
        if operation.kind == "pool" and x.channels == plan.channels:
            pooled.add((state, name))
    if block.combine == "concat":
        return tally.conv_norm(Map(2 * plan.channels, out.height, out.width), plan.channels)
    return out
