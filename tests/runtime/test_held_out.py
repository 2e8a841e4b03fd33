"""Images held out by their names."""

import numpy as np
import pytest

from runtime.held_out import held_out

NAMES = [f"photo {i}.jpg" for i in range(100)]


def chosen(names, *more, **options):
    return {name for name, out in zip(names, held_out(names, *more, **options), strict=True) if out}


def test_the_same_images_in_any_order_and_others_by_another_seed():
    assert len(chosen(NAMES, 0.2, 0)) == 20
    assert chosen(NAMES, 0.2, 0) == chosen(NAMES[::-1], 0.2, 0) != chosen(NAMES, 0.2, 1)


def test_images_stay_held_out_when_others_are_added():
    before, after = chosen(NAMES[:90], 0.2, 0), chosen(NAMES, 0.2, 0)
    assert len(before - after) <= 2  # their share of the 18 falls by the 10 new ones, of which 2 are held out
    assert len(after & set(NAMES[90:])) == len(after) - len(before & after)


def test_each_group_gives_its_share():
    groups = np.repeat([0, 1, 2], [70, 20, 10]).tolist()
    out = held_out(NAMES, 0.2, 3, groups)
    assert np.bincount(groups, out).tolist() == [14, 4, 2]
    rounded = held_out(NAMES[:14], 0.5, 0, [0] * 7 + [1] * 7)
    assert np.bincount([0] * 7 + [1] * 7, rounded).tolist() == [4, 3]


@pytest.mark.parametrize(("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (5, 0.999, 4)])
def test_there_is_one_and_never_all(count, fraction, expected):
    assert held_out(NAMES[:count], fraction, 0).sum() == expected


def test_one_image_cannot_be_split():
    with pytest.raises(ValueError, match=r"^1 image, expected at least 2 to split$"):
        held_out(["a"], 0.2, 0)
