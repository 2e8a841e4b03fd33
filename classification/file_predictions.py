"""The most probable classes of image files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from backbones import weights
from backbones.base import Classifier
from backbones.image_transforms import transforms
from backbones.network import NASNet
from classification.guesses import Guess
from runtime.device import resolve_device
from runtime.pictures import read

FUSE_FROM = 64
"""Images from which fusing a network of cells, which takes as long as some tens of images, pays on a CPU."""


@torch.inference_mode()
def predict(
    network: Classifier, paths: Sequence[Path], *, top: int = 5, batch_size: int = 16
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


def load(path: str, device: str, images: int) -> Classifier:
    """The network of a weights file on its device, in the form that is fastest for so many images.

    Fused logits differ from the others by rounding alone, as those of another batch size do."""
    target = resolve_device(device)
    network = weights.load(path)
    if isinstance(network, NASNet) and images >= FUSE_FROM and target.type == "cpu":
        return network.fuse()
    return network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
