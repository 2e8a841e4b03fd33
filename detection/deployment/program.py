"""A detector as one program for other runtimes: ONNX, OpenVINO, or PyTorch's exported program.

It takes `image`, `[1, 3, H, W]` float32, RGB in 0..1, and `size`, `[2]` int64, the height and width of the
picture in it, whose top left corner is the image's; beside it lies padding. H and W are multiples of 32, at
least 96 (of a detector on one map that looks at squares of one size: that size). It gives, best score first,
`boxes` `[D, 4]` xyxy in pixels of the image, `scores` `[D]` in 0..1, `labels` `[D]` int64, places among the
categories, and `valid` `[D]` bool, zeros where it is false; D is `detections_per_image`. Normalisation, NMS
and RoIAlign are inside.

The file says of itself, in JSON by key: `categories` (ids and names), `preprocessing` (`size`, the rule by
which pictures are resized; `multiple` and `least`, of H and W; `channels`; `mean` and `std`, which the
program applies), `score_threshold`, `detections_per_image`, and `weights`, the SHA-256 of the file that the
detector came from. They are ONNX's metadata properties, OpenVINO's runtime information under `celltransfer`,
and a .pt2's extra files `<key>.json`.
"""

import copy
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from backbones.runtimes import Program, openvino_core, save_openvino
from celltransfer import program
from detection.data.sizing import SIDES, Fixed, SizeRecord
from detection.deployment.fixed import FixedDetector
from detection.deployment.operators import BY_TORCH, for_onnx
from detection.deployment.runner import METADATA, OUTPUTS
from detection.detector import Detector
from detection.engines.fpn import PYRAMID_STRIDES
from detection.engines.torchvision import TorchvisionEngine
from detection.engines.torchvision_c4 import TorchvisionC4

log = logging.getLogger(__name__)

MULTIPLE = PYRAMID_STRIDES[-1]
"""Of the height and width of what the program takes."""
LEAST = 3 * MULTIPLE
"""Pixels of a side of it. OpenVINO pools no map that is smaller than the window, and `torch.export` takes a
map of one row for a case of its own."""
INPUTS = ("image", "size")


class TorchProgram(Program):
    """A .pt2 that was loaded."""

    def __init__(self, path: Path) -> None:
        extra = {f"{key}.json": "" for key in METADATA}
        self.module = torch.export.load(path, extra_files=extra).module()
        self.metadata = {key: extra[f"{key}.json"] for key in METADATA}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            answers = self.module(*(torch.from_numpy(inputs[name]) for name in INPUTS))
        return {name: value.numpy() for name, value in answers.items()}


def exportable(detector: Detector) -> TorchvisionEngine:
    """Its engine. Raises ValueError where there is no program of it."""
    if not isinstance(detector.engine, TorchvisionEngine):
        raise ValueError(
            f"{detector.config.name} cannot be exported, torchvision's engine can; to get the same detector "
            f"there: {program('detection.convert')} FILE --engine torchvision --output FILE"
        )
    return detector.engine


def described(detector: Detector, weights: str) -> dict[str, str]:
    """What the file says of itself. weights: SHA-256 of the detector's own file."""
    second = exportable(detector).box_head.config
    preprocessing = detector.engine.backbone.preprocessing
    said = {
        "categories": msgspec.to_builtins(detector.categories),
        "preprocessing": {
            "size": asdict(SizeRecord.of(detector.input_size)),
            "multiple": 1 if _fixed_side(detector) else MULTIPLE,
            "least": _fixed_side(detector) or LEAST,
            "channels": "RGB",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "score_threshold": second.score_threshold,
        "detections_per_image": second.detections_per_image,
        "weights": weights,
    }
    return {key: json.dumps(said[key]) for key in METADATA}


def _fixed_side(detector: Detector) -> int | None:
    """The one size of a detector on one map, which is not padded, in pixels; None: any multiples do."""
    size = detector.input_size
    return size.side if isinstance(detector.engine, TorchvisionC4) and isinstance(size, Fixed) else None


def traced(detector: Detector) -> ExportedProgram:
    """The detector, which stays as it is, in operators that each format has its own form of."""
    log.info("export: building the program")
    engine = copy.deepcopy(exportable(detector)).cpu().eval().requires_grad_(False)
    side = _fixed_side(detector)
    height, width = (side, side) if side else (7 * MULTIPLE, 10 * MULTIPLE)
    sides: dict[int, Any] = {}
    if not side:
        most = SIDES[1] // MULTIPLE + 1
        sides = {2 + axis: MULTIPLE * Dim(name, min=1, max=most) for axis, name in enumerate(("h", "w"))}
    example = torch.zeros(1, 3, height, width), torch.tensor([height, width])
    found = torch.export.export(FixedDetector(engine), example, dynamic_shapes=(sides, None), strict=False)
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    return found


def write(trace: ExportedProgram, path: Path, format: str, metadata: Mapping[str, str]) -> None:
    """Writes a traced detector as a file of `format`; of OpenVINO also the .bin beside it."""
    if format == "torch":
        log.info("export: writing the program of torch.export")
        with warnings.catch_warnings():
            # torchvision's NMS asks for its number of boxes in a way that PyTorch deprecates.
            warnings.filterwarnings("ignore", "`create_unbacked_symint`", FutureWarning)
            own = trace.run_decompositions(BY_TORCH)
        for node in own.graph.nodes:
            node.meta.pop("stack_trace", None)
        torch.export.save(own, path, extra_files={f"{key}.json": text for key, text in metadata.items()})
        return
    log.info("export: writing ONNX")
    model = to_onnx(trace, INPUTS)
    sides = model.graph.input[0].type.tensor_type.shape.dim
    for side, name in zip(sides[2:], ("height", "width"), strict=True):
        if not side.dim_value:
            side.dim_param = name
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx = path if format == "onnx" else path.with_name(f"{path.name}.onnx")
    onnx.write_bytes(model.SerializeToString())
    if format == "openvino":
        log.info("export: converting ONNX to OpenVINO")
        save_openvino(openvino_core().read_model(onnx), path, metadata)
        onnx.unlink()


def to_onnx(trace: ExportedProgram, inputs: Sequence[str]) -> Any:
    """The program as an ONNX model whose outputs are OUTPUTS."""
    written = torch.onnx.export(
        trace,
        dynamo=True,
        input_names=list(inputs),
        output_names=list(OUTPUTS),
        custom_translation_table=for_onnx(),
        verbose=False,
    )
    assert written is not None
    model = written.model_proto
    # The exporter's notes name files of this machine; shapes between are formulas that help nobody.
    for described in [*model.graph.node, *model.graph.input, *model.graph.output]:
        del described.metadata_props[:]
    del model.graph.value_info[:]
    return model
