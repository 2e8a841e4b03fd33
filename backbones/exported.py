"""Networks that `python -m backbones export` wrote, opened in the runtime each is for.

Neither ONNX Runtime nor OpenVINO imports PyTorch. Letters: `C` channels, `S` the side of the square image.
"""

import functools
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backbones.files import convert_json, existing, parse_json
from backbones.formats import SUFFIXES
from backbones.spec import Preprocessing
from celltransfer import not_installed

FORMATS: Mapping[str, str] = {suffix: format for format, suffix in SUFFIXES.items()}
"""By the end of a file's name."""
RUNTIMES: Mapping[str, str] = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch.export"}
"""Names of what runs a file, by format."""

Images = NDArray[np.float32]


class Exported(NamedTuple):
    """run: `[1, C, S, S]`, normalised, to outputs by name. preprocessing: of the weights it was made of."""

    run: Callable[[Images], Mapping[str, NDArray[np.float32]]]
    preprocessing: Preprocessing


def open_exported(path: str | os.PathLike[str], threads: int, precision: str = "f32") -> Exported:
    """path: ends in .onnx, .xml or .pt2. precision: `f32`, or `bf16`, which ONNX Runtime does not have.

    Raises FileNotFoundError or ValueError that names the file, and ModuleNotFoundError with the command that
    installs its runtime."""
    existing(path, "exported network")
    check_precision(path, precision)
    format = FORMATS[Path(path).suffix]
    if format == "onnx":
        return _open_onnx(path, threads)
    return (_open_openvino if format == "openvino" else _open_torch)(path, threads, precision)


def check_precision(path: str | os.PathLike[str], precision: str) -> None:
    """Raises ValueError that names the file where its runtime does not have the precision."""
    if Path(path).suffix == SUFFIXES["onnx"] and precision != "f32":
        raise ValueError(f"{path}: ONNX Runtime computes in f32, not in {precision}")


def _open_onnx(path: str | os.PathLike[str], threads: int) -> Exported:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise not_installed(str(path), "onnxruntime", "export", error) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for the next picture would take the cores of whatever else is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no class in common but this one
        raise ValueError(f"{path}: {error}") from None
    said = session.get_modelmeta().custom_metadata_map
    names = [output.name for output in session.get_outputs()]
    return Exported(
        lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True)),
        _preprocessing(path, said.get("preprocessing")),
    )


def _open_openvino(path: str | os.PathLike[str], threads: int, precision: str) -> Exported:
    try:
        core = openvino_core()
    except ModuleNotFoundError as error:
        raise not_installed(str(path), "openvino", "export", error) from None
    existing(Path(path).with_suffix(".bin"), "weights of an OpenVINO model")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None
    place = ["celltransfer", "preprocessing"]
    said = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None
    preprocessing = _preprocessing(path, said)
    model.reshape([1, len(preprocessing.mean), preprocessing.size, preprocessing.size])
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    names = [output.any_name for output in model.outputs]

    def run(images: Images) -> Mapping[str, NDArray[np.float32]]:
        answers = compiled([images])
        return {name: answers[name] for name in names}

    return Exported(run, preprocessing)


@functools.cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process, for the reason that `export.openvino_core` gives."""
    import openvino

    return openvino.Core()


def _open_torch(path: str | os.PathLike[str], threads: int, precision: str) -> Exported:
    import torch

    if not zipfile.is_zipfile(path):  # of which PyTorch would log pages
        raise ValueError(f"{path}: not a program of torch.export")
    torch.set_num_threads(threads)
    extra = {"preprocessing.json": ""}
    try:
        program = torch.export.load(path, extra_files=extra).module()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None

    def run(images: Images) -> Mapping[str, NDArray[np.float32]]:
        lower = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), lower:
            answers = program(torch.from_numpy(images))
        return {name: answer.float().numpy() for name, answer in answers.items()}

    return Exported(run, _preprocessing(path, extra["preprocessing.json"]))


def _preprocessing(path: str | os.PathLike[str], text: str | None) -> Preprocessing:
    if not text:
        raise ValueError(f"{path}: it holds no preprocessing; expected a file of python -m backbones export")
    value = parse_json(text, f"{path}: preprocessing must be JSON")
    return convert_json(value, Preprocessing, f"{path}: preprocessing.", defaults=True)
