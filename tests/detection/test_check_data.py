"""The check of a data set: one case per fault, each found alone, counted and named."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from detection.check_data import check, main
from detection.data import CocoDataConfig

MASK = [[0, 0, 9, 0, 9, 9]]


@pytest.fixture
def data(tmp_path):
    """A root with nothing wrong: images a.png (40x30), b.png (20x50), sub/c.jpg (16x8); three boxes, one of a
    crowd region. Returns a function that writes the annotations after `change` and returns their path."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, size in (("a.png", (40, 30)), ("b.png", (20, 50)), ("sub/c.jpg", (16, 8))):
        Image.fromarray(noise.integers(0, 255, (*size[::-1], 3), np.uint8)).save(images / name)

    def write(change=lambda content: None):
        content = {
            "images": [
                {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
                {"id": 3, "file_name": "b.png", "width": 20, "height": 50},
                {"id": 0, "file_name": "sub/c.jpg", "width": 16, "height": 8},
            ],
            "annotations": [
                {"id": 11, "image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20]},
                {"id": 12, "image_id": 3, "category_id": 9, "bbox": [2.5, 2, 10, 20]},
                {
                    "id": 13,
                    "image_id": 3,
                    "category_id": 1,
                    "bbox": [0, 0, 20, 50],
                    "iscrowd": 1,
                    "segmentation": {"counts": [0, 1000], "size": [50, 20]},
                },
            ],
            "categories": [{"id": 9, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 4, "name": "gnu"}],
        }
        path = tmp_path / "annotations.json"
        path.write_text(change(content) or json.dumps(content))
        return path

    return write


def found(path, **options):
    problems = check(path, path.parent / "images", **options).problems
    return [(problem.level, problem.count, problem.rule, *problem.names) for problem in problems]


def test_a_good_data_set_has_no_problems_and_its_classes_are_counted(data):
    path = data()
    report = check(path, path.parent / "images", decode=True)
    assert report.problems == []
    assert report.per_category == {"dog": 1, "cat": 2, "gnu": 0}
    assert report.counts == {
        "images": 3,
        "images without boxes": 1,
        "boxes": 3,
        "crowd regions": 1,
        "categories": 3,
        "categories without boxes": 1,
    }


def of(kind, row, **changes):
    return lambda content: content[kind][row].update(changes)


BEYOND = "annotations: bbox reaches more than 1 px beyond its image and is cut there, annotation"
ANNOTATION_FAULTS = {
    "not JSON": (lambda c: "{", "error", 1, "not JSON", "annotations.json"),
    "a list": (lambda c: "[]", "error", 1, "expected an object with images", "annotations.json"),
    "missing key": (
        lambda c: c.pop("categories") and None,
        "error",
        1,
        "the key 'categories' is missing",
        "a",
    ),
    "missing box": (lambda c: c["annotations"][1].pop("bbox") and None, "error", 1, "field `bbox`", "annot"),
    "string for a number": (of("images", 1, width="20"), "error", 1, r"images[1]: Expected `int`", "annot"),
    "unknown category": (of("annotations", 1, category_id=8), "error", 1, "category_id is not", "12 with c"),
    "unknown image": (of("annotations", 1, image_id=4), "error", 1, "image_id is not among", "12 of image 4"),
    "annotation id 0": (of("annotations", 1, id=0), "warning", 1, "annotations: id is 0", "of image 3"),
    "repeated annotation id": (of("annotations", 1, id=11), "error", 1, "annotations: id given more", "11"),
    "repeated image id": (of("images", 2, id=3), "error", 1, "images: id given more than once", "3"),
    "repeated file name": (
        lambda c: c["images"].append({"id": 2, "file_name": "a.png", "width": 40, "height": 30}),
        *("warning", 1, "images: file_name given more than once", "a.png"),
    ),
    "repeated category id": (of("categories", 2, id=9), "error", 1, "categories: id given more", "9"),
    "repeated category name": (
        of("categories", 2, name="cat"),
        "error",
        1,
        "name given more than once",
        "cat",
    ),
    "NaN": (
        of("annotations", 1, bbox=[1, float("nan"), 2, 3]),
        "error",
        1,
        "not finite",
        "12 bbox [1.0, nan",
    ),
    "infinite": (of("annotations", 1, bbox=[1, 1, float("inf"), 3]), "error", 1, "not finite", "12 bbox"),
    "negative": (of("annotations", 1, bbox=[9, 9, -3, 3]), "left out", 1, "negative width or", "12 bbox"),
    "no area": (of("annotations", 1, bbox=[9, 9, 0, 3]), "left out", 1, "bbox has no area", "12 bbox"),
    "outside": (of("annotations", 1, bbox=[21, 9, 3, 3]), "left out", 1, "lies outside", "12 bbox"),
    "reaching out": (of("annotations", 1, bbox=[15, 9, 6.5, 3]), "warning", 1, BEYOND, "12 bbox"),
    "area 0": (of("annotations", 1, area=0), "warning", 1, "area is not positive", "12 area 0"),
    "negative area": (of("annotations", 1, area=-2.5), "warning", 1, "area is not positive", "12 area -2.5"),
    "infinite area": (of("annotations", 1, area=float("inf")), "warning", 1, "or not finite", "12"),
    "area null": (of("annotations", 1, area=None), "warning", 1, "or not finite", "12"),
    "crowd without mask": (of("annotations", 2, segmentation=[]), "warning", 1, "without a mask", "13"),
    "crowd of empty runs": (
        of("annotations", 2, segmentation={"counts": ""}),
        "warning",
        1,
        "without a m",
        "13",
    ),
    "crowd of 2": (of("annotations", 1, iscrowd=2), "error", 1, "iscrowd is neither 0 nor 1", "12"),
    "no annotations": (
        lambda c: c.update(annotations=[]),
        "error",
        1,
        "nothing to train on",
        "annotations.json",
    ),
    "no key annotations": (
        lambda c: c.pop("annotations") and None,
        "error",
        1,
        "nothing to train on",
        "annot",
    ),
    "crowd regions only": (
        lambda c: c.update(annotations=c["annotations"][2:]),
        "error",
        1,
        "nothing to train on",
        "annot",
    ),
    "zero byte": (of("images", 0, file_name="a\0/b.png"), "error", 1, "file is no image", "a\0/b.png"),
    "long name": (of("images", 0, file_name="a" * 300 + "/b.png"), "error", 1, "no image", "aaa"),
    "parent folder": (of("images", 0, file_name="../a.png"), "error", 1, "leaves the folder", "../a.png"),
    "hidden parent": (
        of("images", 0, file_name="sub/../../a.png"),
        "error",
        1,
        "leaves the folder",
        "sub/..",
    ),
    "absolute": (of("images", 0, file_name="/etc/a.png"), "error", 1, "leaves the folder", "/etc/a.png"),
    "drive": (of("images", 0, file_name="C:\\a.png"), "error", 1, "leaves the folder", "C:\\a.png"),
    "missing image": (of("images", 0, file_name="sub/a.png"), "error", 1, "file is missing", "sub/a.png"),
    "other size": (of("images", 0, width=41), "error", 1, "another size", "a.png: 40x30, annotated 41x30"),
}


@pytest.mark.parametrize("fault", ANNOTATION_FAULTS)
def test_a_fault_of_the_annotations_is_the_only_one_found(data, fault):
    change, level, count, rule, name = ANNOTATION_FAULTS[fault]
    path = data(lambda content: text if isinstance(text := change(content), str) else None)
    (problem,) = found(path)
    assert problem[:2] == (level, count)
    assert rule in problem[2]
    assert str(problem[3]).replace(str(path), "annotations.json").startswith(name)


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"GIF89 of a kind", ("error", 1, "file is no image", "a.png: is no image")),
        (b"", ("error", 1, "file is no image", "a.png: is no image")),
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


def test_a_picture_that_cannot_be_turned_upright_is_named(data):
    path = data(of("images", 0, width=30, height=40))
    (path.parent / "images" / "a.png").write_bytes(misread())
    assert found(path, decode=True) == [("error", 1, "truncated or damaged image", "a.png")]
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image"):
        config.open("train")[(0, 0)]


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


def test_missing_file_and_folder_are_told(data, tmp_path):
    (problem,) = check(tmp_path / "nothing.json", tmp_path).problems
    assert "no such annotation file" in problem.rule
    (problem,) = check(data(), tmp_path / "nowhere").problems
    assert problem.rule == "no such image folder"


def test_offenders_are_counted_and_the_first_are_named(data):
    def many(content):
        box = {"image_id": 7, "category_id": 1, "bbox": [1, 1, 0, 4]}
        content["annotations"] += [box | {"id": number} for number in range(100, 130)]

    path = data(many)
    assert found(path, names=2) == [
        (
            *("left out", 30, "annotations: bbox has no area, annotation"),
            *(f"{number} bbox [1.0, 1.0, 0.0, 4.0]" for number in (100, 101)),
        )
    ]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: None, 0),
        (of("annotations", 1, id=0), 0),
        (of("annotations", 1, bbox=[9, 9, 0, 3]), 1),
        (of("annotations", 1, image_id=4), 1),
    ],
)
def test_the_exit_code_and_json_say_the_same(data, capsys, change, code):
    path = data(change)
    assert main([str(path), str(path.parent / "images"), "--json", "--workers", "0"]) == code
    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["annotations", "images", "counts", "per_category", "problems"]
    assert any(problem["level"] != "warning" for problem in content["problems"]) == bool(code)


def test_the_text_names_rules_counts_and_classes(data, capsys):
    path = data(of("annotations", 1, image_id=4))
    assert main([str(path), str(path.parent / "images"), "--workers", "0"]) == 1
    told = capsys.readouterr().out
    assert "error: annotations: image_id is not among images, annotation: 1 (12 of image 4)" in told
    assert "  cat  2\n" in told


def test_every_broken_rule_is_told_at_once(data):
    faults = ("missing image", "repeated category id", "unknown image", "no area", "crowd without mask")

    def all_of_them(content):
        content["annotations"].append({"id": 14, "image_id": 7, "category_id": 1, "bbox": [1, 1, 0, 2]})
        for fault in set(faults) - {"no area"}:
            ANNOTATION_FAULTS[fault][0](content)

    told = {(level, rule) for level, _, rule, *_ in found(data(all_of_them))}
    for fault in faults:
        _, level, _, text, _ = ANNOTATION_FAULTS[fault]
        assert any(level == found_level and text in rule for found_level, rule in told), fault
    assert len(told) == len(faults)


@pytest.mark.parametrize("fault", ["unknown category", "NaN", "parent folder", "repeated image id"])
def test_training_refuses_what_the_check_calls_an_error(data, fault):
    path = data(ANNOTATION_FAULTS[fault][0])
    config = CocoDataConfig(root=str(path.parent), train_images="images", train_annotations=path.name)
    with pytest.raises(ValueError, match=r"annotations\.json: (images|annotations): "):
        config.open("train")
