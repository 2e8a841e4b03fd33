"""Networks that `python -m backbones export` wrote, opened in the runtime each is for.

Letters: `C` channels, `S` the side of the square image.
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backbones.files import convert_json, existing
from backbones.formats import SUFFIXES
from backbones.runtimes import open_program, own_metadata
from backbones.spec import Preprocessing

RUNTIMES: Mapping[str, str] = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export"}
"""Names of what runs an exported file, by its suffix."""
METADATA = ("preprocessing",)


class Exported(NamedTuple):
    """run: `[1, C, S, S]`, normalised, to outputs by name. preprocessing: of the weights it was made of."""

    run: Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
    preprocessing: Preprocessing


def check_precision(path: str | os.PathLike[str], precision: str) -> None:
    """Raises ValueError that names the file where its runtime does not have the precision."""
    if Path(path).suffix == SUFFIXES["onnx"] and precision != "f32":
        raise ValueError(f"{path}: ONNX Runtime computes in f32, not in {precision}")


def open_exported(path: str | os.PathLike[str], threads: int, precision: str = "f32") -> Exported:
    """path: ends in .onnx, .xml or .pt2. precision: `f32`, or `bf16`, which ONNX Runtime does not have.

    Only the last imports PyTorch. Raises FileNotFoundError or ValueError that names the file, and
    ModuleNotFoundError with the command that installs its runtime."""
    if Path(path).suffix == SUFFIXES["torch"]:
        return _open_torch(path, threads, precision)
    check_precision(path, precision)
    program = open_program(path, None, threads, precision, batch=1)
    return Exported(lambda images: program.run({"images": images}), _preprocessing(path, program.metadata))


def _open_torch(path: str | os.PathLike[str], threads: int, precision: str) -> Exported:
    import torch

    if not zipfile.is_zipfile(existing(path, "exported network")):  # of which PyTorch would log pages
        raise ValueError(f"{path}: not a program of torch.export")
    torch.set_num_threads(threads)
    extra = {f"{key}.json": "" for key in METADATA}
    try:
        program = torch.export.load(path, extra_files=extra).module()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: not a program of torch.export ({error})") from None

    def run(images: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        lower = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), lower:
            answers = program(torch.from_numpy(images))
        return {name: answer.float().numpy() for name, answer in answers.items()}

    said = {key: extra[f"{key}.json"] for key in METADATA}
    return Exported(run, _preprocessing(path, {key: text for key, text in said.items() if text}))


def _preprocessing(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> Preprocessing:
    value = own_metadata(path, metadata, METADATA)["preprocessing"]
    return convert_json(value, Preprocessing, f"{path}: preprocessing.", defaults=True)
