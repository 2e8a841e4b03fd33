"""The images that Pascal VOC's labels and lists of a split name."""

from collections.abc import Sequence
from pathlib import Path

from backbones.files import read_text
from backbones.words import clipped
from detection.data.labels import (
    Faults,
)
from detection.data.listed_files import Nearest
from runtime.pictures import entries


def length(path: Path) -> int:
    """Names on a list; 0 for one that cannot be read, which only matters when it is chosen."""
    try:
        return sum(bool(line.strip()) for line in read_text(path, "list of images").splitlines())
    except (ValueError, OSError):
        return 0


def listed_splits(lists: Path) -> list[str]:
    """Names of the lists in `ImageSets/Main`."""
    return (
        [entry.name[:-4] for entry in entries(lists) if entry.name.endswith(".txt")] if lists.is_dir() else []
    )


class Pictures:
    """The image files of a folder, by their path and by their name, both without suffix."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.folder, self.all = folder, files
        self.nearest = Nearest(folder)
        self._by_key: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.all:
            self._by_key.setdefault(self.key(path), []).append(path)
            self._by_stem.setdefault(path.stem, []).append(path)

    def key(self, path: Path) -> str:
        return path.relative_to(self.folder).with_suffix("").as_posix()

    def named(self, name: str) -> list[Path]:
        """name: with or without folder, without suffix."""
        return self._by_key.get(name) or self._by_stem.get(Path(name).name) or []


def listed(path: Path, splits: Sequence[str], pictures: Pictures, faults: Faults) -> list[Path]:
    """The images of a list of names."""
    if not path.exists():
        there = f"; there are {', '.join(splits)}" if splits else ""
        raise FileNotFoundError(f"{path}: no such file; expected the images of the split {path.stem}{there}")
    found: dict[Path, None] = {}
    names = 0
    for number, line in enumerate(read_text(path, "list of images").splitlines(), start=1):
        if not (words := line.split()):
            continue
        names += 1
        # In VOC's lists by class a number follows the name, which may itself hold blanks elsewhere.
        tries = [line.strip(), words[0], Path(words[0]).stem]
        images = next(filter(None, map(pictures.named, tries)), [])
        if not images:
            text = f"{clipped(words[0])[1:-1]} has no image in {pictures.folder}"
            faults.add("listed image is not there", path, text, number)
        found |= dict.fromkeys(images)
    if not names:
        faults.add("list of images is empty", path, "lists no images")
    return list(found)
