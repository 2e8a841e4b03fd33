"""How large a training on own class folders is, by their number and the device: `experiment=own_classes`."""

from dataclasses import dataclass

WITHOUT_DATA = 200
"""Images that are assumed where the data cannot be opened, which the training then tells."""


@dataclass(frozen=True)
class Sizes:
    """The values of the keys of the same names in the groups `backbone`, `data` and `recipe`."""

    epochs: int
    batch_size: int
    lr: float
    warmup_epochs: float
    image_size: int
    cells_per_stage: int
    filters: int
    workers: int


def own_classes(
    images: int, *, cuda: bool, batch_size: int | None = None, epochs: int | None = None
) -> Sizes:
    """images: for training. batch_size, epochs: what the user wants. None: what suits the device.

    The epochs, 5 to 200, make about 600 steps on a CPU and 6,000 on a GPU. The rate is 0.05 for 32 images per
    step, and rises with the batch."""
    largest = 128 if cuda else 32
    batch = batch_size or max(1, min(largest, images // 4))
    per_epoch = max(1, images // batch)
    epochs = epochs or min(max((6000 if cuda else 600) // per_epoch, 5), 200)
    rate = 0.05 * batch / 32
    if cuda:
        return Sizes(epochs, batch, rate, 0.05 * epochs, 224, 4, 44, 8)
    return Sizes(epochs, batch, rate, 0.05 * epochs, 96, 2, 24, 1)
