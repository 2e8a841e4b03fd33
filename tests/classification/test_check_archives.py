"""Class folders in zip archives: read and checked as unpacked ones; what is broken or hostile is named."""

import os
import zipfile

import pytest
from class_folders import problems

from classification.check_data import check
from classification.config import ImageDataConfig
from classification.data import open_images


@pytest.mark.parametrize("inside", [True, False], ids=["archives in a folder", "one archive"])
def test_class_folders_in_zip_archives_are_what_they_are_unpacked(clean, tmp_path_factory, inside):
    root = tmp_path_factory.mktemp("zips")
    for split in ("train", "val"):
        with zipfile.ZipFile(root / (f"my-{split}.zip" if inside else "all.zip"), "a") as archive:
            for path in sorted((clean / split).rglob("*")):
                archive.write(path, path.relative_to(clean))
            archive.writestr(f"__MACOSX/{split}/a/._0.jpg", b"no image")
            archive.writestr(f"{split}/b/notes.txt", b"no image")
    where = root if inside else root / "all.zip"
    config = ImageDataConfig(name="imagefolder", root=str(where))
    plain = ImageDataConfig(name="imagefolder", root=str(clean))
    for split in ("train", "test"):
        zipped, unpacked = open_images(config, split), open_images(plain, split)
        assert (zipped.classes, zipped.labels.tolist()) == (unpacked.classes, unpacked.labels.tolist())
        for index in range(len(unpacked)):
            assert zipped.image(index).tobytes() == unpacked.image(index).tobytes()
    report = check(where, workers=2)
    assert (report.counts, report.kinds) == (check(clean).counts, check(clean).kinds)
    prefix = "my-{}.zip/" if inside else ""
    names = [f"{prefix.format(split)}{split}/b/notes.txt" for split in ("train", "val")]
    assert [(p.rule, p.names) for p in report.problems] == [("no image file", names)]


def test_broken_archives_are_named(clean, tmp_path_factory):
    root = tmp_path_factory.mktemp("zips")
    (root / "data.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"data\.zip: expected a zip archive, but File is not a zip file"):
        open_images(ImageDataConfig(name="imagefolder", root=str(root)), "train")
    ((level, rule, _, _),) = problems(root)
    assert (level, rule) == (
        "error",
        f"{root / 'data.zip'}: expected a zip archive, but File is not a zip file",
    )
    content = (clean / "train" / "a" / "0.jpg").read_bytes()
    with zipfile.ZipFile(root / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/a/0.jpg", content)
        archive.writestr("train/b/bomb.jpg", bytes(300_000_000))
    data = bytearray((root / "data.zip").read_bytes())
    data[60:100] = bytes(40)
    (root / "data.zip").write_bytes(data)
    images = open_images(ImageDataConfig(name="imagefolder", root=str(root)), "train")
    with pytest.raises(ValueError, match=r"data\.zip/train/a/0\.jpg: cannot be unpacked: "):
        images.image(0)
    with pytest.raises(ValueError, match=r"bomb\.jpg: unpacks to 300000000 bytes, expected at most"):
        images.image(1)


@pytest.mark.parametrize("name", ["folder", "imagefolder"])
@pytest.mark.parametrize("where", [".", "train.zip"])
def test_an_archive_that_is_a_fifo_is_named_and_not_opened(tmp_path, name, where):
    os.mkfifo(tmp_path / "train.zip")
    told = f"{tmp_path / 'train.zip'}: expected a zip file, but this is a FIFO"
    for split in ("train", "test"):
        with pytest.raises(ValueError) as refusal:
            open_images(ImageDataConfig(name=name, root=str(tmp_path / where)), split)
        assert str(refusal.value) == told
    assert [rule for _, rule, *_ in problems(tmp_path / where)] == [told]


def test_archives_made_to_do_harm_are_named(clean, tmp_path_factory):
    root = tmp_path_factory.mktemp("zips")
    path, content = root / "data.zip", (clean / "train" / "a" / "0.jpg").read_bytes()
    config = ImageDataConfig(name="imagefolder", root=str(root))

    def write(*names, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name in names:
                archive.writestr(name, content)
        return path.read_bytes()

    write("train/" + "a/" * 32_000 + "0.jpg")  # 64 kB that stand for paths of a gigabyte
    with pytest.raises(ValueError, match=r"data\.zip: holds .*, 32001 folders deep, expected at most 64$"):
        open_images(config, "train")
    path.write_bytes(write("train/ä/0.jpg").replace("ä".encode(), b"\xff\xfe"))
    with pytest.raises(ValueError, match=r"data\.zip: expected a zip archive, but 'utf-8' codec"):
        open_images(config, "train")
    whole = write("train/a/0.jpg", "train/b/0.jpg", compression=zipfile.ZIP_LZMA)
    path.write_bytes(whole[:60] + b"\xff" * 40 + whole[100:])
    with pytest.raises(ValueError, match=r"data\.zip/train/a/0\.jpg: cannot be unpacked: "):
        open_images(config, "train").image(0)


def test_splits_in_archives_that_are_not_used_are_told(clean):
    with zipfile.ZipFile(clean / "more.zip", "w") as archive:
        archive.writestr("test-dev/a/0.jpg", b"")
    assert check(clean).taken == "train/ is trained on, val/ is scored on, test-dev/ is not used"
    (clean / "val").rename(clean / "test")
    (clean / "broken.zip").write_bytes(b"PK")  # of which nothing is needed
    assert check(clean).taken == "train/ is trained on, test/ is scored on, test-dev/ is not used"
