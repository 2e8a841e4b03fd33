"""The check of image files: what their headers, their pixels and the links to them tell."""

import io
import os
import struct
import zlib

import pytest
from annotated_folder import found, of, pool_threads
from PIL import Image

from detection.check_data import check
from detection.data.config import CocoDataConfig
from detection.data.image_check import upright_size
from detection.data.images import open_split


def bomb() -> bytes:
    """A PNG whose header says 20,000 x 20,000 pixels; no data follow."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(content)) + kind + content
        chunks += struct.pack(">I", zlib.crc32(kind + content))
    return b"\x89PNG\r\n\x1a\n" + chunks


def large() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(buffer, "png")
    return buffer.getvalue()


def rotated() -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: 30x40 upright
    Image.new("RGB", (40, 30)).save(buffer, "jpeg", exif=exif)
    return buffer.getvalue()


def misread() -> bytes:
    """A JPEG file on its side, in whose EXIF a number (of the tag 0x0106) is text."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "name"
    Image.new("RGB", (40, 30)).save(buffer, "jpeg", exif=exif)
    return buffer.getvalue().replace(b"\x01\x0f\x00\x02", b"\x01\x06\x00\x02")


NO_IMAGE = "a.png: cannot be read as an image: it is none of JPEG, MPO, PNG,"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"GIF89 of a kind", ("error", 1, "file is no image", NO_IMAGE)),
        (b"", ("error", 1, "file is no image", NO_IMAGE)),
        (
            bomb(),
            ("error", 1, "image is too large to be decoded", "a.png: cannot be read as an image: Image s"),
        ),
        (rotated(), ("error", 1, "image has another size than annotated", "a.png: 30x40, annotated 40x30")),
    ],
)
def test_a_fault_of_an_image_file_is_found_in_its_header(data, content, expected):
    path = data()
    (path.parent / "images" / "a.png").write_bytes(content)
    (problem,) = found(path)
    assert problem[:3] == expected[:3]
    assert problem[3].startswith(expected[3])


def test_a_large_image_that_can_be_read_is_a_warning(data):
    path = data(of("images", 0, width=10_000, height=9_000))
    (path.parent / "images" / "a.png").write_bytes(large())
    assert [problem[:3] for problem in found(path)] == [
        ("warning", 1, "image has more than 89 million pixels")
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_cut_off_is_found_by_decoding(data, workers):
    path = data()
    image = path.parent / "images" / "a.png"
    image.write_bytes(image.read_bytes()[:-200])
    assert found(path) == []
    assert found(path, decode=True, workers=workers) == [("error", 1, "truncated or damaged image", "a.png")]
    assert pool_threads() == []


def test_a_picture_with_damaged_exif_is_turned_upright_and_read(data):
    path = data(of("images", 0, width=30, height=40))
    (path.parent / "images" / "a.png").write_bytes(misread())
    assert found(path, decode=True) == []
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    assert open_split(config, "train").read(0).size == (30, 40)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to itself"])
def test_the_size_of_what_is_no_regular_file_is_refused_and_nothing_opened(tmp_path, kind):
    path = tmp_path / "a.png"
    make = {"FIFO": os.mkfifo, "folder": os.mkdir, "link to itself": lambda path: path.symlink_to(path.name)}
    make[kind](path)
    why = "too many levels of symbolic links" if kind == "link to itself" else f"this is a {kind}"
    with pytest.raises(ValueError) as error:
        upright_size(path)
    assert str(error.value) == f"{path}: expected an image file, but {why}"


def test_links_out_of_the_folder_are_found_and_others_are_not(data, tmp_path):
    path = data()
    images = path.parent / "images"
    (images / "sub").rename(tmp_path / "elsewhere")
    (images / "sub").symlink_to(tmp_path / "elsewhere")
    (images / "b.png").rename(tmp_path / "b.png")
    (images / "b.png").symlink_to(tmp_path / "b.png")
    (images / "a.png").rename(images / "kept.png")
    (images / "a.png").symlink_to("kept.png")
    rule = "image is a symbolic link that leaves the folder, or lies below one"
    assert found(path) == [("error", 2, rule, "b.png", "sub/c.jpg")]


def test_a_name_that_would_widen_all_others_is_refused(data):
    path = data(lambda content: content["images"][0].update(file_name="a" * 2000))
    rule = "images: file_name has more than 1024 characters"
    assert ("error", 1, rule, f"{'a' * 40}…") in found(path)


def test_a_loop_of_links_holds_no_image(data):
    path = data(lambda content: content["images"][0].update(file_name="loop/a.png"))
    (path.parent / "images" / "loop").symlink_to("loop")
    ((level, count, _, name),) = found(path)
    assert (level, count) == ("error", 1)
    assert name.startswith("loop/a.png")


def test_a_folder_of_images_may_itself_be_a_link(data, tmp_path):
    path = data()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    assert check(path, tmp_path / "link").problems == []
