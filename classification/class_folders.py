"""`<split>/<class>/<image>` on the disk or in a zip archive, with every departure from that layout.

Training and the check walk it by the same functions, so that one says what the other does.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from runtime import zipped
from runtime.pictures import (
    HEIC,
    Entry,
    entries,
    image_files,
    is_folder,
    is_heic,
    is_image,
    is_split_name,
    split_role,
)

NO_CLASSES = "no class folders"
NO_IMAGE = "no image in this class folder"
NO_FILE = "image that is no regular file, or a link to nothing"
TEST_FOLDERS = ("test", "val", "valid")
OBJECTS = ("annotations", "annots", "labels", "jpegimages", "imagesets")
"""Folders of a data set for detection, in lower case."""
EXPECTED = "class folders, <class>/<image> or <split>/<class>/<image>"
NO_FOLDER = "no such folder; DIR must hold <split>/<class>/<image>"


class FilePlace(NamedTuple):
    """An image file, the name of its split's folder, its class folder."""

    path: Path
    split: str
    label: str


class AddProblem(Protocol):
    def __call__(self, rule: str, name: str, level: str = "error") -> None: ...


@dataclass(frozen=True)
class Layout:
    """A split's folder and its images by class, counted. They are walked again whenever they are needed."""

    folder: Path
    images: dict[str, int]

    def files(self) -> Iterator[FilePlace]:
        """The images that a training reads, by class and name."""
        for label in self.images:
            for path in class_images(self.folder / label):
                yield FilePlace(path, self.folder.name, label)


def split_folder(root: Path, train: bool, train_folder: str, test_folder: str | None) -> Path:
    """Where the images of a split lie: in `root`, in a zip archive in it, or in `root`, a zip archive itself.

    test_folder: None for the first of TEST_FOLDERS that is there. There need not be such a folder. Raises
    ValueError where two archives have one."""
    if train or test_folder is not None:
        return _find(root, train_folder if train or test_folder is None else test_folder)
    places = (_find(root, name) for name in TEST_FOLDERS)
    return next(filter(zipped.is_folder, places), root / "val")


class OwnSplit(NamedTuple):
    """Folders of classes: of the training images, and of those for evaluation. test None: to be drawn
    from the training images. unused: names of the other parts."""

    train: Path
    test: Path | None
    unused: list[str]


def own_split(root: Path) -> OwnSplit:
    """Recognises `<split>/<class>/<image>`, whatever the splits are called, and `<class>/<image>` without.

    The folder that holds one folder alone, as archives unpack, stands for that one. Raises ValueError that
    lists what was found and what was expected."""
    folders = [entry.name for entry in entries(root) if is_folder(entry)]
    only = Path(root) / folders[0] if len(folders) == 1 else None
    if only is not None and split_role(only.name) != "train" and any(map(is_folder, entries(only))):
        return own_split(only)
    if not folders and root.is_dir() and len(packed := zipped.archives(root)) == 1:
        return own_split(packed[0])
    objects = [name for name in folders if name.casefold() in OBJECTS]
    if objects or not folders:
        there = ", ".join(f"{name}/" for name in folders[:4]) or "no folders"
        hint = "; images with labelled objects train a detector (python -m detection data=folder)"
        raise ValueError(f"{root}: found {there}, expected {EXPECTED}{hint if objects else ''}")
    parts: dict[str, list[str]] = {}
    for name in folders:
        parts.setdefault(split_role(name) or "", []).append(name)
    if "train" not in parts:
        return OwnSplit(root, None, [])
    twice = next((names for role, names in parts.items() if role and len(names) > 1), None)
    if twice is not None:
        raise ValueError(f"{root}: {' and '.join(twice)} are for the same, expected one of them")
    test = next((parts[role][0] for role in ("val", "test") if role in parts), None)
    unused = [name for name in folders if name not in (parts["train"][0], test)]
    return OwnSplit(root / parts["train"][0], None if test is None else root / test, unused)


def taken_folders(root: Path, folders: Sequence[Path]) -> str:
    """Which folders are trained on and scored on, where other splits are not used; else nothing.

    folders: of the training and of the test images."""
    train, test = folders
    used = {folder.name for folder in folders}
    others = sorted({entry.name for place in _holding_splits(root) for entry in place if is_folder(entry)})
    unused = [name for name in others if is_split_name(name) and name not in used]
    if not unused:
        return ""
    told = f"{train.name}/ is trained on, {test.name}/ is scored on"
    verb = "is" if len(unused) == 1 else "are"
    return f"{told}, {' and '.join(f'{name}/' for name in unused)} {verb} not used"


def _holding_splits(root: Path) -> Iterator[list[Entry]]:
    """What is in the folder, and in each of the archives in it that can be read."""
    if zipped.is_folder(root):
        yield entries(root)
    for archive in zipped.archives(root) if root.is_dir() else []:
        with suppress(ValueError, OSError):
            yield entries(archive)


def _find(root: Path, name: str) -> Path:
    folder = root / name
    if zipped.is_folder(folder) or not root.is_dir():
        return folder
    found = [inside for archive in zipped.archives(root) if zipped.is_folder(inside := archive / name)]
    if len(found) > 1:
        raise ValueError(
            f"{found[0]} and {found[1]}: two archives hold the folder {name}, expected one of them"
        )
    return found[0] if found else folder


def read_layout(folder: Path, root: Path, add: AddProblem) -> Layout:
    """Counts a split's images; tells `add` what is not `<class>/<image>`. root: what names are told below."""
    return Layout(folder, {name: sum(1 for _ in images) for name, images in classes(folder, root, add)})


def classes(folder: Path, root: Path, add: AddProblem) -> Iterator[tuple[str, Iterator[Path]]]:
    """Each class of a split and its images, to be taken in this order; tells `add` of what else is there."""
    if not zipped.is_folder(folder):
        add(NO_FOLDER, folder.name)
        return
    names = []
    for entry in entries(folder):
        if is_folder(entry):
            names.append(entry.name)
            yield entry.name, _class_images(Path(entry.path), root, add)
        elif is_image(entry.name):
            add("image directly in the split's folder, in no class", _shown(entry, root), "left out")
        else:
            _add_other(entry, root, add)
    if not names:
        add(NO_CLASSES, folder.name)
    elif len(names) == 1:
        add("only one class folder", f"{folder.name}/{names[0]}")


def class_images(folder: Path) -> Iterator[Path]:
    """The images of a class, without a word on what else there is."""
    return image_files(folder, odd=lambda entry: None)


def _class_images(folder: Path, root: Path, add: AddProblem) -> Iterator[Path]:
    def other(entry: Entry) -> None:
        if is_folder(entry):
            add("folder inside a class folder; its images count as the outer class's", _shown(entry, root))
        else:
            _add_other(entry, root, add)

    def loop(entry: Entry) -> None:
        add(
            "link to a folder around it, or to one that another link leads to; not followed",
            _shown(entry, root),
        )

    def odd(entry: Entry) -> None:
        add(NO_FILE, _shown(entry, root))

    any_image = False
    for path in image_files(folder, other, loop, odd):
        any_image = True
        yield path
    if not any_image:
        add(NO_IMAGE, os.path.relpath(folder, root))


def _add_other(entry: Entry, root: Path, add: AddProblem) -> None:
    add(HEIC if is_heic(entry.name) else "no image file", _shown(entry, root), "left out")


def _shown(entry: Entry, root: Path) -> str:
    return os.path.relpath(entry.path, root)
