"""How large a training on own photographs is, by their number and the device: `experiment=own_photos`.

On a CPU the head is that of `experiment=bccd`, which learns 205 images in minutes. On a GPU it is that of
Detectron2.
"""

from dataclasses import dataclass

WITHOUT_DATA = 200
"""Images that are assumed where the data cannot be opened, which the training then tells."""


@dataclass(frozen=True)
class Sizes:
    """The values of the keys of the same names in the groups `data`, `recipe`, `detector` and `backbone`."""

    steps: int
    batch_size: int
    warmup_steps: int
    validate_every_steps: int
    min_sizes: list[int]
    test_min_size: int
    max_size: int
    workers: int
    cells_per_stage: int
    filters: int
    anchor_sizes: list[int]
    fpn_channels: int
    width: int
    proposals: int
    regions: int


def own_photos(
    images: int,
    *,
    cuda: bool,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
) -> Sizes:
    """images: for training. batch_size, steps, epochs: what the user wants. None: what suits the device.

    Steps: 12 passes on a CPU, 300..3,000 steps; 60 passes on a GPU, 1,000..18,000."""
    batch = batch_size or min(8 if cuda else 2, max(1, images))
    passes, least, most = (60, 1000, 18_000) if cuda else (12, 300, 3000)
    if steps is None and epochs is not None:
        steps = max(1, epochs * (images // batch))
    elif steps is None:
        steps = min(max(passes * images // batch, least), most)
    warmup, every = min(steps // 6, 1000), max(50, steps // 5)
    if cuda:
        sides = [480, 512, 544, 576, 608, 640]
        return Sizes(
            *(steps, batch, warmup, every, sides, 640, 1067, 8, 4, 44),
            *([32, 64, 128, 256, 512], 256, 1024, 1000, 512),
        )
    return Sizes(
        *(steps, batch, warmup, every, [288, 320, 352], 320, 533, 1, 2, 24),
        *([16, 32, 64, 128, 256], 64, 256, 250, 64),
    )
