"""The image files that annotations list: whether they are there, what lies near, what leads elsewhere."""

import errno
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from backbones.files import existing
from runtime.pictures import HEIC, is_heic, is_image, is_regular
from runtime.problems import MISSING, SHOWN, Problem

NO_FILE = "image is no regular file"
LEAVES = "images: file_name leaves the folder"


def note_absent_images(
    problems: list[Problem],
    file_names: Iterable[str | None],
    folder: Path,
    shown: int = SHOWN,
    level: str = "error",
) -> set[str]:
    """Adds what is wrong with the places of the images, no file being opened; returns the names that are not
    those of regular files.

    None is passed over. Names that leave the folder are problems already; beside them, as beside missing
    files, what lies near is shown.
    Raises FileNotFoundError when the folder is missing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such image folder")
    nearest = Nearest(folder)
    for problem in problems:
        if problem.rule == LEAVES:
            problem.names = [nearest.told(name) for name in problem.names]
    present: dict[str, dict[str, os.DirEntry[str]]] = {}
    absent: dict[str, None] = {}  # in order
    for name in file_names:
        if name is None or leaves(name):
            continue
        parent, _, last = name.rpartition("/")
        if parent not in present:
            present[parent] = {entry.name: entry for entry in entries(folder / parent)}
        entry = present[parent].get(last)
        if entry is None or not is_regular(entry):
            absent[name] = None
    kinds: dict[str, list[str]] = {}
    for name in absent:
        rule, reason = _reason(folder / name)
        kinds.setdefault(rule, []).append(f"{name}{reason}")
    for rule, names in kinds.items():
        told = [nearest.told(name) if rule == MISSING else name for name in names[:shown]]
        problems.append(Problem(rule, len(names), told, level, str(folder)))
    return set(absent)


def _reason(path: Path) -> tuple[str, str]:
    """The rule that a file breaks, and what more there is to say."""
    try:
        existing(path, "image")
    except FileNotFoundError as error:
        return MISSING, f": {str(error).rpartition(': ')[2]}" if path.is_symlink() else ""
    except ValueError as error:
        return NO_FILE, f": {str(error).rpartition(': ')[2]}"
    return NO_FILE, ""


class Nearest:
    """Files of a folder that a name may have meant. The folder is looked through at the first question."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_path: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._read = False

    def told(self, name: str) -> str:
        """The name, and behind it what is near and in what it differs."""
        self._look()
        near = self._elsewhere(name) or self._of_last_part(name)
        return f"{name} [near: {near}]" if near else name

    def of_label(self, name: str) -> str:
        """The image that a label file may belong to and what is in the way, in brackets; nothing without one.

        name: of the label file below its folder, without its suffix."""
        self._look()
        if (image := self._by_path.get(_folded(name))) is not None:
            return f" [near: {image}; the name of the labels has its suffix, too]"
        others = self._by_stem.get(PurePosixPath(_folded(name)).name, [])
        beside = [path for path in others if _folded(_without_suffix(path)) == _folded(name)]
        if not (near := beside or others):
            return ""
        why = _differences(_without_suffix(near[0]), name) if beside else ["in another folder"]
        if is_heic(near[0]):
            why.append(HEIC)
        return f" [near: {near[0]}; {', '.join(why)}]" if why else ""

    def _elsewhere(self, name: str) -> str | None:
        """The file that has the name once it is read otherwise or its first folders are dropped."""
        for meant, why in _readings(name):
            parts = PurePosixPath(meant).parts
            for dropped in range(len(parts)):
                tail = "/".join(parts[dropped:])
                if (found := self._by_path.get(_folded(tail))) is None:
                    continue
                reasons = [*why, *_differences(found, tail)]
                if dropped and "a URL" not in why:
                    count = "one folder" if dropped == 1 else f"{dropped} folders"
                    reasons.append(f"{count} too many: {PurePosixPath(*parts[:dropped])}/")
                return f"{found}; {', '.join(reasons)}" if reasons else None
        return None

    def _of_last_part(self, name: str) -> str | None:
        """A file in another folder, or with another suffix."""
        for index, reason in ((self._by_name, "in another folder"), (self._by_stem, "another suffix")):
            for meant, why in _readings(name):
                last = PurePosixPath(_folded(meant))
                if others := index.get(last.name if index is self._by_name else last.stem):
                    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                    return f"{others[0]}{more}; {', '.join([*why, reason])}"
        return None

    def _look(self) -> None:
        if self._read:
            return
        self._read = True
        for place, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                if not (is_image(file) or is_heic(file)) or file.startswith("."):
                    continue
                path = os.path.relpath(os.path.join(place, file), self.folder).replace(os.sep, "/")
                self._by_path.setdefault(_folded(path), path)
                self._by_name.setdefault(_folded(file), []).append(path)
                self._by_stem.setdefault(PurePosixPath(_folded(file)).stem, []).append(path)


def _readings(name: str) -> Iterator[tuple[str, list[str]]]:
    """What a name may mean, and why."""
    yield name, []
    if "\\" in name:
        yield name.replace("\\", "/"), ["backslashes"]
    if "://" in name:
        yield unquote(urlsplit(name.partition("://")[2]).path), ["a URL"]
    if "%" in name:
        yield unquote(name), ["URL-encoded"]
    if name != name.strip():
        yield name.strip(), ["blanks around it"]


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _without_suffix(path: str) -> str:
    return PurePosixPath(path).with_suffix("").as_posix()


def _differences(found: str, asked: str) -> list[str]:
    composed = unicodedata.normalize("NFC", found), unicodedata.normalize("NFC", asked)
    other_case = ["another case"] if composed[0] != composed[1] else []
    other_form = ["another Unicode form"] if not other_case and found != asked else []
    return other_case + other_form


def links_that_leave(file_names: Iterable[str], folder: Path) -> Iterator[str]:
    """File names that are, or lie below, a symbolic link to somewhere outside the folder."""
    root = os.path.realpath(folder)
    parents: dict[str, tuple[bool, set[str]]] = {}
    for name in file_names:
        parent, _, last = name.rpartition("/")
        if parent not in parents:
            inside = folder / parent
            there = entries(inside)
            stays = not there or _within(inside, root)  # what is not there leads nowhere
            parents[parent] = (stays, {entry.name for entry in there if entry.is_symlink()})
        stays, links = parents[parent]
        if not stays or (last in links and not _within(folder / name, root)):
            yield name


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing where there is none, nor can be one of that name."""
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a zero byte in the name
        return []
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return []


def _within(path: Path, root: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), root]) == root


def leaves(file_name: str) -> bool:
    """Whether the name leads out of its folder: `../`, an absolute path, a Windows drive, nothing at all."""
    if file_name and file_name[0] not in "/\\" and ".." not in file_name and ":" not in file_name:
        return False
    path = PurePosixPath(file_name.replace("\\", "/"))
    drive = file_name[1:2] == ":"
    return not file_name or path.is_absolute() or drive or ".." in path.parts
