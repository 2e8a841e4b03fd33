"""Batches from memory and from files: augmentation is right, and a function of (seed, epoch, index)."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms import RandomResizedCrop

from backbones.image_transforms import normalise
from backbones.pictures import central_square
from backbones.spec import Preprocessing
from classification.config import ImageDataConfig
from classification.crops import draw_crop, training_pixels
from classification.data import ImageSet, open_images
from classification.decoded_images import (
    DecodedImages,
    draw_jitter,
    jittered,
    stack,
)
from classification.device_images import DeviceImages
from runtime.loading import ResumableLoader

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def device_images(count=40, side=8, **options):
    images = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return images, DeviceImages(
        images.to(torch.uint8),
        torch.arange(count),
        **{"mean": MEAN, "std": STD, "crop_padding": 2, **options},
    )


def normalised(images):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


def test_crop_and_flip_equal_those_of_each_image_alone():
    images, resident = device_images()
    index = np.array([3, 17, 17, 0, 39])
    batch, labels = resident.batch(index, epoch=5, seed=1, train=True)
    top, left, flipped = resident.crops(index, epoch=5, seed=1)
    for row, i in enumerate(index):
        padded = functional.pad(images[i], (2, 2, 2, 2))
        crop = padded[:, top[row] : top[row] + 8, left[row] : left[row] + 8]
        torch.testing.assert_close(batch[row], normalised(crop.flip(2) if flipped[row] else crop))
    assert labels.tolist() == index.tolist()
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_every_corner_and_both_directions_come_equally_often():
    _, resident = device_images(side=4)
    top, left, flipped = resident.crops(np.arange(50_000), epoch=0, seed=0)
    counts = np.bincount(top * 5 + left, minlength=25)
    # 2,000 expected, standard deviation sqrt(50,000 * 1/25 * 24/25) = 44; 5 of them.
    assert abs(counts - 2000).max() < 220
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / 50_000**0.5
    assert abs(np.corrcoef([top, left, flipped]) - np.eye(3)).max() < 5 / 50_000**0.5


def test_augmentation_does_not_depend_on_the_rest_of_the_batch():
    _, resident = device_images(cutout=4)
    whole, _ = resident.batch(np.arange(40), epoch=2, seed=7, train=True)
    alone, _ = resident.batch([23], epoch=2, seed=7, train=True)
    assert torch.equal(whole[23], alone[0])
    assert not torch.equal(whole, resident.batch(np.arange(40), epoch=3, seed=7, train=True)[0])
    assert not torch.equal(whole, resident.batch(np.arange(40), epoch=2, seed=8, train=True)[0])


def test_evaluation_sees_whole_images_in_their_own_orientation():
    images, resident = device_images(cutout=4)
    batch, _ = resident.batch(np.arange(40), epoch=0, seed=0, train=False)
    torch.testing.assert_close(batch, normalised(images))


def test_no_flip_means_no_flip():
    _, resident = device_images(flip=False)
    assert not resident.crops(np.arange(1000), epoch=0, seed=0)[2].any()


def test_resizing_is_bilinear():
    images, resident = device_images(size=16)
    batch, _ = resident.batch([4], epoch=0, seed=0, train=False)
    expected = functional.interpolate(images[4:5].float(), size=16, mode="bilinear", align_corners=False)
    torch.testing.assert_close(batch[0], normalised(expected[0]))


def test_cutout_blanks_one_square_that_may_stick_out():
    images = torch.full((500, 3, 8, 8), 200, dtype=torch.uint8)
    resident = DeviceImages(images, torch.zeros(500, dtype=torch.long), crop_padding=0, cutout=4)
    holes = (resident.batch(np.arange(500), epoch=0, seed=0, train=True)[0] == 0).all(dim=1)
    areas = holes.sum(dim=(1, 2))
    assert areas.max() == 16
    # A centre in 0..7 leaves 2, 3, 4, 4, 4, 4, 4, 3 of the 4 rows inside: mean 3.5, so 12.25 of 16 pixels.
    assert abs(areas.float().mean() - 3.5**2) < 0.5
    sides = holes.any(dim=1).sum(dim=1) * holes.any(dim=2).sum(dim=1)
    assert torch.equal(sides, areas)


def test_resident_images_must_be_squares_of_one_size(tmp_path):
    arrays = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    files = np.array([str(tmp_path / f"{i}.png").encode() for i in range(2)])
    images = ImageSet("pets", ["cat"], np.zeros(2, np.int64), files)
    with pytest.raises(ValueError, match="pets: image 1 has 6 x 4 pixels, the first one 4 x 4"):
        DeviceImages.from_images(images, None, "cpu")


def decoded(root, **options):
    images = open_images(ImageDataConfig(name="imagefolder", root=str(root)), "train")
    return DecodedImages(images, Preprocessing(12), **{"train": True, "seed": 3, **options})


def distance(first, second):
    """Of two samples: the largest difference of their distribution functions (Kolmogorov, Smirnov)."""
    both = np.sort(np.concatenate([first, second]))
    shares = [
        np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (first, second)
    ]
    return abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize("size", [(341, 256), (256, 341), (500, 500), (700, 90), (12, 9), (1, 1)])
def test_crops_are_distributed_as_torchvisions(size):
    count = 3000
    ours = [draw_crop(size, 0.08, True, seed=5, epoch=2, index=index) for index in range(count)]
    image = torch.empty(3, size[1], size[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)]
    ours = np.array([(crop.top, crop.left, crop.height, crop.width) for crop in ours], float)
    theirs = np.array(theirs, float)
    for of in (
        *(lambda crops, i=i: crops[:, i] for i in range(4)),
        lambda crops: crops[:, 2] * crops[:, 3],
        lambda crops: crops[:, 3] / crops[:, 2],
        lambda crops: crops[:, 0] + crops[:, 2],
        lambda crops: crops[:, 1] + crops[:, 3],
    ):
        # Two samples of n of one distribution are further apart than 2.23 sqrt(2 / n) once in 10,000 times.
        assert distance(of(ours), of(theirs)) < 2.23 * (2 / count) ** 0.5


def test_crops_are_mirrored_half_of_the_time_or_never():
    flipped = [draw_crop((50, 40), 0.08, True, seed=0, epoch=0, index=i).flipped for i in range(3000)]
    assert abs(np.mean(flipped) - 0.5) < 5 * 0.5 / 3000**0.5
    assert not any(draw_crop((50, 40), 0.08, False, seed=0, epoch=0, index=i).flipped for i in range(100))


PLACE = {"seed": 0, "epoch": 0}


def noise(width, height, grain=8):
    coarse = np.random.default_rng(0).integers(0, 256, (height // grain, width // grain, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [16, 64])
def test_a_training_crop_has_the_pixels_that_pillow_computes_of_it(size, interpolation):
    picture = noise(120, 80)
    for index in range(20):
        crop = draw_crop(picture.size, 0.05, True, **PLACE, index=index)
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        expected = picture.crop(box).resize((size, size), Image.Resampling[interpolation.upper()])
        if crop.flipped:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        preprocessing = Preprocessing(size, interpolation=interpolation)
        pixels = training_pixels(picture, preprocessing, 0.05, True, **PLACE, index=index)
        # Each of the two passes rounds, and PyTorch's weights have fewer digits.
        np.testing.assert_allclose(
            pixels, np.asarray(expected, float), rtol=0, atol=2 if interpolation == "bicubic" else 1
        )


def test_a_large_jpeg_file_is_decoded_at_the_scale_that_the_crop_allows(tmp_path):
    path = tmp_path / "large.jpg"
    noise(1000, 760, grain=40).save(path, quality=95)
    scales = []
    for index in range(40):
        with Image.open(path) as file:
            crop = draw_crop(file.size, 0.05, False, **PLACE, index=index)
            pixels = training_pixels(file, Preprocessing(90), 0.05, False, **PLACE, index=index)
            scales.append(round(1000 / file.width))
        short = min(crop.width, crop.height)
        assert scales[-1] == max(scale for scale in (1, 2, 4, 8) if scale == 1 or short >= 90 * scale)
        with Image.open(path) as whole:
            box = np.array((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
            box = np.rint(box / scales[-1]) * scales[-1]  # whole pixels of the reduced image
            expected = whole.crop(box.astype(int).tolist()).resize((90, 90), Image.Resampling.BILINEAR)
        assert abs(pixels - np.asarray(expected, float)).mean() < 1
    assert set(scales) == {2, 4, 8}


@pytest.mark.parametrize("side", [12, 100])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_training_crop_of_a_turned_photograph_stands_upright(tmp_path, orientation, side):
    """Upright, red rises to the right and green to the bottom. At 12 px the file is decoded reduced."""
    rows, columns = np.mgrid[0:240, 0:320]
    upright = Image.fromarray(np.stack([columns * 0.75, rows, 0 * rows], -1).astype(np.uint8))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # shown turned clockwise, so stored turned the other way
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    picture = upright if orientation == 1 else upright.transpose(stored[orientation])
    picture.save(path, exif=exif, quality=95)
    for index in range(10):
        with Image.open(path) as file:
            crop = draw_crop(file.size, 0.05, False, **PLACE, index=index)
            pixels = training_pixels(file, Preprocessing(side), 0.05, False, **PLACE, index=index)
        across, down = (
            np.diff(pixels[..., 0].mean(0, dtype=float)),
            np.diff(pixels[..., 1].mean(1, dtype=float)),
        )
        width, height = (crop.width, crop.height) if orientation < 5 else (crop.height, crop.width)
        assert across.mean() * side == pytest.approx(0.75 * width, rel=0.12, abs=4)
        assert down.mean() * side == pytest.approx(height, rel=0.12, abs=4)


def test_color_jitter_is_inceptions():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    pixels[0, :3] = [[0, 0, 0], [255, 255, 255], [90, 90, 90]]
    shift, factor = -0.1, 1.4

    def saturated(rgb):
        h, s, v = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb(h, min(factor * s, 1), v)

    first = np.apply_along_axis(saturated, -1, pixels / 255) + shift
    found = jittered(pixels, shift, factor, False)
    np.testing.assert_allclose(found / 255, first.clip(0, 1), atol=0.51 / 255)
    bright = np.maximum(pixels, 26)  # else a channel falls below 0, for which HSV has no colour
    second = np.apply_along_axis(saturated, -1, bright / 255 + shift)
    np.testing.assert_allclose(
        jittered(bright, shift, factor, True) / 255, second.clip(0, 1), atol=0.51 / 255
    )


def test_color_jitter_is_drawn_by_seed_epoch_and_index(digit_folders):
    shifts, factors, orders = np.array([draw_jitter(0, 3, i) for i in range(4000)]).T
    # Uniform: mean within five standard errors, the whole range used.
    for values, low, high in ((shifts, -32 / 255, 32 / 255), (factors, 0.5, 1.5), (orders, 0, 1)):
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / 2 / 4000**0.5
        assert low <= values.min() < low + 0.01 * (high - low) + 1e-9
        assert high - 0.01 * (high - low) - 1e-9 < values.max() <= high
    assert draw_jitter(0, 3, 1) != draw_jitter(0, 4, 1) != draw_jitter(1, 4, 1)

    plain, colored = decoded(digit_folders), decoded(digit_folders, color_jitter=True)
    before, after = plain[(2, 5)][0], colored[(2, 5)][0]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, jittered(before, *draw_jitter(3, 2, 5)))
    shown = decoded(digit_folders, color_jitter=True, train=False)[(0, 5)][0]
    assert np.array_equal(shown, decoded(digit_folders, train=False)[(0, 5)][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_decoded_images_are_augmented_by_seed_epoch_and_index(digit_folders, workers):
    dataset = decoded(digit_folders)
    torch.manual_seed(workers)
    loader = ResumableLoader(dataset, 7, seed=0, shuffle=False, workers=workers, collate=stack)
    images, labels = next(iter(loader))
    expected = [dataset[(0, index)] for index in range(7)]
    assert np.array_equal(images.permute(0, 2, 3, 1), np.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]
    assert images.is_contiguous(memory_format=torch.channels_last)
    for other in (dataset[(1, 0)], decoded(digit_folders, seed=4)[(0, 0)], dataset[(0, 1)]):
        assert not np.array_equal(expected[0][0], other[0])


def test_evaluation_takes_the_central_square():
    # Columns of a 10 x 6 image hold their number; 2/3 of the short side is 4 px: columns 3..6.
    ramp = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, :, None], (6, 10, 3))
    square = central_square(Image.fromarray(ramp.copy()), Preprocessing(4, crop=2 / 3))
    assert np.asarray(square)[:, :, 0].tolist() == [[3, 4, 5, 6]] * 4


def test_normalising_is_to_the_preprocessing_and_leaves_floats_alone():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    preprocessing = Preprocessing(4, mean=MEAN, std=STD)
    torch.testing.assert_close(normalise(images, preprocessing), normalised(images))
    channels_last = normalise(images.contiguous(memory_format=torch.channels_last), preprocessing)
    assert torch.equal(channels_last, normalise(images, preprocessing))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    floats = torch.rand(2, 3, 4, 4)
    assert normalise(floats, preprocessing) is floats


def test_pictures_of_any_shape_become_thumbnails_of_their_central_square():
    grey = np.full((30, 60, 3), 255, np.uint8)
    grey[:, 15:45] = np.linspace(0, 255, 30).astype(np.uint8)[None, :, None]
    pictures = np.empty(2, object)
    pictures[:] = [grey, grey.transpose(1, 0, 2)]
    wide_and_tall = ImageSet("two pictures", ["a"], np.zeros(2, np.int64), pictures)
    config = ImageDataConfig(name="imagefolder", root="unused", crop_padding=0, flip=False)
    thumbnails = DeviceImages.from_config(wide_and_tall, config, 10, "cpu")
    batch, _ = thumbnails.batch([0, 1], epoch=0, seed=0, train=False)
    ramp = torch.linspace(-1, 1, 30).view(10, 3).mean(dim=1)  # 3 pixels to 1, the white borders cut off
    # The outermost pixels see a little of the border: the filter is wider than a pixel.
    torch.testing.assert_close(batch[0, 0, 5, 1:-1], ramp[1:-1], atol=0.06, rtol=0)
    torch.testing.assert_close(batch[1, 0], batch[0, 0].T)
