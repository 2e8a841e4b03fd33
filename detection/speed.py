"""How fast detectors look at pictures on this machine, weights and exported files side by side, as a table.

python -m detection.speed detector.safetensors detector.onnx detector.xml detector.pt2
python -m detection.speed detector.safetensors --size 480 640 --beside fasterrcnn_resnet50_fpn
python -m detection.speed detector.safetensors detector.xml --images photos --precision f32 bf16 --threads 2
python -m detection.speed detector.safetensors --json speed.json

The models are loaded into one process and take turns: in each round every model looks at the same picture
once. Timed is one picture at a time, the whole of `predict` but for reading the file: scaling, the network,
its boxes and their NMS. The memory is the peak of a process of its own with one model, which is Python, the
runtime and all. Every model scales pictures as its file says, torchvision's to 800 px of the short side; with
--size all but SSD look at pictures of that size as they are. torchvision's have random weights: as many
proposals, hardly any detections. bf16 is the precision in which the network multiplies, in PyTorch by
torch.autocast; neither ONNX Runtime nor an exported program of PyTorch has it.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.arguments import documented_parser, one_line_errors, whole
from backbones.exported import RUNTIMES
from backbones.formats import SUFFIXES
from backbones.pictures import as_picture
from backbones.speed_table import (
    PYTORCH,
    SYNTHETIC_SIZE,
    WEIGHTS,
    Model,
    Step,
    add_options,
    report,
    suffix_of,
    synthetic,
)
from detection.data.sizing import SIDES, ShortestEdge
from runtime.named_images import pictures_of

BESIDE = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
"""torchvision's detectors."""

Size = tuple[int, int]


def weights_step(name: str, precision: str, size: Size | None, threads: int) -> Step:
    """A `detector.safetensors` in PyTorch. size: (H, W) of pictures that are not scaled; None: the file's."""
    import torch

    from detection.detector import Detector

    torch.set_num_threads(threads)
    detector = Detector.load(name, "cpu")
    if size is not None:
        detector.input_size = _unscaled(size)

    def step(picture: Image.Image) -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return detector(picture)

    return step


def torchvision_step(name: str, precision: str, size: Size | None, threads: int) -> Step:
    """One of BESIDE with random weights and COCO's 91 classes, as torchvision builds it."""
    import torch
    from torchvision.models import get_model

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    given: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if size is not None and not name.startswith("ssd"):  # whose size is part of the network
        given |= {"min_size": min(size), "max_size": max(size)}
    net = get_model(name, **given).eval()

    def step(picture: Image.Image) -> object:
        image = torch.from_numpy(np.array(as_picture(picture))).permute(2, 0, 1).float() / 255
        lower = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), lower:
            return net([image])

    return step


def exported_step(name: str, precision: str, size: Size | None, threads: int) -> Step:
    """A file that `python -m detection.export` wrote, in the runtime that it is for."""
    from detection.deployment.runner import Runner

    if name.endswith(SUFFIXES["torch"]):
        import torch

        from detection.deployment.program import TorchProgram

        torch.set_num_threads(threads)
        runner = Runner.of(TorchProgram(Path(name)), name)
    else:
        runner = Runner.open(name, threads=threads, precision=precision)
    if size is not None:
        if runner.multiple == 1 and size != runner.size.largest():
            raise ValueError(f"{name} looks at pictures of one size, {runner.size.largest()} px")
        runner.size = _unscaled(size)
    return lambda picture: runner(np.asarray(as_picture(picture)))


def _unscaled(size: Size) -> ShortestEdge:
    """The rule that leaves pictures of this size as they are."""
    return ShortestEdge((min(size),), max(size))


def model_of(name: str, precision: str, size: Size | None = None) -> Model:
    """size: see `weights_step`. Raises FileNotFoundError or ValueError for what cannot be timed."""
    suffix = suffix_of(name, "detector", precision)
    if suffix == SUFFIXES["torch"] and precision != "f32":
        raise ValueError(f"{name}: a program of torch.export computes in f32, not in {precision}")
    if suffix == WEIGHTS:
        return Model(name, PYTORCH, precision, partial(weights_step, name, precision, size))
    return Model(name, RUNTIMES[suffix], precision, partial(exported_step, name, precision, size))


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("detection.speed", __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="a detector.safetensors, or an exported .onnx, .xml, .pt2")
    add("--beside", nargs="+", choices=BESIDE, default=[], metavar="NAME", help=f"{', '.join(BESIDE)}")
    add("--size", type=whole(*SIDES), nargs=2, metavar=("H", "W"), help="pixels, as every network sees them")
    add_options(parser)
    options = parser.parse_args(arguments)
    size = None if options.size is None else (options.size[0], options.size[1])
    models = [model_of(name, precision, size) for name in options.files for precision in options.precision]
    models += [
        Model(name, PYTORCH, precision, partial(torchvision_step, name, precision, size))
        for name in options.beside
        for precision in options.precision
    ]
    seen = options.warm_up + options.rounds
    pictures = pictures_of(options.images, seen) if options.images else synthetic(*(size or SYNTHETIC_SIZE))
    if size is not None:
        pictures = [picture.resize((size[1], size[0])) for picture in pictures]
    report(models, pictures, options, {"size": options.size})
    return 0


if __name__ == "__main__":
    sys.exit(main())
