"""Formats of exports, and what each needs."""

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path

from backbones.files import check_output
from celltransfer import not_installed

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Of the files that are exported, by format; `torch` is `torch.export`."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""What writing a format and checking the file take."""


def check_export(path: Path, format: str, formats: Collection[str] = tuple(SUFFIXES)) -> None:
    """Raises ValueError unless a file of one of `formats` can be written to `path`, which ends as it asks.

    Raises ModuleNotFoundError with the command that installs what is missing.
    """
    if format not in formats:
        raise ValueError(f"format = {format!r}, expected one of {', '.join(formats)}")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"{path}: a file of format {format} must end in {SUFFIXES[format]}")
    for place in (path, path.with_suffix(".bin")) if format == "openvino" else (path,):
        check_output(place)
    for name in NEEDS[format]:
        if importlib.util.find_spec(name) is None:
            raise not_installed(f"format {format}", name, "export")
