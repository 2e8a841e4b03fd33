"""Published data sets as their archives hold them: CIFAR-10's batches, Fashion-MNIST's IDX files."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from cifar_batch import batch

from classification import archives
from classification.cifar_batches import read_batch
from classification.config import ImageDataConfig
from classification.data import open_images


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


def many_sizes(count: int) -> bytes:
    """An array of so many sizes: their product is a number whose digits take the square of that time."""
    sizes = b"(" + b"J\xff\xff\xff\x7f" * count + b"t"
    return batch(np.zeros((1, 3072), np.uint8), [0]).replace(b"K\x01M\0\x0c\x86", sizes)


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
    "an array of many sizes": (many_sizes(10_000), "an array that is none of bytes"),
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
