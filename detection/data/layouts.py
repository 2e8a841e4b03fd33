"""Which layout a folder of labelled images has, and where its parts lie.

    COCO    annotation files in the folder, in `annotations/` or in the folders of the splits
    YOLO    `images/` with `labels/`, the folders of splits in or around them, or the folders or lists of
            images that data.yaml names
    VOC     `JPEGImages/` or `images/` with `Annotations/` or `annots/`; splits as in YOLO, or
            listed in `ImageSets/Main`

Roboflow exports these three. The folder that holds one folder alone, as archives unpack, stands for that one.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from backbones.ranges import KEY, ConfigError
from backbones.words import counted
from detection.data.coco_text import Elements, split_file
from detection.data.labels import child, lies_beside_images, mixed_folders
from detection.data.splits import FolderNames, split_folders
from detection.data.voc_labels import FOLDERS as VOC_FOLDERS
from detection.data.voc_pictures import length, listed_splits
from detection.data.yolo_labels import FOLDERS as YOLO_FOLDERS
from detection.data.yolo_lists import ListedImage
from detection.data.yolo_names import named_parts
from runtime.pictures import entries, is_folder, is_image, split_role, walk

COCO, YOLO, VOC = "coco", "yolo", "voc"
LAYOUTS = {
    COCO: "COCO (annotations/*.json, or _annotations.coco.json beside the images)",
    YOLO: "YOLO (images/ and labels/*.txt, with data.yaml or classes.txt)",
    VOC: "VOC (JPEGImages/ or images/, and Annotations/*.xml or annots/*.xml)",
}
"""What is expected, for messages."""
LOOKED_AT = 20
"""Images of an annotation file that are looked for to find their folder."""
_ANNOTATIONS = re.compile(r"(_?annotations|instances_|labels|train|val|test).*", re.IGNORECASE)
"""Names of files that are meant as annotations even where they cannot be read."""


@dataclass(frozen=True)
class Part:
    """A part of a data set. name: as it calls it; empty for the whole. images: their folder. labels: a COCO
    annotation file, or the folder of the label files. stated: the reader is told the folders, of data.yaml
    or the only ones with labels beside images. listed: the images, where data.yaml lists them; `images` is
    what they are all below then."""

    name: str
    images: Path
    labels: Path
    stated: bool = False
    listed: tuple[ListedImage, ...] = ()


@dataclass(frozen=True)
class Layout:
    """parts: by role, `train`, `val` and `test`, or `whole` alone."""

    kind: str
    root: Path
    parts: dict[str, Part]

    @property
    def in_place(self) -> bool:
        """Whether training reads annotations and images as they are. All else it converts, and leaves out
        the images that cannot be decoded."""
        return self.kind == COCO and not self.parts.keys().isdisjoint(("val", "test"))


def recognise(root: Path, kind: str | None) -> Layout:
    """The layout of a folder. kind: take this of LAYOUTS. None: the only one that is there.

    Raises ConfigError that lists what was found and what was expected."""
    found = _layouts(root)
    inner = [Path(entry.path) for entry in entries(root)]
    if not found and len(inner) == 1 and inner[0].is_dir():
        found = _layouts(inner[0])
    chosen = [layout for layout in found if kind in (None, layout.kind)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        there = "; ".join(f"{each.kind}: {_told(each)}" for each in chosen)
        raise ConfigError(
            f"{KEY}root = {root} holds several layouts ({there}): choose one, as in "
            f"{KEY}layout={chosen[0].kind}"
        )
    expected = "; or ".join(LAYOUTS.values() if kind is None else [LAYOUTS[kind]])
    raise ConfigError(f"{KEY}root = {root}: {_content(root)}; expected {expected}")


def layout_name(layout: Layout) -> str:
    exported = any((layout.root / name).exists() for name in ("README.roboflow.txt", "README.dataset.txt"))
    return f"{layout.kind.upper()} layout{' (Roboflow export)' if exported else ''}"


def _layouts(root: Path) -> list[Layout]:
    coco = _coco(root)
    others = [_labelled(root, VOC, VOC_FOLDERS), _labelled(root, YOLO, YOLO_FOLDERS)]
    return [layout for layout in (coco, *others) if layout is not None]


def _told(layout: Layout) -> str:
    return ", ".join(os.path.relpath(part.labels, layout.root) for part in layout.parts.values())


def by_role(parts: Sequence[Part], root: Path) -> dict[str, Part]:
    """The parts under what they are for; a whole beside parts is left out.

    Raises ConfigError where two are for the same."""
    roles: dict[str, Part] = {}
    for part in parts:
        role = split_role(part.name) or "whole"
        if (other := roles.get(role)) is None or part.name == role:
            roles[role] = part
        elif other.name != role:
            one, two = (each.name or str(each.labels.relative_to(root)) for each in (other, part))
            what = "are both annotations of the whole" if role == "whole" else f"are both for {role}"
            raise ConfigError(f"{KEY}root = {root}: {one} and {two} {what}, expected one of them")
    if len(roles) > 1 and "train" in roles:
        roles.pop("whole", None)
    if "train" not in roles and "whole" not in roles:
        names = ", ".join(part.name for part in roles.values())
        raise ConfigError(f"{KEY}root = {root}: only {names}, expected images to train on, too")
    return roles if "train" in roles else {"whole": roles["whole"]}


def stated_parts(root: Path) -> dict[str, Part]:
    """The parts that data.yaml names, by role; see `yolo_names.named_parts`, which raises the same."""
    return {
        role: Part(role, named.images, named.labels, stated=True, listed=named.listed)
        for role, named in named_parts(root).items()
    }


def _labelled(root: Path, kind: str, names: FolderNames) -> Layout | None:
    """Images with a label file each."""
    parts = [
        Part(name, *pair)
        for name, pair in split_folders(root, names).items()
        if split_role(name) and _any(pair[1], names.suffix)
    ]
    if kind == YOLO and (stated := stated_parts(root)):
        parts = [*stated.values()]
    pairs = [*names.inside(root), *([(root, root)] if lies_beside_images(root, names.suffix) else [])]
    for images, labels in pairs:
        if not any(split_role(part.name) == "train" for part in parts) and _is_pair(images, labels, names):
            parts.append(Part("", images, labels))
            lists = child(child(root, "ImageSets"), "Main")
            if kind == VOC:
                filled = [name for name in listed_splits(lists) if length(lists / f"{name}.txt")]
                parts += [Part(name, images, labels) for name in filled if split_role(name)]
            break
    if not parts and len(mixed := mixed_folders(root, names.suffix)) == 1:
        parts.append(Part("", mixed[0], mixed[0], stated=True))
    return Layout(kind, root, by_role(parts, root)) if parts else None


def _is_pair(images: Path, labels: Path, names: FolderNames) -> bool:
    return images.is_dir() and labels.is_dir() and _any(labels, names.suffix)


def _any(folder: Path, suffix: str) -> bool:
    """Whether a label file lies in or under the folder; `classes.txt` is none."""
    return any(
        entry.name.lower().endswith(suffix) and entry.name != "classes.txt" and not is_folder(entry)
        for entry in walk(folder)
    )


def _coco(root: Path) -> Layout | None:
    parts: list[Part] = []
    for folder in (root, child(root, "annotations"), *_split_folders(root)):
        inside = entries(folder) if folder.is_dir() else []
        files = [Path(entry.path) for entry in inside if entry.name.lower().endswith(".json")]
        parts += [part for path in _instances(files) if (part := _coco_part(root, path)) is not None]
    return Layout(COCO, root, by_role(parts, root)) if parts else None


def _split_folders(root: Path) -> list[Path]:
    return [Path(entry.path) for entry in entries(root) if is_folder(entry) and split_role(entry.name)]


def _instances(files: Sequence[Path]) -> Sequence[Path]:
    """COCO's boxes lie beside its captions and keypoints."""
    return [path for path in files if path.stem.startswith("instances_")] or files


def _coco_part(root: Path, path: Path) -> Part | None:
    """None for a file that is no annotations."""
    words = [word for word in re.split(r"[^A-Za-z0-9]+", path.stem) if split_role(word)]
    if not words and path.parent != root and split_role(path.parent.name):
        words = [path.parent.name]
    name = words[0] if words else ""
    try:
        elements = split_file(path)
    except ValueError:
        return Part(name, path.parent, path) if _ANNOTATIONS.fullmatch(path.stem) else None
    if elements.images is None or elements.categories is None:
        return None
    return Part(name, _images_folder(root, path, name, elements), path)


def _images_folder(root: Path, path: Path, name: str, elements: Elements) -> Path:
    """The folder in which most of the first images lie; of none, the one that would be usual."""
    images = child(root, "images")
    folders = [child(root, name), child(images, name), child(child(root, name), "images")] if name else []
    folders += [path.parent, images, child(root, "JPEGImages"), root]
    names = [_file_name(image) for image in (elements.images or [])[:LOOKED_AT]]
    there = [folder for folder in folders if folder.is_dir()]
    return max(there, key=lambda folder: sum(bool(each) and (folder / each).is_file() for each in names))


class _Image(msgspec.Struct):
    file_name: str = ""


def _file_name(image: msgspec.Raw) -> str:
    try:
        name = msgspec.json.decode(image, type=_Image).file_name
    except msgspec.DecodeError:  # which the reader tells
        return ""
    return name if "\0" not in name else ""


def _content(root: Path) -> str:
    """What a folder holds that has no known layout."""
    inside = entries(root)
    folders = [entry.name for entry in inside if is_folder(entry)]
    kinds: dict[str, int] = {}
    for entry in walk(root):
        if not is_folder(entry):
            kind = "image" if is_image(entry.name) else f"{Path(entry.name).suffix.lower() or 'other'} file"
            kinds[kind] = kinds.get(kind, 0) + 1
    most = sorted(kinds.items(), key=lambda item: -item[1])[:4]
    shown = ", ".join(counted(count, kind) for kind, count in most)
    text = f"found {shown or 'no files'}"
    if folders:
        more = ", …" if len(folders) > 4 else ""
        text += f" in {', '.join(f'{name}/' for name in folders[:4])}{more}"
    labels = kinds.keys() & {".txt file", ".xml file", ".json file"}
    if folders and "image" in kinds and not labels:
        text += "; class folders train a classifier (python -m classification data=folder)"
    return text
