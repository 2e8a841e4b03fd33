"""Batches too small for batch normalisation are warned of."""

import pytest
import torch

from backbones.factory import create
from backbones.statistics import smallest_map, warn_of_few_values

SIZE = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4}


@pytest.mark.parametrize("name", ["nasnet_a_mobile", "nasnet_a_cifar", "timm/test_resnet"])
def test_the_smallest_map_is_the_networks_last(name):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    network = create(name, **({} if name.startswith("timm/") else SIZE | {"image_size": 64})).eval()
    last = network.feature_info[-1]
    for height, width in ((32, 64), (33, 65), (63, 96), (97, 130)):
        with torch.no_grad():
            found = network.features(torch.zeros(1, 3, height, width))
        assert smallest_map(network, height, width) == tuple(found[last.name].shape[2:])
        before = network.feature_info[-2]
        assert smallest_map(network, height, width, before.stride) == tuple(found[before.name].shape[2:])


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (2, 32, "sees 2 values per channel (2 images, a map of 1x1)"),
        (1, 32, "sees 1 value per channel (1 image, a map of 1x1)"),
        (3, 32, "take at least 4 images per pass"),
        (4, 32, None),
        (1, 64, None),  # 2x2
    ],
)
def test_fewer_than_four_values_are_warned_of(images, size, message, caplog):
    warn_of_few_values(create("nasnet_a_mobile", image_size=size, **SIZE), images, size, size)
    assert (message is None and not caplog.records) or message in caplog.text


def test_an_auxiliary_head_sees_one_value_per_image(caplog):
    network = create("nasnet_a_cifar", image_size=32, auxiliary=True, **SIZE)
    warn_of_few_values(network, 3, 32, 32)
    assert "sees 3 values per channel (3 images, a map of 1x1)" in caplog.text
