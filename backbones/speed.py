"""How fast networks classify pictures on this machine, weights and exported files side by side, as a table.

python -m backbones.speed backbone.safetensors backbone.onnx backbone.xml backbone.pt2
python -m backbones.speed backbone.safetensors backbone.xml --images photos --precision f32 bf16 --threads 2
python -m backbones.speed backbone.safetensors --json speed.json

The models are loaded into one process and take turns: in each round every model looks at the same picture
once. Timed is one picture at a time, from its pixels to its probabilities: cutting, scaling, normalising, the
network. Reading the file is not. The memory is the peak of a process of its own with one model, which is
Python, the runtime and all. Weights run in PyTorch, in the form that is fastest for many pictures.
bf16 is the precision in which the network multiplies; ONNX Runtime does not have it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image

from backbones.arguments import documented_parser, one_line_errors, whole
from backbones.exported import RUNTIMES, open_exported
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


def weights_step(name: str, precision: str, side: int | None, threads: int) -> Step:
    """A `backbone.safetensors` in PyTorch. side: of the square that the network sees; None: the file's."""
    import torch

    from backbones import weights
    from backbones.image_transforms import transforms
    from backbones.network import NASNet

    torch.set_num_threads(threads)
    net: Any = weights.load(name)
    if side is not None:
        net.preprocessing = replace(net.preprocessing, size=side)
    see = transforms(net)
    net = net.fuse() if isinstance(net, NASNet) else net.eval().to(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    net = net.to(dtype)

    def step(picture: Image.Image) -> object:
        with torch.inference_mode():
            images = see(picture)[None].to(dtype, memory_format=torch.channels_last)
            return net(images).float().softmax(dim=1)

    return step


def exported_step(name: str, precision: str, threads: int) -> Step:
    """A file that `python -m backbones export` wrote, in the runtime that it is for."""
    return open_exported(name, threads, precision).probabilities


def model_of(name: str, precision: str, side: int | None = None) -> Model:
    """side: see `weights_step`. Raises FileNotFoundError or ValueError for what cannot be timed."""
    suffix = suffix_of(name, "network", precision)
    if suffix == WEIGHTS:
        return Model(name, PYTORCH, precision, partial(weights_step, name, precision, side))
    if side is not None:
        raise ValueError(f"--size {side}: the size of {name} is fixed; export it with that size")
    return Model(name, RUNTIMES[suffix], precision, partial(exported_step, name, precision))


@one_line_errors
def main(
    read: Callable[[Sequence[str], int], list[Image.Image]], arguments: Sequence[str] | None = None
) -> int:
    """read: the first so many pictures that words of the command line name, as `runtime` reads them."""
    parser = documented_parser("backbones.speed", __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="a backbone.safetensors, or an exported .onnx, .xml or .pt2")
    add("--size", type=whole(1), help="side of the square that weights see, in pixels (default: the file's)")
    add_options(parser)
    options = parser.parse_args(arguments)
    models = [
        model_of(name, precision, options.size) for name in options.files for precision in options.precision
    ]
    seen = options.warm_up + options.rounds
    pictures = read(options.images, seen) if options.images else synthetic(*SYNTHETIC_SIZE)
    report(models, pictures, options, {"size": options.size})
    return 0


if __name__ == "__main__":
    from runtime.named_images import pictures_of

    sys.exit(main(pictures_of))
