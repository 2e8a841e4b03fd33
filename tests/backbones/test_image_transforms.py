"""`backbones.transforms` shows a network what `classification` showed it."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import create, transforms
from backbones.pictures import as_picture
from classification.config import ImageDataConfig
from classification.data import open_images
from classification.decoded_images import DecodedImages
from classification.evaluation import evaluation_loader
from classification.module import normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(**changes):
    net = create("nasnet_a_mobile", 2, cells_per_stage=1, filters=8, stem_filters=4, image_size=32)
    net.preprocessing = dataclasses.replace(net.preprocessing, mean=MEAN, std=STD, **changes)
    return net


def photograph(height, width, seed=0):
    """Smooth colours with noise, so that filters, crops and channels all matter."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    smooth = np.stack([rows, columns, (rows + columns) / 2], axis=-1) * 200
    return Image.fromarray((smooth + generator.uniform(0, 55, smooth.shape)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Class folders of pictures of every shape and kind; returns the configuration that reads them.

    Square, or beyond the aspect ratios of `training_crop`: a crop of all of others may lack a line.
    """
    pictures = {
        "wide.png": photograph(40, 90),
        "high.jpg": photograph(77, 33),
        "small.png": photograph(7, 12),
        "exact.png": photograph(32, 32),
        "grey.png": photograph(50, 50).convert("L"),
        "palette.gif": photograph(50, 30).convert("P"),
        "transparent.png": photograph(50, 30).convert("RGBA"),
        "deep.png": Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 28),
    }
    for split in ("train", "test"):
        (tmp_path / split / "all").mkdir(parents=True)
        for name, picture in pictures.items():
            picture.save(tmp_path / split / "all" / name)
        turned = Image.Exif()
        turned[0x0112] = 6
        photograph(40, 60).save(tmp_path / split / "all" / "turned.jpg", exif=turned)
    return ImageDataConfig(name="imagefolder", root=str(tmp_path))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_a_file_becomes_the_tensor_that_evaluation_computes_from_it(folder, crop, interpolation):
    net = network(crop=crop, interpolation=interpolation)
    images = open_images(folder, "test")
    loader = evaluation_loader(images, folder, net.preprocessing, torch.device("cpu"), batch_size=len(images))
    (batch,) = [normalise(pixels, net.preprocessing) for pixels, _ in loader]
    transform = transforms(net)
    for path, expected in zip(images.images, batch, strict=True):
        tensor = transform(Image.open(path.decode()))
        assert torch.equal(tensor, expected), path
        assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 32, 32))


def test_small_pictures_are_seen_as_the_resident_ones_are():
    """Digits of 8 px. Kept in memory they are resized in float; here rows and columns are each rounded."""
    net = network(crop=1.0)
    config = ImageDataConfig(test_limit=20)
    images = open_images(config, "test")
    (batch, _), *_ = evaluation_loader(images, config, net.preprocessing, torch.device("cpu"), batch_size=20)
    tensors = torch.stack([transforms(net)(images.image(index)) for index in range(20)])
    two_roundings = 2 * 0.5 / 255 / min(STD)
    torch.testing.assert_close(tensors, batch, rtol=0, atol=two_roundings)

    net.preprocessing = dataclasses.replace(net.preprocessing, size=8)
    (batch, _), *_ = evaluation_loader(images, config, net.preprocessing, torch.device("cpu"), batch_size=20)
    tensors = torch.stack([transforms(net)(images.image(index)) for index in range(20)])
    torch.testing.assert_close(tensors, batch)


def test_the_central_square_is_what_remains():
    """A white square of 3/4 of the shorter side in the middle, all else black: white alone is seen."""
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[10:70, 50:110] = 255
    seen = transforms(network(crop=0.75, interpolation="nearest"))(Image.fromarray(pixels))
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(seen, expected.view(3, 1, 1).expand(3, 32, 32))


def test_training_takes_the_picture_and_the_colours_that_classification_takes(folder):
    """Of all of a picture, which leaves nothing to chance with these shapes."""
    net = network()
    images = open_images(folder, "train")
    whole = DecodedImages(images, net.preprocessing, train=True, area_min=1.0, flip=False)
    transform = transforms(net, train=True, area_min=1.0, flip=False)
    for index in range(len(images)):
        expected = torch.from_numpy(whole[(0, index)][0].copy()).permute(2, 0, 1)
        actual = transform(images.image(index))
        one_step = 1 / 255 / min(STD)  # of 255, by rounding
        torch.testing.assert_close(
            actual, normalise(expected, net.preprocessing), rtol=0, atol=1.01 * one_step
        )


def test_training_varies_and_its_limits_can_be_set():
    picture, net = photograph(60, 60), network()
    assert not torch.equal(transforms(net, train=True)(picture), transforms(net, train=True)(picture))
    whole = transforms(net, train=True, area_min=1.0, flip=False)(picture)
    torch.testing.assert_close(whole, transforms(network(crop=1.0))(picture), atol=0.1, rtol=0)


def test_tensors_are_pictures_too():
    picture = photograph(50, 70)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    transform = transforms(network())
    expected = transform(picture)
    assert torch.equal(transform(pixels), expected)
    for dtype in (torch.float64, torch.float32, torch.float16):
        assert torch.equal(transform((pixels / 255).to(dtype)), expected), dtype
    assert torch.equal(transform(pixels[:1]), transform(picture.getchannel(0)))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32, torch.float64])
def test_a_tensor_of_16_bits_becomes_what_its_file_becomes(tmp_path, dtype):
    levels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "levels.png")
    tensor = torch.from_numpy(levels)[None]
    if dtype.is_floating_point:
        tensor = tensor.to(dtype) / 65535
    with Image.open(tmp_path / "levels.png") as file:
        assert (np.asarray(as_picture(file)) == np.asarray(as_picture(tensor))).all()


@pytest.mark.parametrize("level", [0, 256])
def test_16_bits_may_be_black_or_dark(level):
    assert np.asarray(as_picture(np.full((4, 5), level, np.uint16))).max() == level // 257


def test_sixteen_bits_of_a_file_are_scaled_and_black_stays_black():
    white = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    assert np.asarray(as_picture(white, grey=True)).tolist() == [[0, 1, 255]]
    black = Image.fromarray(np.zeros((2, 3), np.uint16))
    assert not np.asarray(as_picture(black)).any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float64", "float32", "float16"])
def test_arrays_are_pictures_too(dtype):
    picture = photograph(50, 70)
    pixels = np.asarray(picture)
    scale = {"u": 257 if np.dtype(dtype).itemsize == 2 else 1, "f": 1 / 255}[np.dtype(dtype).kind]
    array = (pixels * np.float64(scale)).astype(dtype)
    assert (np.asarray(as_picture(array)) == pixels).all()
    assert (np.asarray(as_picture(array[:, :, :1], grey=True)) == pixels[:, :, 0]).all()
    assert (np.asarray(as_picture(array[:, :, 0], grey=True)) == pixels[:, :, 0]).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((40, 50, 3), 255, np.uint16), "16-bit pixels of at most 255, which is nearly black"),
        (torch.full((3, 40, 50), 255, dtype=torch.uint16), "16-bit pixels of at most 255, which is nearly"),
        (Image.fromarray(np.full((40, 50), 255, np.uint16)), "16-bit pixels of at most 255, which is nearly"),
        (
            Image.fromarray(np.full((40, 50), 7, np.int32)),
            "16-bit pixels of at most 7, which is nearly black",
        ),
        (torch.zeros(3, 40, 50, device="meta"), "a tensor on the device meta has no values, expected one"),
        (torch.zeros(3, 40, 50).to_sparse(), r"a sparse tensor \(torch.sparse_coo\), expected a dense one"),
        (torch.zeros(2, 40, 50), r"a tensor of shape \(2, 40, 50\) is no picture, expected \[3, H, W\]"),
        (torch.zeros(1, 3, 40, 50), r"a tensor of shape \(1, 3, 40, 50\) is no picture"),
        (torch.zeros(40, 50, 3), r"a tensor of shape \(40, 50, 3\) is no picture"),
        (
            np.zeros((3, 40, 50), np.uint8),
            r"an array of shape \(3, 40, 50\) is no picture, expected \[H, W, 3\]",
        ),
        (torch.zeros(3, 0, 50), r"a tensor of shape \(3, 0, 50\) has no pixels"),
        (
            torch.full((3, 4, 5), 255.0),
            r"floating-point pixels in 255\.\.255, expected 0\.\.1: give uint8, div",
        ),
        (np.linspace(-2, 2.5, 60).reshape(4, 5, 3), r"pixels in -2\.\.2\.5, expected 0\.\.1"),
        (torch.tensor([[0.0, torch.nan]]), "pixels that are not finite"),
        (np.array([[0.0, -np.inf]]), "pixels that are not finite"),
        (
            torch.zeros(3, 4, 5, dtype=torch.int64),
            "pixels of int64, expected uint8, a float in 0..1, or uint16",
        ),
        (np.zeros((4, 5), bool), "pixels of bool, expected uint8"),
    ],
)
def test_pixels_without_a_clear_meaning_are_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        as_picture(pixels)


@pytest.mark.parametrize("thing", [None, 3, [[0, 1]], "photo.jpg"])
def test_what_has_no_pixels_is_of_the_wrong_type(thing):
    with pytest.raises(TypeError, match=f"expected a PIL image, a tensor .* not {type(thing).__name__}$"):
        as_picture(thing)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="an image of 0x5 pixels has none"):
        as_picture(Image.new("RGB", (0, 5)))


def test_floats_just_beyond_1_are_1():
    assert np.asarray(as_picture(torch.full((3, 4, 5), 1.0001))).min() == 255


def of_channels(in_channels):
    size = {"cells_per_stage": 1, "filters": 8, "stem_filters": 4, "image_size": 32}
    return create("nasnet_a_mobile", 2, in_channels=in_channels, **size)


def test_the_number_of_channels_is_the_networks():
    white = transforms(of_channels(1))(Image.new("RGB", (40, 40), "white"))
    assert torch.equal(white, torch.ones(1, 32, 32))  # 0.5 is the mean and the deviation of a fresh network
    with pytest.raises(ValueError, match=r"the network reads 4 channels; pictures have 1 \(grey\) or 3"):
        transforms(of_channels(4))


def test_a_transform_travels_to_the_workers_of_a_loader():
    transform = pickle.loads(pickle.dumps(transforms(network())))
    assert torch.equal(transform(photograph(40, 50)), transforms(network())(photograph(40, 50)))
