"""Parts of a data set of another format, such as train and val: where they lie, which were merged."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from backbones.words import counted
from detection.data.labels import Faults, child, lies_beside_images
from runtime.pictures import entries, is_folder, is_split_name
from runtime.problems import Problem

Folders = tuple[Path, Path]
"""Of images and of their labels."""


class FolderNames(NamedTuple):
    """What a format calls the folders of its images and of its labels; suffix: of a label file."""

    images: Sequence[str]
    labels: Sequence[str]
    suffix: str

    def inside(self, folder: Path, split: str = "") -> list[Folders]:
        """All pairs of these below a folder, or of the folders of a split in them."""
        pairs = [
            (child(folder, images), child(folder, labels)) for labels in self.labels for images in self.images
        ]
        return [(child(images, split), child(labels, split)) for images, labels in pairs] if split else pairs


def split_pairs(root: Path, split: str, names: FolderNames) -> list[Folders]:
    """Where the split may lie."""
    part = child(root, split)
    pairs = [*names.inside(root, split), *names.inside(part)]
    if part.is_dir() and is_split_name(part.name) and lies_beside_images(part, names.suffix):
        pairs.append((part, part))
    return pairs


def split_folders(root: Path, names: FolderNames) -> dict[str, Folders]:
    """The splits that have folders of their own, by name."""
    around = [folder for folder in (root, *(child(root, name) for name in names.images)) if folder.is_dir()]
    splits = {entry.name for folder in around for entry in entries(folder) if is_folder(entry)}
    found: dict[str, Folders] = {}
    for name in sorted(splits):
        for pair in split_pairs(root, name, names):
            if pair not in found.values() and all(folder.is_dir() for folder in pair):
                found.setdefault(name, pair)
    return found


def note_merged_folders(
    faults: Faults, folders: Folders, file_names: Iterable[str], splits: Iterable[str], given: bool
) -> None:
    """Warns where images of several splits were read as one set.

    file_names: of the images, below their folder. splits: that `--split` takes. given: the folders are those
    of `--images` and `--annotations`."""
    images, labels = folders
    counts = Counter(name.partition("/")[0] for name in file_names if "/" in name)
    first = next(filter(is_split_name, sorted(counts)), None)
    if first is None or len(counts) < 2:
        return
    if given:
        own = labels / first if (labels / first).is_dir() else labels
        how = f"take one with --images {images / first} --annotations {own}"
    elif first in set(splits):
        how = f"take one with --split, as in --split {first}"
    else:
        how = f"--split takes one when the labels, too, lie in {labels / first} and so on"
    _note_merged(faults, images, how, dict(sorted(counts.items())))


def note_merged_lists(faults: Faults, lists: Path, counts: Mapping[str, int]) -> None:
    """The same where lists name the images of the splits. counts: names on each list."""
    counts = {name: count for name, count in sorted(counts.items()) if is_split_name(name)}
    if len(counts) > 1:
        _note_merged(faults, lists, f"take one with --split, as in --split {next(iter(counts))}", counts)


def _note_merged(faults: Faults, where: Path, how: str, counts: Mapping[str, int]) -> None:
    names = [f"{name}: {counted(count, 'image')}" for name, count in counts.items()]
    rule = f"splits that were merged ({how})"
    faults.problems.append(Problem(rule, len(names), names[: faults.shown], "warning", str(where)))
