"""Networks that `python -m backbones export` wrote, opened in the runtime each is for.

Letters: `C` channels, `S` the side of the square image, `K` classes.
"""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbones import runtimes
from backbones.files import convert_json, existing
from backbones.formats import SUFFIXES
from backbones.pictures import as_picture, central_square
from backbones.runtimes import check_runtime, open_program, own_metadata
from backbones.spec import Preprocessing

RUNTIMES: Mapping[str, str] = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export"}
"""Names of what runs an exported file, by its suffix."""
METADATA = ("preprocessing", "classes")


class Exported(NamedTuple):
    """run: `[1, C, S, S]`, normalised, to outputs by name. preprocessing, classes: of the weights it was made
    of; classes: names by label, None where they have none."""

    run: Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
    preprocessing: Preprocessing
    classes: list[str] | None

    def probabilities(self, picture: Image.Image) -> NDArray[np.float32]:
        """`[K]`, of a picture of any mode and size, which is cut, scaled and normalised by NumPy alone."""
        channels, size = len(self.preprocessing.mean), self.preprocessing.size
        square = central_square(as_picture(picture, grey=channels == 1), self.preprocessing)
        pixels = np.asarray(square, np.float32).reshape(size, size, channels)
        mean, std = (
            np.array(values, np.float32) * 255 for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        images = np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)[None])
        logits = self.run(images)["logits"][0]
        exponents = np.exp(logits - logits.max())
        return exponents / exponents.sum()


def check_precision(path: str | os.PathLike[str], precision: str) -> None:
    """Raises as `runtimes.check_precision` and `runtimes.check_runtime` do; PyTorch has every precision."""
    if precision != "f32" and Path(path).suffix in (SUFFIXES["onnx"], SUFFIXES["openvino"]):
        runtimes.check_precision(path, check_runtime(Path(path)), precision)


def open_exported(
    path: str | os.PathLike[str],
    threads: int | None = None,
    precision: str = "f32",
    runtime: str | None = None,
) -> Exported:
    """path: ends in .onnx, .xml or .pt2. precision: `f32`, or `bf16`, which ONNX Runtime does not have.
    runtime: see `runtimes.open_program`; not for a .pt2.

    Only the last imports PyTorch. Raises FileNotFoundError or ValueError that names the file, and
    ModuleNotFoundError with the command that installs its runtime."""
    if Path(path).suffix == SUFFIXES["torch"]:
        return _open_torch(path, threads, precision)
    program = open_program(path, runtime, threads, precision, batch=1)
    return Exported(lambda images: program.run({"images": images}), *_said(path, program.metadata))


def _open_torch(path: str | os.PathLike[str], threads: int | None, precision: str) -> Exported:
    import torch

    if not zipfile.is_zipfile(existing(path, "exported network")):  # of which PyTorch would log pages
        raise ValueError(f"{path}: not a program of torch.export")
    if threads is not None:
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

    texts = {key: extra[f"{key}.json"] for key in METADATA}
    return Exported(run, *_said(path, {key: text for key, text in texts.items() if text}))


def _said(
    path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> tuple[Preprocessing, list[str] | None]:
    said = own_metadata(path, metadata, METADATA)
    preprocessing = convert_json(
        said["preprocessing"], Preprocessing, f"{path}: preprocessing.", defaults=True
    )
    return preprocessing, said["classes"]
