import pytest

from detection.data.xywh import intersection, iou, share_inside


@pytest.mark.parametrize(
    ("a", "b", "common", "share", "union"),
    [
        ((0, 0, 4, 2), (2, 1, 4, 2), 2, 2 / 8, 14),
        ((1, 1, 2, 2), (0, 0, 10, 10), 4, 1.0, 100),
        ((0, 0, 10, 10), (1, 1, 2, 2), 4, 0.04, 100),
        ((5, 4, 3, 3), (5, 4, 3, 3), 9, 1.0, 9),
        ((0, 0, 2, 2), (2, 0, 2, 2), 0, 0.0, 8),  # side by side
        ((0, 0, 2, 2), (5, 5, 2, 2), 0, 0.0, 8),  # apart in both directions
        ((3, 3, 0, 2), (0, 0, 9, 9), 0, 0.0, 81),  # without area
    ],
)
def test_areas_are_those_of_the_picture_on_paper(a, b, common, share, union):
    assert intersection(a, b) == intersection(b, a) == common
    assert share_inside(a, b) == pytest.approx(share)
    assert iou(a, b) == iou(b, a) == pytest.approx(common / union)
