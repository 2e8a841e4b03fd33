"""Class names of a YOLO data set: `data.yaml`, `classes.txt` or `obj.names`.

YAML is read as its author wrote it: `on`, `010` and `1e3` are names, not true, 8 and 1000. Nothing is built
of it but the few values that are asked for, so aliases that stand for gigabytes cost nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from backbones.files import read_text
from backbones.words import clipped
from detection.data.labels import Faults
from detection.data.yolo_lists import ListedImage, common_folder, listed_images
from runtime.pictures import entries
from runtime.yaml_files import compose

TEXTS = ("classes.txt", "labels/classes.txt", "obj.names")
YAMLS = ("data.yaml", "data.yml", "dataset.yaml")
"""Looked at first."""


class YoloNames(NamedTuple):
    """categories: by index. keypoints: words of a pose behind the box of each row; None: no poses."""

    categories: list[str]
    keypoints: int | None = None


def read_names(root: Path, faults: Faults) -> YoloNames:
    """Raises FileNotFoundError where no file has names, ValueError that names the file and what is wrong."""
    for path in _yaml_files(root):
        content = _mapping(path)
        if (names := content.get("names")) is None:
            continue
        categories = _checked(path, _in_order(path, names))
        count = content.get("nc")
        if count is not None and _text(count) != str(len(categories)):
            text = f"nc = {_text(count)}, but names has {len(categories)}"
            faults.add("data.yaml: another number of names than nc says", path, text, level="warning")
        return YoloNames(categories, _keypoints(path, content.get("kpt_shape")))
    for name in TEXTS:
        if (path := root / name).exists() or path.is_symlink():
            return YoloNames(_checked(path, read_text(path, "class names").rstrip().split("\n")))
    raise FileNotFoundError(
        f"{root}: no class names, expected data.yaml with the key names, or one of {', '.join(TEXTS)}"
    )


class Named(NamedTuple):
    """Folders of images and of their labels; or, where images are listed, what they are all below, twice."""

    images: Path
    labels: Path
    listed: tuple[ListedImage, ...] = ()


def named_parts(root: Path) -> dict[str, Named]:
    """What the YAML file names, by role, `train`, `val` and perhaps `test`.

    Empty unless it names places for the first two that are there: many files hold another machine's paths.
    Raises ValueError for a list that cannot be read, and for a data.yaml that cannot be read."""
    for path in _yaml_files(root):
        try:
            content = _mapping(path)
        except ValueError:
            if path.name in YAMLS:
                raise
            continue
        if "names" not in content:
            continue
        found = {}
        for role, keys in {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}.items():
            node = next((content[key] for key in keys if key in content), None)
            if node is not None and (part := _named_part(path, role, node, content.get("path"))):
                found[role] = part
        if "train" in found and "val" in found:
            return found
    return {}


def _named_part(path: Path, role: str, node: yaml.Node, base: yaml.Node | None) -> Named | None:
    """None where nothing that is named is there. Raises ValueError where only some of it is."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    bases = [*([path.parent / _text(base)] if base is not None else []), path.parent]
    places = {_text(each): _place(_text(each), bases) for each in nodes}
    there = [place for place in places.values() if place is not None]
    if not there:
        return None
    if missing := [name for name, place in places.items() if place is None]:
        raise ValueError(f"{path}: {role} names {clipped(missing[0])}, and no such folder or list is there")
    if len(there) == 1 and there[0].is_dir():
        return Named(there[0], _labels_of(there[0]))
    listed = listed_images(there, next((folder for folder in bases if folder.is_dir()), path.parent))
    return Named(folder := common_folder(listed), folder, listed)


def _place(name: str, bases: Sequence[Path]) -> Path | None:
    """As Ultralytics finds it: below `path` or the file, Roboflow's `../` taken for `./`."""
    if not name or "\0" in name:
        return None
    places = [around / each for each in (name, name.removeprefix("../")) for around in bases]
    return next((place for place in places if place.is_dir() or _is_list(place)), None)


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and path.is_file()


def _labels_of(images: Path) -> Path:
    """`labels` for the last `images` of the path, else the folder itself."""
    parts = list(images.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
        if (labels := Path(*parts)).is_dir():
            return labels
    return images


def _yaml_files(root: Path) -> list[Path]:
    names = [entry.name for entry in entries(root) if entry.name.lower().endswith((".yaml", ".yml"))]
    return [root / name for name in sorted(names, key=lambda name: (name not in YAMLS, name))]


def _mapping(path: Path) -> dict[str, yaml.Node]:
    """The values of the top level as they are parsed; empty where it is none."""
    node = compose(path, "YAML")
    if not isinstance(node, yaml.MappingNode):
        return {}
    return dict(_pairs(path, node, ""))


def _pairs(path: Path, node: yaml.MappingNode, where: str) -> list[tuple[str, yaml.Node]]:
    """Raises ValueError for a key that is given twice: which one holds is anybody's guess."""
    pairs = [(_text(key), value) for key, value in node.value]
    keys = [key for key, _ in pairs]
    if repeated := next((key for key in keys if keys.count(key) > 1), None) if len(keys) < 10_000 else None:
        raise ValueError(f"{path}: {where}the key {clipped(repeated)} is given more than once")
    return pairs


def _text(node: yaml.Node) -> str:
    """As written; the kind of what is no text."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _in_order(path: Path, names: yaml.Node) -> list[str]:
    if isinstance(names, yaml.SequenceNode):
        found = list(names.value)
    elif isinstance(names, yaml.MappingNode):
        by_index = dict(_pairs(path, names, "names: "))
        wanted = [str(index) for index in range(len(by_index))]
        if wrong := [key for key in by_index if key not in set(wanted)]:
            raise ValueError(
                f"{path}: names has the key {clipped(wrong[0])}, expected 0, 1, 2, … without gaps"
            )
        found = [by_index[index] for index in wanted]
    else:
        raise ValueError(
            f"{path}: names = {clipped(_text(names))}, expected a list, or a mapping from 0, 1, 2, …"
        )
    for index, name in enumerate(found):
        if not isinstance(name, yaml.ScalarNode):
            raise ValueError(f"{path}: names[{index}] is {_text(name)}, expected text")
    return [_text(name) for name in found]


def _checked(path: Path, names: Sequence[str]) -> list[str]:
    words = [name.strip() for name in names]
    if not any(words):
        raise ValueError(f"{path}: no class names")
    seen: set[str] = set()
    for name in words:
        if not name or name in seen:
            raise ValueError(f"{path}: class name {clipped(name)} is empty or given more than once")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path}: class name {clipped(name)} is no text in Unicode") from None
        seen.add(name)
    return words


def _keypoints(path: Path, shape: yaml.Node | None) -> int | None:
    if shape is None:
        return None
    words = [_text(word) for word in shape.value] if isinstance(shape, yaml.SequenceNode) else [_text(shape)]
    if len(words) == 2 and all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
        points, values = map(int, words)
        if points >= 1 and values in (2, 3):
            return points * values
    shown = clipped(", ".join(words))[1:-1]
    shown = f"[{shown}]" if isinstance(shape, yaml.SequenceNode) else shown
    raise ValueError(f"{path}: kpt_shape = {shown}, expected [points, 2] or [points, 3]")
