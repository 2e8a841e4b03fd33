"""Data sets: what is read, and what every mistake is answered with."""

import numpy as np
import pytest
from PIL import Image

from backbones.pictures import as_picture
from backbones.spec import Preprocessing
from classification.config import ImageDataConfig
from classification.data import open_images, stratified
from classification.decoded_images import DecodedImages
from runtime.pictures import decode


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def folders(root, layout):
    """layout: {"train/cat": 2} writes two 4x4 images into that folder."""
    for name, count in layout.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            write(root / name / f"{i}.png", Image.new("RGB", (4, 4), (i, 0, 0)))
    return ImageDataConfig(name="imagefolder", root=str(root))


def test_digits_have_a_fixed_stratified_split():
    pytest.importorskip("sklearn")
    train, test = open_images(ImageDataConfig(), "train"), open_images(ImageDataConfig(), "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.classes == [str(digit) for digit in range(10)]
    # 360 / 1797 of the 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 digits of scikit-learn.
    assert np.bincount(test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert (train.images.min(), train.images.max()) == (0, 255)


def test_class_folders_are_sorted_and_other_files_ignored(tmp_path):
    config = folders(tmp_path, {"train/dog": 1, "train/cat": 2, "val/cat": 1, "val/dog": 1})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "._0.png").write_text("no image")
    train = open_images(config, "train")
    assert train.classes == ["cat", "dog"]
    assert train.labels.tolist() == [0, 0, 1]
    assert [train.image(i).getpixel((0, 0)) for i in range(3)] == [(0, 0, 0), (1, 0, 0), (0, 0, 0)]
    assert len(open_images(config, "test")) == 2  # `val`, where there is no `test`


def test_a_limit_keeps_the_classes_proportions_and_depends_on_its_seed():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified(labels, 10, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [6, 3, 1]
    assert chosen.tolist() == sorted(set(chosen))
    assert chosen.tolist() == stratified(labels, 10, seed=0).tolist()
    assert chosen.tolist() != stratified(labels, 10, seed=1).tolist()


def grey16():
    return Image.fromarray(np.full((6, 9), 0x80FF, np.uint16))


def turned(**options):
    """What to save a picture with that is to be shown turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif, **options}


TWO = {"save_all": True, "append_images": [Image.new("RGB", (9, 6))]}
"""Two pictures in a file, of which the first counts."""
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 6\n%%EndComments\nshowpage\n"
"""Pillow would start Ghostscript for it, whatever the file's name."""

KINDS = [
    ("grey.png", Image.new("L", (9, 6), 7), {}, (7, 7, 7)),
    ("grey.jpg", Image.new("L", (9, 6), 7), {}, (7, 7, 7)),
    ("palette.png", Image.new("RGB", (9, 6), (9, 8, 7)).quantize(4), {}, (9, 8, 7)),
    ("palette.gif", Image.new("RGB", (9, 6), (9, 8, 7)).quantize(4), {}, (9, 8, 7)),
    ("see_through.png", Image.new("P", (9, 6), 0), {"transparency": 0}, (0, 0, 0)),
    ("alpha.png", Image.new("RGBA", (9, 6), (9, 8, 7, 0)), {}, (9, 8, 7)),
    ("alpha.webp", Image.new("RGBA", (9, 6), (9, 8, 7, 255)), {"lossless": True}, (9, 8, 7)),
    ("grey_alpha.png", Image.new("LA", (9, 6), (9, 0)), {}, (9, 9, 9)),
    ("grey16.png", grey16(), {}, (0x80, 0x80, 0x80)),
    ("grey16.tif", grey16(), {}, (0x80, 0x80, 0x80)),
    ("bits.png", Image.new("1", (9, 6), 1), {}, (255, 255, 255)),
    ("cmyk.tif", Image.new("CMYK", (9, 6), (0, 255, 255, 0)), {}, (255, 0, 0)),
    ("cmyk.jpg", Image.new("CMYK", (9, 6), (255, 255, 0, 0)), {"quality": 100}, (0, 0, 255)),
    ("turned.jpg", Image.new("RGB", (6, 9), (9, 9, 9)), turned(), (9, 9, 9)),
    ("turned.png", Image.new("RGB", (6, 9), (9, 8, 7)), turned(), (9, 8, 7)),
    ("turned.tif", Image.new("RGB", (6, 9), (9, 8, 7)), turned(), (9, 8, 7)),
    ("turned.webp", Image.new("RGB", (6, 9), (9, 8, 7)), turned(lossless=True), (9, 8, 7)),
    ("turned_grey.jpg", Image.new("L", (6, 9), 9), turned(), (9, 9, 9)),
    ("two.mpo", Image.new("RGB", (9, 6), (9, 9, 9)), TWO, (9, 9, 9)),
    ("phone.jpg", Image.new("RGB", (6, 9), (9, 9, 9)), turned(format="MPO", **TWO), (9, 9, 9)),
    ("plain.bmp", Image.new("RGB", (9, 6), (9, 8, 7)), {}, (9, 8, 7)),
    ("plain.ppm", Image.new("RGB", (9, 6), (9, 8, 7)), {}, (9, 8, 7)),
    ("plain.jp2", Image.new("RGB", (9, 6), (9, 8, 7)), {}, (9, 8, 7)),
    ("plain.avif", Image.new("RGB", (9, 6), (9, 9, 9)), {"quality": 100}, (9, 9, 9)),
    ("turned_cmyk.jpg", Image.new("CMYK", (6, 9), (255, 255, 0, 0)), turned(quality=100), (0, 0, 255)),
]


@pytest.mark.parametrize(("name", "image", "options", "expected"), KINDS, ids=[kind[0] for kind in KINDS])
def test_every_kind_of_image_becomes_upright_rgb(tmp_path, name, image, options, expected):
    """Alone, in evaluation and in training."""
    (tmp_path / "train" / "all").mkdir(parents=True)
    image.save(tmp_path / "train" / "all" / name, **options)
    decoded = decode(tmp_path / "train" / "all" / name)
    assert (decoded.mode, decoded.size) == ("RGB", (9, 6))
    np.testing.assert_allclose(np.asarray(decoded), np.broadcast_to(expected, (6, 9, 3)), atol=1)
    images = open_images(ImageDataConfig(name="imagefolder", root=str(tmp_path)), "train")
    for train in (False, True):
        pixels, label = DecodedImages(images, Preprocessing(4), train=train)[(0, 0)]
        assert (pixels.dtype, label) == (np.uint8, 0)
        np.testing.assert_allclose(pixels, np.broadcast_to(expected, (4, 4, 3)), atol=1)


@pytest.mark.parametrize("content", [b"", b"no image at all", EPS])
def test_an_unreadable_image_is_named(tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.jpg: cannot be read as an image"):
        decode(tmp_path / "bad.jpg")


def test_a_heic_picture_is_told_with_what_converts_it(tmp_path):
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    with pytest.raises(ValueError, match=r"phone\.jpg: .*: a HEIC picture.*convert it.*heif-convert"):
        decode(tmp_path / "phone.jpg")


def test_a_picture_says_only_once_how_it_lay(tmp_path):
    """A picture that was turned upright is not turned again by whoever gets it next."""
    Image.new("RGB", (6, 9)).save(tmp_path / "turned.jpg", **turned())
    assert as_picture(decode(tmp_path / "turned.jpg")).size == (9, 6)


def test_floating_point_pixels_are_refused_and_not_made_black(tmp_path):
    Image.fromarray(np.full((6, 9), 0.5, np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(ValueError, match=r"depth\.tif: cannot be read as an image: floating-point pixels"):
        decode(tmp_path / "depth.tif")


def test_a_cut_off_image_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut\.jpg: cannot be read as an image: .*truncated"):
        decode(tmp_path / "cut.jpg")


def size_or_reason(path):
    try:
        return decode(path).size
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ").partition(": ")[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "ppm", "avif", "jp2"])
@pytest.mark.parametrize("damage", ["cut", "blanked"])
def test_a_damaged_file_of_any_format_is_named_or_read(tmp_path, suffix, damage):
    """Each of Pillow's plugins, and the libraries below them, has errors of its own."""
    path = tmp_path / f"bad.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 33, 3), np.uint8)).save(path)
    content = path.read_bytes()
    for share in range(1, 20):
        whole = len(content) * share // 20
        path.write_bytes(content[:whole] + bytes(len(content) - whole) * (damage == "blanked"))
        outcome = size_or_reason(path)
        assert outcome in ((33, 24), "cannot be read as an image")


def test_mistakes_in_the_layout_are_named(tmp_path):
    def message(config, split="train"):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            open_images(config, split)
        return str(error.value).replace(str(tmp_path), "ROOT")

    missing = ImageDataConfig(name="imagefolder", root=str(tmp_path / "nowhere"))
    assert message(missing) == "data.root = ROOT/nowhere: no such folder"
    assert message(ImageDataConfig(name="cifar10")) == (
        "data.root is not set: the folder of data.name = cifar10"
    )
    (tmp_path / "empty").mkdir()
    assert message(ImageDataConfig(name="imagefolder", root=str(tmp_path / "empty"))) == (
        "ROOT/empty/train: no such folder; data.root must hold <split>/<class>/<image>"
    )
    assert message(ImageDataConfig(name="cifar10", root=str(tmp_path / "empty"))) == (
        "data.root = ROOT/empty: expected cifar-10-batches-bin or cifar-10-batches-py (the archive, "
        "unpacked), or class folders train/<class>/<image> and test/<class>/<image>, which may lie in zip "
        "archives"
    )
    assert message(folders(tmp_path / "a", {"train/cat": 1, "train/dog": 0})) == (
        "ROOT/a/train/dog: no image in this class folder"
    )
    (tmp_path / "b" / "train").mkdir(parents=True)
    assert message(ImageDataConfig(name="imagefolder", root=str(tmp_path / "b"))) == (
        "ROOT/b/train: no class folders; expected train/<class>/<image>"
    )
    fashion = ImageDataConfig(name="fashion_mnist", root=str(tmp_path / "empty"))
    assert message(fashion) == "ROOT/empty/train-images-idx3-ubyte: no such IDX file"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "imagenet21k"},
            "name = 'imagenet21k', expected one of digits, cifar10, fashion_mnist, imagefolder, folder",
        ),
        ({"train_limit": 0}, "train_limit = 0, must be at least 1, or null"),
        ({"crop_padding": -1}, "crop_padding = -1, must be at least 0"),
        ({"eval_crop": 1.5}, "eval_crop = 1.5, must be in (0, 1]"),
        (
            {"color_jitter": True},
            "color_jitter = true changes decoded images only; set resident=false",
        ),
        ({"download": True}, "download = true, but name = digits cannot be downloaded"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(ValueError) as error:
        ImageDataConfig(**values)
    assert str(error.value) == message
