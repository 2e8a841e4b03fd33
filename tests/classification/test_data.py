"""Data sets: what is read, and what every mistake is answered with."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.parametrize("version", ["bin", "py"])
def test_cifar10_is_read_from_either_archive(tmp_path, version):
    rng = np.random.default_rng(0)
    folder = tmp_path / f"cifar-10-batches-{version}"
    folder.mkdir()
    pixels, labels = rng.integers(0, 256, (6, 2, 3072), np.uint8), rng.integers(0, 10, (6, 2))
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        if version == "bin":
            records = np.concatenate([labels[i][:, None].astype(np.uint8), pixels[i]], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": pixels[i], b"labels": labels[i].tolist()}))
    train = open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "train")
    assert train.labels.tolist() == labels[:5].reshape(-1).tolist()
    # The format's order: all red values row by row, then green, then blue.
    expected = pixels[2, 1].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(np.asarray(train.image(5)), expected)
    assert len(open_images(ImageDataConfig(name="cifar10", root=str(folder)), "test")) == 2


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return (print, ("run",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Attack(), b"labels": []}))
    with pytest.raises(ValueError, match=r"test_batch: not a batch .*builtins.print is not allowed"):
        open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "test")


@pytest.mark.parametrize("label", [10, 255])
@pytest.mark.parametrize("file", ["cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch"])
def test_a_label_of_cifar10_beyond_its_classes_is_named_with_its_file(tmp_path, file, label):
    pixels = np.zeros((2, 3072), np.uint8)
    path = tmp_path / file
    path.parent.mkdir()
    records = np.concatenate([np.array([[0], [label]], np.uint8), pixels], axis=1)
    python = pickle.dumps({b"data": pixels, b"labels": [0, label]})
    path.write_bytes(records.tobytes() if path.suffix else python)
    with pytest.raises(ValueError) as error:
        open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "test")
    assert str(error.value) == f"{path}: label {label}, expected 0..9"


def test_a_label_of_fashion_mnist_beyond_its_classes_is_named_with_its_file(tmp_path):
    images = bytes([0, 0, 8, 3]) + np.array([1, 28, 28], ">u4").tobytes() + bytes(28 * 28)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(images)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(bytes([0, 0, 8, 1]) + np.array([1], ">u4").tobytes() + bytes([12]))
    with pytest.raises(ValueError) as error:
        open_images(ImageDataConfig(name="fashion_mnist", root=str(tmp_path)), "test")
    assert str(error.value) == f"{labels}: label 12, expected 0..9"


@pytest.mark.parametrize("whole", [True, False])
def test_an_interrupted_download_of_cifar10_leaves_nothing_that_counts_as_there(tmp_path, monkeypatch, whole):
    def unpack(url, download_root, extract_root, **_):
        folder = Path(extract_root) / "cifar-10-batches-py"
        folder.mkdir()
        content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 4]}
        (folder / "test_batch").write_bytes(pickle.dumps(content))
        if not whole:
            raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", unpack)
    config = ImageDataConfig(name="cifar10", root=str(tmp_path / "new"), download=True)
    if whole:
        assert open_images(config, "test").labels.tolist() == [3, 4]
    else:
        with pytest.raises(KeyboardInterrupt):
            open_images(config, "test")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cifar-10-batches-py"] * whole


def test_cifar10_is_read_from_class_folders(real_data, tmp_path):
    import zipfile

    with zipfile.ZipFile(real_data / "cifar10-test.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith("0001.jpg")]
        archive.extractall(tmp_path, names)
    (tmp_path / "train").mkdir()
    test = open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "test")
    assert test.classes[:3] == ["airplane", "automobile", "bird"]
    assert (len(test), test.image(0).size) == (10, (32, 32))


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_from_idx_files(tmp_path, packed):
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)
    images = bytes([0, 0, 8, 3]) + np.array([2, 28, 28], ">u4").tobytes() + pixels.tobytes()
    labels = bytes([0, 0, 8, 1]) + np.array([2], ">u4").tobytes() + bytes([9, 4])
    for name, content in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        path = tmp_path / f"t10k-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    test = open_images(ImageDataConfig(name="fashion_mnist", root=str(tmp_path)), "test")
    assert test.labels.tolist() == [9, 4]
    assert np.array_equal(np.asarray(test.image(1))[..., 2], pixels[1])


def grey16():
    return Image.fromarray(np.full((6, 9), 0x80FF, np.uint16))


def turned(**options):
    """What to save a picture with that is to be shown turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif, **options}


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


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_an_unreadable_image_is_named(tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.jpg: cannot be read as an image"):
        decode(tmp_path / "bad.jpg")


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
        "unpacked), or class folders train/<class>/<image> and test/<class>/<image>"
    )
    assert message(folders(tmp_path / "a", {"train/cat": 1, "train/dog": 0})) == (
        "ROOT/a/train/dog: no image in this class folder"
    )
    (tmp_path / "b" / "train").mkdir(parents=True)
    assert message(ImageDataConfig(name="imagefolder", root=str(tmp_path / "b"))) == (
        "ROOT/b/train: no class folders; expected train/<class>/<image>"
    )
    fashion = ImageDataConfig(name="fashion_mnist", root=str(tmp_path / "empty"))
    assert message(fashion) == "ROOT/empty/train-images-idx3-ubyte: no such file"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "imagenet21k"},
            "name = 'imagenet21k', expected one of digits, cifar10, fashion_mnist, imagefolder",
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
