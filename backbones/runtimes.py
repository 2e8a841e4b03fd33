"""Runs exported programs in the runtimes that they are for, ONNX Runtime and OpenVINO, without PyTorch."""

import functools
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from backbones.files import existing, parse_json
from backbones.words import clipped
from celltransfer import not_installed

RUNTIMES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("onnxruntime", (".onnx",)),
    "openvino": ("openvino", (".xml", ".onnx")),
}
"""By name: the module, and the suffixes of the files that it reads."""
PRECISIONS = ("f32", "bf16")
OWN = "celltransfer"
"""Where OpenVINO's runtime information holds what the file says of itself."""


class Program(ABC):
    """An exported program, ready to run on the CPU.

    metadata: what the file says of itself, text by key."""

    metadata: Mapping[str, str]

    @abstractmethod
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The program's outputs by name, which are arrays of their own."""


class OnnxProgram(Program):
    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about the graph, which nobody here can mend
        if threads is not None:
            options.intra_op_num_threads = threads
            # Threads that wait for the next run would take the cores of whatever else is timed.
            options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self.outputs, self.session.run(self.outputs, dict(inputs)), strict=True))


class OpenvinoProgram(Program):
    def __init__(self, path: Path, threads: int | None, precision: str, batch: int | None) -> None:
        core = openvino_core()
        model = core.read_model(path)
        self.metadata = openvino_metadata(model)
        if batch is not None:
            model.reshape({each: [batch, *list(each.partial_shape)[1:]] for each in model.inputs})
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        answers = self.request.infer(dict(inputs), share_inputs=True)
        return {output.get_any_name(): value for output, value in answers.items()}


def open_program(
    path: str | os.PathLike[str],
    runtime: str | None = None,
    threads: int | None = None,
    precision: str = "f32",
    batch: int | None = None,
) -> Program:
    """path: an .onnx, or an .xml of OpenVINO with its .bin beside it. runtime: one of RUNTIMES; None: the
    first that reads such files. threads: of the runtime; None: its own choice. precision: `f32` or, with
    OpenVINO, `bf16`, in which processors that have it compute faster and nothing agrees to three digits.
    batch: the first side of every input; OpenVINO runs a fixed one faster than a free one, None.

    Raises FileNotFoundError or ValueError that names the file, and ModuleNotFoundError with the command that
    installs what is missing."""
    path = existing(path, "exported")
    runtime = check_runtime(path, runtime)
    if precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}, expected one of {', '.join(PRECISIONS)}")
    check_precision(path, runtime, precision)
    try:
        if runtime == "onnx":
            return OnnxProgram(path, threads)
        return OpenvinoProgram(path, threads, precision, batch)
    except Exception as error:  # ONNX Runtime's have no class in common but this one
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(f"{path}: {runtime} cannot read it: {reason}") from error


def check_runtime(path: Path, runtime: str | None = None) -> str:
    """The runtime for a file: `runtime`, or the first that reads such files.

    Raises ValueError where it does not, and ModuleNotFoundError where it is not installed."""
    able = [name for name, (_, suffixes) in RUNTIMES.items() if path.suffix in suffixes]
    if runtime is not None and runtime not in RUNTIMES:
        raise ValueError(f"runtime = {clipped(runtime)}, expected one of {', '.join(RUNTIMES)}")
    if not able or (runtime is not None and runtime not in able):
        suffixes = (".onnx", ".xml") if runtime is None else RUNTIMES[runtime][1]
        raise ValueError(f"{path}: expected an exported file that ends in {' or '.join(suffixes)}")
    runtime = runtime or able[0]
    if importlib.util.find_spec(RUNTIMES[runtime][0]) is None:
        raise not_installed(f"runtime {runtime}", RUNTIMES[runtime][0], "export")
    return runtime


def check_precision(what: object, runtime: str, precision: str) -> None:
    """what: the file or key that asks for it. Raises ValueError where the runtime cannot compute in it here.

    OpenVINO would take f32 without a word on a processor that has no bf16."""
    if precision == "f32":
        return
    if runtime == "onnx":
        raise ValueError(f"{what}: ONNX Runtime computes in f32, not in {precision}")
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() not in able:
        raise ValueError(
            f"{what}: OpenVINO computes in {', '.join(able).lower()} on this processor, not in {precision}"
        )


def own_metadata(
    path: str | os.PathLike[str], metadata: Mapping[str, str], keys: Sequence[str]
) -> dict[str, Any]:
    """What a file of ours says of itself: the values, in JSON there, by key.

    Raises ValueError where one of the keys is missing, so that the file is not ours, or older."""
    if missing := [key for key in keys if key not in metadata]:
        raise ValueError(f"{path}: its metadata has no {missing[0]}, as files have that this project exports")
    return {key: parse_json(metadata[key], f"{path}: {key} of its metadata: expected JSON") for key in keys}


@functools.cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process.

    A core's CPU plugin puts a stack for signal handlers in the place of Python's and takes it away at its
    end, so that two cores may leave freed memory there, and the next signal kills the process.
    """
    import openvino

    return openvino.Core()


def save_openvino(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes an `openvino.Model` to `path`, an .xml, and its weights, as they are, to the .bin beside it."""
    import openvino

    for key, text in metadata.items():
        model.set_rt_info(text, [OWN, key])
    openvino.save_model(model, path, compress_to_fp16=False)


def openvino_metadata(model: Any) -> dict[str, str]:
    """What an OpenVINO model, or the ONNX file that it was read from, says of itself."""
    for place in ([OWN], ["framework"]):
        if model.has_rt_info(place):
            return dict(model.get_rt_info(place).value)
    return {}
