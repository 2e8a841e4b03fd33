"""Pictures of any mode as networks see them: upright, with 8 bits per channel."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbones.pixels import from_16_bits, picture_of
from backbones.spec import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION = 0x0112
"""Key in EXIF of how the pixels lie: 1 is upright; 5 to 8 lie on their side."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SOURCES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where Pillow keeps what says how the pixels lie."""


def orientation(image: Image.Image) -> int:
    """How the pixels lie, 1 to 8, as EXIF says; 1 where it says nothing, or is damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = image.getexif().get(ORIENTATION)
        return int(found) if found in _TURNS else 1
    except Exception:  # as many kinds as EXIF has fields that can be damaged, and no picture needs it
        return 1


def lies_on_its_side(image: Image.Image) -> bool:
    """Of an opened file whose pixels are not decoded, as far as its header tells."""
    if hasattr(image, "tag_v2"):  # Pillow turns TIFF upright itself
        return False
    return any(source in image.info for source in _SOURCES) and orientation(image) >= 5


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is to be seen, without what says how it lay. Damaged EXIF turns nothing."""
    image.load()  # some formats say it after the pixels
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    image = image.transpose(turn)
    for source in _SOURCES:
        image.info.pop(source, None)
    return image


def as_picture(image: "Image.Image | Tensor | NDArray[Any]", grey: bool = False) -> Image.Image:
    """Upright 8-bit RGB, or grey: EXIF rotation applied, transparency dropped, 16 bits scaled to 8.

    Tensors and arrays become what a file of the same picture becomes: see `pixels.picture_of`. Raises
    TypeError for anything else, ValueError for those that are no picture, and for images without pixels, with
    floating-point ones or with 16-bit ones that are nearly black."""
    if not isinstance(image, Image.Image):
        image = picture_of(image)
    if 0 in image.size:
        raise ValueError(f"an image of {image.width}x{image.height} pixels has none")
    if image.mode == "F":  # PIL's own conversion makes 0..1 black
        raise ValueError("floating-point pixels, of an unknown range, expected 8 or 16 bits per channel")
    image = upright(image)
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would clip it to 255
        image = Image.fromarray(from_16_bits(np.asarray(image, np.int64)))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def central_square(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The middle of an image as evaluation sees it, `size` x `size` pixels."""
    side = preprocessing.crop * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    size = (preprocessing.size, preprocessing.size)
    return image.resize(size, resample, box=(left, top, left + side, top + side))
