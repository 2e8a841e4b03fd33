"""Rewrites an exported ONNX graph into the form that runs fastest on a CPU; the function stays the same.

ONNX Runtime keeps maps in blocks of channels (`BLOCK`) while every operator can work on them; a width that is
no multiple, a slice or a pool with `ceil_mode` sends the map back to the plain layout and on again. OpenVINO
takes both forms alike. The rewrites look at operators only, so they hold for any genotype. Figures:
docs/performance.md.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

BLOCK = 8
"""Channels side by side in ONNX Runtime's blocked maps with AVX2. (16 with AVX-512, which was not tried.)"""

# Operators that leave the channels of a map where they are; the last two where they work on H and W only.
_CHANNELWISE = ("Relu", "AveragePool", "MaxPool", "Identity", "ReduceMean", "Pad", "Slice")
_SUPPORTED = {*_CHANNELWISE, "Add", "Concat", "Conv", "Gemm"}

Layout = tuple[tuple[int, int], ...]
"""Runs of `(real, padded)` channels: each run has its real ones first, then zeros up to `padded`."""


class _Graph:
    """A graph with its weights as arrays and the nodes that read each tensor."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self.proto = proto
        self.weights = {value.name: numpy_helper.to_array(value) for value in proto.initializer}
        self.shapes = {
            info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            for info in [*proto.input, *proto.value_info, *proto.output]
        }
        self.producer = {output: node for node in proto.node for output in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in proto.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {output.name for output in proto.output}

    def only_reader(self, name: str) -> NodeProto | None:
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def set_weight(self, node: NodeProto, position: int, value: np.ndarray) -> None:
        """position: of the input. The weight keeps its name unless others read it, too."""
        own = position < len(node.input) and len(self.readers[node.input[position]]) == 1
        name = node.input[position] if own else f"{node.output[0]}.{position}"
        self.weights[name] = np.ascontiguousarray(value)
        if position < len(node.input):
            node.input[position] = name
        else:
            node.input.append(name)

    def store(self) -> None:
        """Puts the weights that are read back; shapes of maps between, now perhaps wrong, go."""
        del self.proto.initializer[:], self.proto.value_info[:]
        read = {name for node in self.proto.node for name in node.input}
        self.proto.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.weights.items() if name in read
        )


def optimise(model: onnx.ModelProto) -> None:
    """Rewrites `model` in place. A graph with an operator that no network of ours has keeps its widths."""
    graph = _Graph(model.graph)
    for node in list(graph.proto.node):
        if node.op_type in ("AveragePool", "MaxPool"):
            _write_end_padding_out(node, graph)
        elif node.op_type == "BatchNormalization":
            _fold_norm_of_concatenation(node, graph)
        elif node.op_type == "Slice":
            _sample_by_convolution(node, graph)
    _pad_channels(graph)
    graph.store()


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _set_attributes(node: NodeProto, **values: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])


def _write_end_padding_out(node: NodeProto, graph: _Graph) -> None:
    """OpenVINO refuses a window that is larger than the map where only `ceil_mode` lets it hang over."""
    if not _attribute(node, "ceil_mode", 0):
        return
    kernel, strides, pads = (_attribute(node, name) for name in ("kernel_shape", "strides", "pads"))
    sizes, outputs = graph.shapes[node.input[0]][2:], graph.shapes[node.output[0]][2:]
    end = [
        max(0, (outputs[axis] - 1) * strides[axis] + kernel[axis] - pads[axis] - sizes[axis])
        for axis in range(2)
    ]
    _set_attributes(node, ceil_mode=0, pads=[*pads[:2], *end])


def _fold_norm_of_concatenation(node: NodeProto, graph: _Graph) -> None:
    """The norm of a factorized reduction covers two convolutions; the exporter folds those of one only."""
    concat = graph.producer[node.input[0]]
    if concat.op_type != "Concat" or graph.only_reader(node.input[0]) is None:
        return
    convolutions = [graph.producer[name] for name in concat.input]
    if any(c.op_type != "Conv" or graph.only_reader(c.output[0]) is None for c in convolutions):
        return
    scale, shift, mean, variance = (graph.weights[name] for name in node.input[1:])
    scale = scale / np.sqrt(variance + np.float32(_attribute(node, "epsilon", 1e-5)))
    shift, start = shift - mean * scale, 0
    for convolution in convolutions:
        weight = graph.weights[convolution.input[1]]
        own = slice(start, start := start + len(weight))
        bias = graph.weights[convolution.input[2]] if len(convolution.input) > 2 else 0
        graph.set_weight(convolution, 1, weight * scale[own, None, None, None])
        graph.set_weight(convolution, 2, bias * scale[own] + shift[own])
    concat.output[0] = node.output[0]
    graph.producer[node.output[0]] = concat
    graph.proto.node.remove(node)


def _sample_by_convolution(node: NodeProto, graph: _Graph) -> None:
    """Takes the slices of `x[:, :, i::s, i::s]` into the 1x1 convolution that reads them, or into a new one.

    The new one is depthwise; its one weight is 1, at `[i, i]`.
    """
    second = graph.only_reader(node.output[0])
    if second is None or second.op_type != "Slice" or len(node.input) < 5:
        return
    start, end, axes, step = (graph.weights[name].tolist() for name in node.input[1:5])
    start2, end2, axes2, step2 = (graph.weights[name].tolist() for name in second.input[1:5])
    _, channels, height, width = graph.shapes[node.input[0]]
    if [axes, axes2, start2, step2] != [[2], [3], start, step] or end[0] < height or end2[0] < width:
        return
    reader = graph.only_reader(second.output[0])
    if start == [0] and reader is not None and _is_pointwise(reader, graph):
        reader.input[0] = node.input[0]
        _set_attributes(reader, strides=step * 2)
    else:
        weight = np.zeros((channels, 1, start[0] + 1, start[0] + 1), np.float32)
        weight[:, :, -1, -1] = 1
        sampling = helper.make_node(
            "Conv",
            [node.input[0]],
            [second.output[0]],
            name=f"{second.name}.sampling",
            kernel_shape=weight.shape[2:],
            strides=step * 2,
            group=channels,
        )
        graph.set_weight(sampling, 1, weight)
        graph.proto.node.insert(list(graph.proto.node).index(node), sampling)
        graph.producer[second.output[0]] = sampling
    graph.proto.node.remove(node)
    graph.proto.node.remove(second)


def _is_pointwise(node: NodeProto, graph: _Graph) -> bool:
    return (
        _is_dense(node)
        and graph.weights[node.input[1]].shape[2:] == (1, 1)
        and set(_attribute(node, "strides", [1])) == {1}
        and not any(_attribute(node, "pads", []))
    )


def _is_dense(node: NodeProto) -> bool:
    return node.op_type == "Conv" and _attribute(node, "group", 1) == 1


class _Layouts:
    """One layout for all maps that must share it: operands of an addition, what comes in and goes out.

    A concatenation is laid out as its parts are; any other map has its zeros at the end.
    Raises ValueError where maps that share a layout are concatenations of different parts.
    """

    def __init__(self, graph: _Graph) -> None:
        self._representative: dict[str, str] = {}
        self._layouts: dict[str, Layout] = {}
        for node in graph.proto.node:
            if node.op_type in (*_CHANNELWISE, "Conv") and not _is_dense(node):
                self._join(node.output[0], node.input[0])
            elif node.op_type == "Add" or (node.op_type == "Concat" and len(node.input) == 1):
                for name in node.input:
                    self._join(node.output[0], name)
        for value in graph.proto.input:
            channels = graph.shapes[value.name][1]
            self._layouts[self._find(value.name)] = ((channels, channels),)
        self._concats: dict[str, list[NodeProto]] = defaultdict(list)
        self._widths: dict[str, int] = {}
        for node in graph.proto.node:
            if node.op_type == "Concat" and len(node.input) > 1:
                self._concats[self._find(node.output[0])].append(node)
            elif _is_dense(node):
                self._widths[self._find(node.output[0])] = len(graph.weights[node.input[1]])

    def _find(self, name: str) -> str:
        while (above := self._representative.get(name, name)) != name:
            name = above
        return name

    def _join(self, a: str, b: str) -> None:
        self._representative[self._find(a)] = self._find(b)

    def __getitem__(self, name: str) -> Layout:
        name = self._find(name)
        if name not in self._layouts:
            if name in self._concats:
                layouts = {
                    tuple(run for part in node.input for run in self[part]) for node in self._concats[name]
                }
                if len(layouts) > 1:
                    raise ValueError(f"no layout fits the concatenations that meet in {name}")
                self._layouts[name] = layouts.pop()
            else:
                width = self._widths[name]
                self._layouts[name] = ((width, -(-width // BLOCK) * BLOCK),)
        return self._layouts[name]


def _pad_channels(graph: _Graph) -> None:
    """Brings every map to a multiple of BLOCK channels with zeros, by zeros among the weights."""
    nodes = graph.proto.node
    if not all(node.op_type in _SUPPORTED and _keeps_channels(node, graph) for node in nodes):
        return
    layouts = _Layouts(graph)
    for node in list(nodes):
        if node.op_type == "Gemm":
            weight = graph.weights[node.input[1]]
            graph.set_weight(node, 1, _spread(weight, 1, layouts[node.input[0]]))
        elif node.op_type == "Conv":
            weight, layout = graph.weights[node.input[1]], layouts[node.output[0]]
            if _is_dense(node):
                weight = _spread(weight, 1, layouts[node.input[0]])
            else:
                _set_attributes(node, group=sum(padded for _, padded in layout))
            graph.set_weight(node, 1, _spread(weight, 0, layout))
            if len(node.input) > 2:
                graph.set_weight(node, 2, _spread(graph.weights[node.input[2]], 0, layout))
    for name in graph.outputs:
        if graph.producer[name].op_type != "Gemm":
            _take_padding_out(name, layouts[name], graph)


def _keeps_channels(node: NodeProto, graph: _Graph) -> bool:
    """Whether `node` is an operator of `_SUPPORTED` in the form that padding knows."""
    if any(name in graph.weights for name in node.input[: 2 if node.op_type == "Add" else 1]):
        return False
    if node.op_type == "Conv" and not _is_dense(node):
        return graph.weights[node.input[1]].shape[:2] == (_attribute(node, "group"), 1)
    if node.op_type == "Slice":
        return len(node.input) > 3 and graph.weights[node.input[3]].min() > 1
    if node.op_type == "ReduceMean":
        return graph.weights[node.input[1]].tolist() == [2, 3]
    if node.op_type == "Pad":
        pads = graph.weights[node.input[1]].reshape(2, -1)
        return pads.shape[1] == 4 and not pads[:, 1].any()
    return node.op_type != "Gemm" or _attribute(node, "transB", 0) == 1


def _spread(weight: np.ndarray, axis: int, layout: Layout) -> np.ndarray:
    """`weight` with zeros along `axis` where `layout` has padding."""
    real, padded = (sum(widths) for widths in zip(*layout, strict=True))
    assert weight.shape[axis] == real, (weight.shape, axis, layout)
    spread = np.zeros([padded if a == axis else size for a, size in enumerate(weight.shape)], weight.dtype)
    np.moveaxis(spread, axis, 0)[_places(layout)] = np.moveaxis(weight, axis, 0)
    return spread


def _places(layout: Layout) -> np.ndarray:
    """Where the real channels lie among the padded ones."""
    starts = np.cumsum([0, *(padded for _, padded in layout)])
    return np.concatenate([start + np.arange(real) for start, (real, _) in zip(starts, layout, strict=False)])


def _take_padding_out(name: str, layout: Layout, graph: _Graph) -> None:
    if all(real == padded for real, padded in layout):
        return
    inner, places = f"{name}.padded", f"{name}.places"
    for node in graph.proto.node:
        for names in (node.input, node.output):
            names[:] = [inner if own == name else own for own in names]
    graph.weights[places] = _places(layout)
    graph.proto.node.append(
        helper.make_node("Gather", [inner, places], [name], name=f"{name}.gather", axis=1)
    )
