"""Boxes and their names on a picture."""

import numpy as np
import pytest
from PIL import Image

from detection.evaluation.draw import colour, draw_boxes

GREY = (128, 128, 128)


def painted(size, box, text, label=0):
    """Mask `[H, W]` of what was drawn."""
    drawn = draw_boxes(Image.new("RGB", size, GREY), [box], [label], [text])
    assert drawn.size == size
    return (np.asarray(drawn) != GREY).any(axis=2)


@pytest.mark.parametrize("width", [640, 960, 4000])
def test_a_name_is_as_large_in_every_picture_shown_at_960_px(width):
    height = width * 3 // 4
    mask = painted((width, height), [width * 0.25, height * 0.5, width * 0.75, height * 0.9], "cup 0.40")
    rows = np.flatnonzero(mask.any(axis=1))
    label = (height * 0.5 - rows[0]) * 960 / width
    assert 14 <= label <= 26


@pytest.mark.parametrize(
    "box", [[560, 200, 638, 400], [0, 0, 90, 90], [600, 0, 640, 480], [200, 5, 300, 90], [200, 12, 420, 200]]
)
def test_a_name_stays_within_the_picture(box):
    def label(box):
        return (painted((640, 480), box, "traffic light 0.88") & ~painted((640, 480), box, "")).sum()

    assert label(box) > 0.9 * label([100, 100, 300, 300])


def test_letters_stand_out_from_their_ground():
    def brightness(rgb):
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    for label in range(30):
        drawn = draw_boxes(Image.new("RGB", (960, 720), GREY), [[100, 100, 300, 300]], [label], ["MMMM"])
        found = {tuple(rgb) for rgb in np.asarray(drawn)[80:100, 100:160].reshape(-1, 3).tolist()}
        ink = (0, 0, 0) if (0, 0, 0) in found else (255, 255, 255)
        assert ink in found
        light, dark = sorted((brightness(ink), brightness(colour(label))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, label
