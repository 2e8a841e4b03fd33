"""Boxes drawn on a picture."""

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from detection.detector import Detection


def colour(label: int) -> tuple[int, int, int]:
    """A bright colour per label; neighbours differ by the golden angle in hue."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.381966 % 1, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[int], texts: Sequence[str]
) -> Image.Image:
    """A copy of the picture with xyxy boxes in pixels and a text above each, the last box on top."""
    drawn = picture.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    side = max(drawn.size)
    font = ImageFont.load_default(max(9, side // 60))
    for box, label, text in zip(boxes, labels, texts, strict=True):
        canvas.rectangle(tuple(box), outline=colour(label), width=max(2, side // 320))
        left, top, right, bottom = canvas.textbbox((box[0], box[1]), text, font=font, anchor="lb")
        if top < 0:  # no room above: inside the box
            top, bottom = top + (bottom - top) + 1, bottom + (bottom - top) + 1
        canvas.rectangle((left, top, right, bottom), fill=colour(label))
        canvas.text((left, top), text, fill="black", font=font, anchor="lt")
    return drawn


def draw_detection(picture: Image.Image, detection: Detection) -> Image.Image:
    """The picture with everything found in it, the best on top."""
    texts = [f"{n} {s:.2f}" for n, s in zip(detection["names"], detection["scores"].tolist(), strict=True)]
    boxes, labels = detection["boxes"].tolist(), detection["labels"].tolist()
    return draw_boxes(picture, boxes[::-1], labels[::-1], texts[::-1])
