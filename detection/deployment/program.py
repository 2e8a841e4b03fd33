"""A detector as one program for other runtimes: PyTorch's exported program, or ONNX.

It takes `image`, `[1, 3, H, W]` float32, RGB in 0..1 at a fixed size, and gives, best score first, `boxes`
`[D, 4]` xyxy in its pixels, `scores` `[D]` in 0..1, `labels` `[D]` int64, places among the categories, and
`valid` `[D]` bool, zeros where it is false; D is `detector.box_head.detections_per_image`. NMS and RoIAlign
are inside.

The file holds `categories` (ids and names) and `input` (height, width, and the sides that the detector was
trained to look at) as JSON: among ONNX's metadata properties, in a .pt2 as extra files.
"""

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from backbones.formats import check_export
from celltransfer import program
from detection.data.sizing import SizeRecord, check_side
from detection.deployment import FORMATS
from detection.deployment.fixed import FixedDetections, FixedDetector
from detection.detector import Detector
from detection.engines.torchvision import TorchvisionEngine
from detection.formats import Prediction

log = logging.getLogger(__name__)

OUTPUTS = list(FixedDetections.__annotations__)
TOLERANCE = 1e-3
"""Of scores, and of boxes in pixels or a thousandth of the longer side: up to here two are the same."""
PATTERNS = 8
"""Tried until the detector finds something on one."""
LEAST_AGREEMENT = 0.9
"""Share of detections that file and detector must have in common. Not all, since on the pattern that they are
compared on an overlap may lie within rounding of a threshold."""


def export(detector: Detector, path: str | os.PathLike[str], format: str, height: int, width: int) -> None:
    """Writes the detector, which stays as it is, atomically, once the file finds what the detector finds.

    path: ends in .onnx or .pt2, as `format` asks; before `torch.export.load` import torchvision.
    Raises ValueError that names what was wrong, also where the file would find something else, and
    ModuleNotFoundError with the command that installs what is missing."""
    path = Path(path)
    check_export(path, format, FORMATS)
    for side in (height, width):
        check_side("size", side)
    if not isinstance(detector.engine, TorchvisionEngine):
        raise ValueError(
            f"{detector.config.name} cannot be exported, torchvision's engine can; to get the same detector "
            f"there: {program('detection.convert')} FILE --engine torchvision --output FILE"
        )
    engine = copy.deepcopy(detector.engine).cpu().eval().requires_grad_(False)
    image, expected = _seen(engine, height, width)
    metadata = {
        "categories": json.dumps(msgspec.to_builtins(detector.categories)),
        "input": json.dumps({"height": height, "width": width} | vars(SizeRecord.of(detector.input_size))),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    with beside as folder, warnings.catch_warnings():
        # torchvision's NMS asks for its number of boxes in a way that PyTorch deprecates.
        warnings.filterwarnings("ignore", "`create_unbacked_symint`", FutureWarning)
        traced = torch.export.export(FixedDetector(engine), (image,), strict=False)
        for node in traced.graph.nodes:
            node.meta.pop("stack_trace", None)  # names files of this machine
        written = Path(folder) / path.name
        write = _write_onnx if format == "onnx" else _write_torch
        found = write(traced, written, metadata, image)
        share = agreement(expected, real(found), TOLERANCE * max(1.0, max(height, width) / 1000))
        if share < LEAST_AGREEMENT:
            raise ValueError(
                f"{path} was not written: it finds {share:.0%} of what the detector finds, "
                f"expected at least {LEAST_AGREEMENT:.0%}"
            )
        if share < 1:
            log.warning("%s finds %.1f%% of what the detector finds on a pattern", path, 100 * share)
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(written, path)


def _seen(engine: TorchvisionEngine, height: int, width: int) -> tuple[Tensor, Prediction]:
    """The first of some patterns in which the detector finds something, and what; or the last of them."""
    for seed in range(PATTERNS):
        image = pattern(height, width, seed)
        prediction = engine.predict([image[0]])[0]
        if len(prediction["labels"]):
            return image, prediction
    log.warning(
        "The detector finds nothing on %d coloured patterns: the file is only checked to find nothing either",
        PATTERNS,
    )
    return image, prediction


def pattern(height: int, width: int, seed: int = 0) -> Tensor:
    """`[1, 3, height, width]` in 0..1: coloured patches of many sizes, where a detector finds something."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells in (2, 5, 12, 30):
        patches = torch.rand(1, 3, cells, cells, generator=generator)
        image += nn.functional.interpolate(patches, (height, width), mode="nearest")
    return image / 4


def real(detections: FixedDetections) -> Prediction:
    """Those that are not padding."""
    valid = detections["valid"]
    return {
        "boxes": detections["boxes"][valid],
        "scores": detections["scores"][valid],
        "labels": detections["labels"][valid],
    }


def agreement(one: Prediction, other: Prediction, tolerance: float) -> float:
    """Share of the detections of both, in 0..1, that have a partner: of the same label, with a score within
    TOLERANCE and sides within `tolerance` pixels. 1 where both found nothing."""
    total = len(one["labels"]) + len(other["labels"])
    if not total:
        return 1.0
    same = one["labels"][:, None] == other["labels"]
    same &= (one["scores"][:, None] - other["scores"]).abs() <= TOLERANCE
    same &= (one["boxes"][:, None] - other["boxes"]).abs().amax(dim=2) <= tolerance
    return float(same.any(dim=1).sum() + same.any(dim=0).sum()) / total


def _write_torch(
    traced: ExportedProgram, path: Path, metadata: Mapping[str, str], image: Tensor
) -> FixedDetections:
    torch.export.save(traced, path, extra_files={f"{key}.json": text for key, text in metadata.items()})
    return torch.export.load(path).module()(image)


def _translations() -> dict[Any, Callable[..., Any]]:
    """What PyTorch's exporter lacks: a sort that leaves equal values in their order, which is ONNX's TopK."""
    from onnxscript import opset18

    op: Any = opset18

    def sort(
        self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
    ) -> tuple[Any, Any]:
        axis = op.Constant(value_ints=[dim])
        count = op.Gather(op.Shape(self), axis)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    return {torch.ops.aten.sort.stable: sort}


def to_onnx(traced: ExportedProgram, inputs: list[str]) -> Any:
    """The program as an ONNX model whose outputs are OUTPUTS."""
    program = torch.onnx.export(
        traced,
        dynamo=True,
        input_names=inputs,
        output_names=OUTPUTS,
        custom_translation_table=_translations(),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _write_onnx(
    traced: ExportedProgram, path: Path, metadata: Mapping[str, str], image: Tensor
) -> FixedDetections:
    import onnxruntime

    model = to_onnx(traced, ["image"])
    for described in [*model.graph.node, *model.graph.input, *model.graph.output]:
        del described.metadata_props[:]  # the exporter's notes name files of this machine
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    boxes, scores, labels, valid = map(torch.from_numpy, session.run(OUTPUTS, {"image": image.numpy()}))
    return {"boxes": boxes, "scores": scores, "labels": labels, "valid": valid}
