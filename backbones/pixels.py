"""Pictures of tensors and arrays, as a file of the same picture would give them.

Letters: H W pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OVERSHOOT = 1e-3
"""How far floats may lie outside of 0..1: arithmetic rounds."""


def picture_of(pixels: Any) -> Image.Image:
    """An 8-bit picture of a tensor `[3, H, W]` or an array `[H, W, 3]`.

    Instead of the 3 channels of RGB there may be 4 with alpha, 1 of grey, or no axis of channels. The pixels
    are uint8, uint16 (scaled to 8 bits), or floats in 0..1.

    Raises TypeError for anything but a tensor or an array, ValueError for another shape or type, and for
    floats outside of 0..1 or not finite, for 16-bit pixels that are nearly black, and for tensors without
    values (meta) or without an array of them (sparse)."""
    if isinstance(pixels, np.ndarray):
        _check_shape("an array", pixels.shape, pixels.shape[2:], "[H, W, 3] or [H, W]")
        rounding = np.finfo(pixels.dtype).eps if pixels.dtype.kind == "f" else 0.0
        levels = _eight_bits(pixels, float(rounding))
    else:
        levels = _of_tensor(pixels)
    return Image.fromarray(np.ascontiguousarray(levels[:, :, 0] if levels.shape[2:] == (1,) else levels))


def from_16_bits(pixels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The 8-bit levels of 16-bit pixels, of which 65535 is white.

    Raises ValueError where all are below 256 but not 0: levels of 8 bits, most likely, stored as they are."""
    if 0 < pixels.max() < 256:
        raise ValueError(
            f"16-bit pixels of at most {pixels.max()}, which is nearly black, as 65535 is white: "
            "give 8-bit pixels where 255 is white"
        )
    return (pixels // 257).clip(0, 255).astype(np.uint8)


def _of_tensor(tensor: Any) -> NDArray[np.uint8]:
    """`[H, W, channels]`."""
    import torch  # not before it is used: commands that look at files alone start without it

    if not isinstance(tensor, torch.Tensor):
        raise TypeError(
            f"expected a PIL image, a tensor [3, H, W] or an array [H, W, 3], not {type(tensor).__name__}"
        )
    if tensor.is_meta:
        raise ValueError("a tensor on the device meta has no values, expected one on the CPU or a GPU")
    if tensor.layout != torch.strided:
        raise ValueError(f"a sparse tensor ({tensor.layout}), expected a dense one: call its to_dense()")
    _check_shape("a tensor", tuple(tensor.shape), tuple(tensor.shape[:-2]), "[3, H, W] or [1, H, W]")
    tensor, rounding = tensor.detach().cpu(), 0.0
    if tensor.is_floating_point():
        rounding = torch.finfo(tensor.dtype).eps
        tensor = tensor.double()  # NumPy has no bfloat16
    return _eight_bits((tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy(), rounding)


def _check_shape(what: str, shape: tuple[int, ...], channels: tuple[int, ...], form: str) -> None:
    if len(shape) not in (2, 3) or channels not in ((), (1,), (3,), (4,)):
        raise ValueError(f"{what} of shape {shape} is no picture, expected {form}")
    if 0 in shape:
        raise ValueError(f"{what} of shape {shape} has no pixels")


def _eight_bits(pixels: NDArray[Any], rounding: float) -> NDArray[np.uint8]:
    """rounding: distance between 1 and the next number of the type that the pixels had."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # of either order of bytes
        return from_16_bits(pixels)
    if pixels.dtype.kind != "f":
        raise ValueError(f"pixels of {pixels.dtype}, expected uint8, a float in 0..1, or uint16")
    if not np.isfinite(pixels).all():
        raise ValueError("pixels that are not finite, expected floats in 0..1")
    least, most = float(pixels.min()), float(pixels.max())
    if least < -OVERSHOOT or most > 1 + OVERSHOOT:
        raise ValueError(
            f"floating-point pixels in {least:.4g}..{most:.4g}, expected 0..1: give uint8, divide by 255, or "
            "undo a normalisation"
        )
    # What lies between two levels is cut, as of 16-bit files, but not what the type itself has rounded.
    return (255 * pixels.astype(np.float64).clip(0, 1) + min(0.5, 255 * rounding)).astype(np.uint8)
