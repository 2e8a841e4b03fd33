"""Boxes drawn on a picture."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

LINES = 48
"""Heights of a letter in the longer side of a picture: 20 px of 960."""
LEAST_TEXT = 10
"""Height of a letter in pixels, of small pictures."""
MIDDLE = 0.18
"""Brightness from which black is read more easily than white."""


def colour(label: int) -> tuple[int, int, int]:
    """A bright colour per label; neighbours differ by the golden angle in hue."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.381966 % 1, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[int], texts: Sequence[str]
) -> Image.Image:
    """A copy of the picture with xyxy boxes in pixels and a text above each, the last box on top.

    Texts and lines grow with the picture, so that they are read at whatever size it is shown."""
    drawn = picture.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    side = max(drawn.size)
    font, margin = ImageFont.load_default(max(LEAST_TEXT, side / LINES)), max(1, side // 480)
    for box, label, text in zip(boxes, labels, texts, strict=True):
        paint = colour(label)
        canvas.rectangle(tuple(box), outline=paint, width=max(2, side // 320))
        _, _, width, height = canvas.textbbox((0, 0), text, font=font, anchor="lt")
        width, height = width + 2 * margin, height + 2 * margin
        left = max(0, min(box[0], drawn.width - width))
        top = box[1] - height if box[1] >= height else box[1]  # no room above: inside the box
        canvas.rectangle((left, top, left + width, top + height), fill=paint)
        ink = "black" if _brightness(paint) > MIDDLE else "white"
        canvas.text((left + margin, top + margin), text, fill=ink, font=font, anchor="lt")
    return drawn


def _brightness(colour: tuple[int, int, int]) -> float:
    """Relative luminance, 0..1. Source: WCAG 2.2."""
    parts = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def draw_detection(picture: Image.Image, detection: Mapping[str, Any]) -> Image.Image:
    """The picture with everything found in it, the best on top. detection: a `Detection`, or arrays."""
    texts = [f"{n} {s:.2f}" for n, s in zip(detection["names"], detection["scores"].tolist(), strict=True)]
    boxes, labels = detection["boxes"].tolist(), detection["labels"].tolist()
    return draw_boxes(picture, boxes[::-1], labels[::-1], texts[::-1])
