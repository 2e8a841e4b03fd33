"""Pictures of any mode as networks see them: upright, with 8 bits per channel."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor


def as_picture(image: "Image.Image | Tensor", grey: bool = False) -> Image.Image:
    """Upright 8-bit RGB, or grey: EXIF rotation applied, transparency dropped, 16-bit grey scaled.

    Raises ValueError for floating-point pixels."""
    if not isinstance(image, Image.Image):
        import torch
        from torchvision.transforms.v2 import functional

        return as_picture(functional.to_pil_image(functional.to_dtype(image, torch.uint8, scale=True)), grey)
    if image.mode == "F":  # PIL's own conversion makes 0..1 black
        raise ValueError("floating-point pixels, of an unknown range, expected 8 or 16 bits per channel")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip it to 255
        image = Image.fromarray((np.asarray(image, np.int64) // 257).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)
