"""A classifier in int8 for OpenVINO, and what that costs."""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from backbones.export import export, replace_files
from backbones.image_transforms import transforms
from backbones.int8 import quantised, spread
from backbones.runtimes import Program, open_program, openvino_core, save_openvino
from backbones.weights import load
from backbones.words import counted
from celltransfer import not_installed
from runtime.pictures import read
from runtime.progress import track


@dataclass(frozen=True)
class Cost:
    """calibrated, images: on so many. labelled: those of a known class. before, after: of these, right in
    float32 and in int8. same: of all, of one class in both."""

    calibrated: int
    images: int
    labelled: int
    before: int
    after: int
    same: int

    def __str__(self) -> str:
        kept = f"{self.same} of {counted(self.images, 'image')} keep their class"
        if not self.labelled:
            return kept
        before, after = (100 * right / self.labelled for right in (self.before, self.after))
        return f"top-1 {before:.1f} → {after:.1f} of {self.labelled}, {kept}"


def write_int8(weights: Path, output: Path, paths: Sequence[Path]) -> Cost:
    """Writes `output`, an .xml with its .bin beside it, atomically.

    paths: of images, of which some hundred calibrate; the name of an image's folder is its class, where the
    network knows such a class. Raises ValueError or FileNotFoundError that names a file that is wrong, and
    ModuleNotFoundError with the command that installs what is missing."""
    if importlib.util.find_spec("nncf") is None:
        raise not_installed("int8", "nncf", "deploy")
    network = load(weights)
    see = transforms(network)
    classes = {name: label for label, name in enumerate(network.classes or ())}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        plain, small = Path(folder) / "float32" / output.name, Path(folder) / "int8" / output.name
        small.parent.mkdir()
        export(network, plain, "openvino")
        before = open_program(plain)
        examples = spread(paths)
        model = quantised(openvino_core().read_model(plain), examples, lambda path: _seen(path, see))
        save_openvino(model, small, before.metadata)
        after = open_program(small)
        labelled = right = still = same = 0
        with track(len(paths), "comparing int8 with float32", images_per_unit=1) as progress:
            for path in paths:
                answers = [_label(program, _seen(path, see)) for program in (before, after)]
                same += answers[0] == answers[1]
                label = classes.get(path.parent.name)
                if label is not None:
                    labelled += 1
                    right += answers[0] == label
                    still += answers[1] == label
                progress.advance()
        replace_files(small.parent, output)
    return Cost(len(examples), len(paths), labelled, right, still, same)


def _seen(path: Path, see: Callable[[Image.Image], Tensor]) -> dict[str, NDArray[np.float32]]:
    return {"images": read(path, see)[None].numpy()}


def _label(program: Program, inputs: dict[str, NDArray[np.float32]]) -> int:
    return int(program.run(inputs)["logits"][0].argmax())
