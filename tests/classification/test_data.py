"""Data sets: what is read, and what every mistake is answered with."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from cifar_batch import batch
from PIL import Image

from backbones.pictures import as_picture
from backbones.spec import Preprocessing
from classification import archives
from classification.cifar_batches import read_batch
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
            (folder / name).write_bytes(batch(pixels[i], labels[i].tolist()))
    train = open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "train")
    assert train.labels.tolist() == labels[:5].reshape(-1).tolist()
    # The format's order: all red values row by row, then green, then blue.
    expected = pixels[2, 1].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.array_equal(np.asarray(train.image(5)), expected)
    assert len(open_images(ImageDataConfig(name="cifar10", root=str(folder)), "test")) == 2


def test_a_written_batch_is_what_python_unpickles(tmp_path):
    """So the batches of these tests are pickles, and the parser's answer is Python's."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3072), np.uint8)
    labels = [i % 10 for i in range(300)]
    data = batch(pixels, labels)
    expected, found = pickle.loads(data, encoding="bytes"), read_batch(data)
    assert found.keys() == expected.keys() == {b"batch_label", b"labels", b"data", b"filenames"}
    assert np.array_equal(found.pop(b"data"), expected.pop(b"data"))
    assert found == expected


class Attack:
    def __reduce__(self):
        return (print, ("run",))


def forged() -> bytes:
    """An array of objects whose pointers are the file's bytes, built by the names that an array mentions."""
    data = batch(np.zeros((1, 3072), np.uint8), [0])
    return data.replace(b"U\x02u1", b"U\x02O8")


def protocol_2(value) -> bytes:
    return b"\x80\x02" + value + b"."


HOSTILE = {
    "code": (pickle.dumps({b"data": Attack(), b"labels": []}), "the opcode FRAME at byte 2"),
    "code by an old protocol": (pickle.dumps(Attack(), 2), "the name '__builtin__ print'"),
    "another name": (protocol_2(b"cos\nsystem\n"), "the name 'os system'"),
    "an array of objects": (forged(), "a call that makes no array of bytes"),
    "ndarray called by itself": (
        protocol_2(b"cnumpy\nndarray\n(K\x01\x85U\x01OU\x08aaaaaaaatR"),
        "a call that makes no array of bytes",
    ),
    "an array larger than its bytes": (
        batch(np.zeros((1, 3072), np.uint8), [0]).replace(b"M\0\x0c", b"J\xff\xff\xff\x7f"),
        "an array of 3072 bytes that claims the shape (1, 2147483647)",
    ),
    "a string longer than the file": (
        protocol_2(b"T\xff\xff\xff\x7fabc"),
        "expected 2147483647 bytes",
    ),
    "cut off": (batch(np.zeros((1, 3072), np.uint8), [0])[:2000], "expected 3072 bytes in a string4"),
    "nothing": (b"", "pickle exhausted before seeing STOP"),
    "no pickle": (b"<html>404</html>", "at position 0, opcode b'<' unknown"),
    "a long number": (protocol_2(b"\x8a\xff" + b"\x7f" * 255), "a number of more than 32 bits"),
    "a list": (protocol_2(b"]"), "no dictionary"),
    "tuples in tuples": (protocol_2(b")" + b"\x85" * 100_000), "the opcode EMPTY_TUPLE at byte 2"),
    "values in values": (protocol_2(b"}U\x04dataN" + b"\x85" * 100_000 + b"s"), None),
    "a dictionary in itself": (protocol_2(b"}q\0U\x04datah\0s"), None),
    "an empty stack": (protocol_2(b"s"), "a stack that is too short"),
    "no start": (protocol_2(b"]e"), "values without their start"),
    "no memo": (protocol_2(b"h\x07"), "a broken pickle"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=list(HOSTILE))
def test_what_is_no_batch_of_cifar10_is_refused_and_runs_nothing(tmp_path, capsys, content, reason):
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "test")
    if reason is None:
        assert str(error.value) == f"{path}: expected an array of pixels under the key data"
    else:
        expected = f"{path}: expected a batch of CIFAR-10's published Python version, found {reason}"
        assert str(error.value).startswith(expected)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("file", ["cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch"])
def test_a_batch_that_is_no_regular_file_is_named(tmp_path, file):
    (tmp_path / file).parent.mkdir()
    os.mkfifo(tmp_path / file)
    with pytest.raises(ValueError, match=r"test_batch.*: expected a CIFAR-10 file, but this is a FIFO"):
        open_images(ImageDataConfig(name="cifar10", root=str(tmp_path)), "test")


@pytest.mark.parametrize("label", [10, 255])
@pytest.mark.parametrize("file", ["cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch"])
def test_a_label_of_cifar10_beyond_its_classes_is_named_with_its_file(tmp_path, file, label):
    pixels = np.zeros((2, 3072), np.uint8)
    path = tmp_path / file
    path.parent.mkdir()
    records = np.concatenate([np.array([[0], [label]], np.uint8), pixels], axis=1)
    python = batch(pixels, [0, label])
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
        (folder / "test_batch").write_bytes(batch(np.zeros((2, 3072), np.uint8), [3, 4]))
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an IDX file of unsigned bytes with 3 dimensions"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, f"claims {(2**32 - 1) ** 3} bytes, expected 1..1073741824"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 8 + bytes(4), "claims 0 bytes, expected 1..1073741824"),
        (
            bytes([0, 0, 8, 3]) + np.array([9000, 28, 28], ">u4").tobytes() + bytes(100),
            "not an IDX file: holds 100 bytes, expected 7056000 of the shape [9000, 28, 28]",
        ),
        (
            bytes([0, 0, 8, 3]) + np.array([1, 2, 2], ">u4").tobytes() + bytes(100_000_000),
            "not an IDX file: holds more bytes, expected 4 of the shape [1, 2, 2]",
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_that_an_idx_file_claims_are_held_against_its_bytes(tmp_path, packed, content, reason):
    path = tmp_path / f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with pytest.raises(ValueError) as error:
        open_images(ImageDataConfig(name="fashion_mnist", root=str(tmp_path)), "test")
    assert str(error.value) == f"{path}: {reason}"


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:400] + bytes(30) + data[430:]])
def test_a_damaged_packed_idx_file_is_named(tmp_path, damage):
    pixels = np.random.default_rng(0).integers(0, 256, 784, np.uint8).tobytes()
    content = bytes([0, 0, 8, 3]) + np.array([1, 28, 28], ">u4").tobytes() + pixels
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(content)))
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz: cannot be unpacked: "):
        open_images(ImageDataConfig(name="fashion_mnist", root=str(tmp_path)), "test")


def test_cifar10_is_read_from_its_zip_archives(real_data):
    """As they lie in the folder of development images, beside another archive that has `val`."""
    config = ImageDataConfig(name="cifar10", root=str(real_data), test_limit=20)
    test = open_images(config, "test")
    assert (test.classes, len(test), test.image(3).size) == (list(archives.CIFAR10_CLASSES), 20, (32, 32))


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
