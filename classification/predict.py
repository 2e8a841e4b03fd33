"""Names what is in image files.

python -m classification.predict backbone.safetensors IMAGES… [--json]
"""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from backbones import weights
from backbones.base import Backbone
from backbones.image_transforms import transforms
from backbones.network import NASNet
from classification.data import read
from classification.image_files import find_images
from runtime.device import resolve_device
from runtime.progress import track

FUSE_FROM = 64
"""Images from which fusing a network of cells, which takes as long as some tens of images, pays on a CPU."""


class Guess(NamedTuple):
    """label: in 0..K-1. name: of the class. probability: in 0..1."""

    label: int
    name: str
    probability: float


@torch.inference_mode()
def predict(
    network: Backbone, paths: Sequence[Path], *, top: int = 5, batch_size: int = 16
) -> Iterator[tuple[Path, list[Guess] | Exception]]:
    """For each file, in order, the `top` most probable classes, or why it cannot be read as an image.

    The images are seen as in evaluation, on the network's device. top: all classes where there are fewer.
    """
    device = next(network.parameters()).device
    see = transforms(network)
    names = network.classes or [f"class {label}" for label in range(network.num_classes)]
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        seen = [_attempt(path, see) for path in chunk]
        images = [image for image in seen if isinstance(image, Tensor)]
        guesses: Iterator[list[Guess]] = iter(())
        if images:
            batch = torch.stack(images).to(device, memory_format=torch.channels_last)
            best = network(batch).float().softmax(dim=1).topk(min(top, network.num_classes))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            guesses = iter([[Guess(k, names[k], p) for k, p in zip(*pair, strict=True)] for pair in pairs])
        for path, image in zip(chunk, seen, strict=True):
            yield path, image if isinstance(image, Exception) else next(guesses)


def _attempt(path: Path, see: Callable[[Image.Image], Tensor]) -> Tensor | Exception:
    try:
        return read(path, see)
    except (ValueError, OSError) as error:
        return error


def load(path: str, device: str, images: int) -> Backbone:
    """The network of a weights file on its device, in the form that is fastest for so many images.

    Fused logits differ from the others by rounding alone, as those of another batch size do."""
    target = resolve_device(device)
    network = weights.load(path)
    if isinstance(network, NASNet) and images >= FUSE_FROM and target.type == "cpu":
        return network.fuse()
    return network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _as_json(path: Path, guesses: Sequence[Guess]) -> str:
    top = [{"class": guess.name, "label": guess.label, "probability": guess.probability} for guess in guesses]
    return json.dumps({"image": str(path), "top": top})


def _add_rows(table: Table, path: Path, guesses: Sequence[Guess]) -> None:
    for place, guess in enumerate(guesses):
        image = escape(str(path)) if place == 0 else ""
        style = "bold" if place == 0 else ""
        table.add_row(image, escape(guess.name), f"{guess.probability:.1%}", style=style)
    table.add_section()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m classification.predict",
        description="Name what is in image files. Exit code 1 where one of them cannot be read.",
    )
    parser.add_argument("weights", help="a backbone.safetensors")
    parser.add_argument("images", nargs="+", help="image files, folders or patterns of them")
    parser.add_argument("--top", type=int, default=5, help="classes for each image (default 5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead")
    parser.add_argument("--batch-size", type=int, default=16, help="images per forward pass (default 16)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    options = parser.parse_args(arguments)
    table = Table("image", "class", "probability")
    table.columns[2].justify = "right"
    unreadable = 0
    try:
        for key in ("top", "batch_size"):
            if (value := getattr(options, key)) < 1:
                raise ValueError(f"--{key.replace('_', '-')} = {value}, must be at least 1")
        paths = find_images(options.images)
        network = load(options.weights, options.device, len(paths))
        shown = not options.json and len(paths) > options.batch_size
        with contextlib.ExitStack() as stack:
            progress = (
                stack.enter_context(track(len(paths), "predicting", images_per_unit=1)) if shown else None
            )
            for path, result in predict(network, paths, top=options.top, batch_size=options.batch_size):
                if isinstance(result, Exception):
                    unreadable += 1
                    print(result, file=sys.stderr)
                elif options.json:
                    print(_as_json(path, result), flush=True)
                else:
                    _add_rows(table, path, result)
                if progress is not None:
                    progress.advance()
    except (ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    if table.rows:
        Console().print(table)
    return 1 if unreadable else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
