"""Pascal VOC's labels: an XML file per image, boxes in pixels that count from 1 and include the last.

    Annotations/a.xml    JPEGImages/a.jpg    ImageSets/Main/train.txt: names without suffix, one a line

An object marked `difficult` becomes a crowd region, as VOC's own evaluation takes it: it is not counted, nor
here trained on. An image without an XML file has no objects.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from backbones.files import read_bytes
from backbones.words import clipped
from detection.data.labels import (
    Faults,
    LabelledImage,
    LabelledImages,
    LabelledObject,
    Wrong,
    child,
    choose_folders,
    cut,
    label_files,
    lies_beside_images,
    only_one,
    picture_files,
    picture_size,
)
from detection.data.splits import (
    FolderNames,
    note_merged_folders,
    note_merged_lists,
    split_folders,
    split_pairs,
)
from detection.data.voc_pictures import Pictures, length, listed, listed_splits
from detection.data.voc_xml import Document, XmlError
from runtime.problems import SHOWN
from runtime.progress import track

SIDES = ("xmin", "ymin", "xmax", "ymax")
SUFFIX = ".xml"
FOLDERS = FolderNames(("JPEGImages", "images"), ("Annotations", "annots"), SUFFIX)
DIFFICULT = {
    **dict.fromkeys(("", "0", "0.0", "false", "no"), False),
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
}


def read_voc(
    root: Path,
    split: str | None,
    images: Path | None = None,
    annotations: Path | None = None,
    shown: int = SHOWN,
) -> LabelledImages:
    """split: a part of it, listed in `ImageSets/Main/SPLIT.txt`, or in its own folders: `SPLIT/Annotations`,
    `Annotations/SPLIT`, or `SPLIT` with labels beside its images. Categories, by name, are those of all files
    of all parts, so that the parts agree on them. None: all; parts that this merges are told as a warning.

    images, annotations: folders of the images and of their XML files, where they lie elsewhere.
    shown: of each kind of fault. Raises FileNotFoundError for a missing folder, LabelFaults by kind, file and
    line."""
    lists = child(child(root, "ImageSets"), "Main")
    parts = split_folders(root, FOLDERS)
    pairs = [] if split is None or (lists / f"{split}.txt").exists() else split_pairs(root, split, FOLDERS)
    if not (own := any(all(folder.is_dir() for folder in pair) for pair in pairs)):
        pairs = _whole(root)
    folder, labels = choose_folders("VOC", root, pairs, (images, annotations), list(parts), SUFFIX)
    files = label_files(labels, SUFFIX)
    if not files:
        raise ValueError(f"{labels}: no .xml files in this folder")
    faults = Faults(shown)
    pictures = Pictures(folder, picture_files(folder, faults))
    found: dict[Path, LabelledImage] = {}
    taken: dict[Path, Path] = {}
    categories: set[str] = set()
    with track(len(files), "import", images_per_unit=1) as progress:
        for key, paths in files.items():
            path = only_one(paths, faults)
            labelled = None if path is None else _labelled(path, key, pictures, taken, faults)
            if labelled is not None:
                picture, image = labelled
                found[picture] = image
                categories |= {thing.category for thing in image.objects}
            progress.advance()
    wanted = None
    if own:
        others = [annotations for _, annotations in parts.values() if annotations != labels]
        categories.update(*(_names(annotations, faults) for annotations in others))
    elif split is not None:
        wanted = listed(lists / f"{split}.txt", [*listed_splits(lists), *parts], pictures, faults)
    unlabelled = 0
    chosen: list[LabelledImage] = []
    for picture in pictures.all if wanted is None else wanted:
        if picture in found:
            chosen.append(found[picture])
        elif picture not in taken and pictures.key(picture) in files:
            text = f"left out: {files[pictures.key(picture)][0]} has the labels of another image of that name"
            faults.add("image beside another one of its name", picture, text, level="warning")
        elif picture not in taken and (size := picture_size(picture, faults)) is not None:
            unlabelled += 1
            chosen.append(LabelledImage(picture.relative_to(folder).as_posix(), *size, []))
    if split is None:
        note_merged_lists(
            faults, lists, {name: length(lists / f"{name}.txt") for name in listed_splits(lists)}
        )
        given = images is not None or annotations is not None
        note_merged_folders(faults, (folder, labels), (image.file_name for image in chosen), parts, given)
    faults.refuse()
    return LabelledImages(folder, sorted(categories), chosen, unlabelled, faults.problems)


def _whole(root: Path) -> list[tuple[Path, Path]]:
    """Folders of the images and of the labels of all parts."""
    pairs = FOLDERS.inside(root)
    return [*pairs, (root, root)] if lies_beside_images(root, SUFFIX) else pairs


def _names(labels: Path, faults: Faults) -> set[str]:
    """Categories in the XML files of a folder."""
    found: set[str] = set()
    for paths in label_files(labels, SUFFIX).values():
        path = only_one(paths, faults)
        if path is not None and (document := _document(path, faults)) is not None:
            found |= {thing.findtext("name", "").strip() for thing in document.root.iter("object")}
    return found - {""}


def _labelled(
    path: Path, key: str, pictures: Pictures, taken: dict[Path, Path], faults: Faults
) -> tuple[Path, LabelledImage] | None:
    """An image and what an XML file says of it; None where something is wrong, which the faults tell."""
    if (document := _document(path, faults)) is None:
        return None
    root = document.root
    picture = _picture(path, key, root, pictures, faults)
    if picture is None or (size := picture_size(picture, faults)) is None:
        return None
    if (first := taken.setdefault(picture, path)) != path:
        faults.add("several label files of one image", path, f"labels of {picture}, as {first} has them, too")
        return None
    _check_size(path, document, picture, size, faults)
    objects = list(_objects(path, document, size, faults))
    return picture, LabelledImage(picture.relative_to(pictures.folder).as_posix(), *size, objects)


def _document(path: Path, faults: Faults) -> Document | None:
    """None where it cannot be read or is no labels of VOC: a fault then."""
    try:
        document = Document(read_bytes(path, "label"))
    except XmlError as error:
        faults.add("XML cannot be read", path, str(error), error.line)
        return None
    except (ValueError, OSError) as error:
        faults.add("XML cannot be read", path, str(error).removeprefix(f"{path}: "))
        return None
    if document.root.tag != "annotation":
        text = f"the root element is {clipped(document.root.tag)[1:-1]}, expected annotation"
        faults.add("no labels of VOC", path, text, document.lines[document.root])
        return None
    return document


def _picture(
    path: Path, key: str, root: ElementTree.Element, pictures: Pictures, faults: Faults
) -> Path | None:
    named = Path(root.findtext("filename", "").replace("\\", "/").replace("\0", "")).name
    # Some tools name the labels otherwise than the image.
    found = pictures.named(key) or pictures.named(Path(named).stem)
    if len(found) > 1:
        found = [picture for picture in found if picture.name == named] or found
    if len(found) == 1:
        return found[0]
    if found:
        text = f"labels of {' or of '.join(map(str, sorted(found)))}"
        faults.add("labels that fit several images", path, text)
    else:
        near = pictures.nearest.of_label(key)
        faults.add("labels without an image", path, f"no image {path.stem} in {pictures.folder}{near}")
    return None


def _check_size(path: Path, document: Document, picture: Path, size: tuple[int, int], faults: Faults) -> None:
    """Tools that do not know the size leave it out or write 0."""
    element = document.root.find("size")
    if element is None:
        return
    stated = element.findtext("width", "0").strip(), element.findtext("height", "0").strip()
    try:
        numbers = tuple(map(float, stated))
    except ValueError:
        numbers = (math.nan, math.nan)
    if numbers not in ((0, 0), size):
        text = f"size {clipped('x'.join(stated))[1:-1]}, but {picture} has {size[0]}x{size[1]} pixels"
        faults.add("image has another size than stated", path, text, document.lines[element])


def _objects(
    path: Path, document: Document, size: tuple[int, int], faults: Faults
) -> Iterator[LabelledObject]:
    for element in document.root.iter():
        if element.tag.lower() != "object":
            continue
        line = document.lines[element]
        if element.tag != "object":
            faults.add("odd element", path, f"element {element.tag}, expected object", line)
            continue
        try:
            yield _object(element, size, path, document.lines, faults)
        except Wrong as error:
            faults.add(error.kind, path, str(error), line)


def _object(
    element: ElementTree.Element,
    size: tuple[int, int],
    path: Path,
    lines: Mapping[ElementTree.Element, int],
    faults: Faults,
) -> LabelledObject:
    """Raises Wrong."""
    name = element.findtext("name", "").strip()
    if not name:
        raise Wrong("object without a name", "object without a name")
    boxes = element.findall("bndbox")
    if len(boxes) > 1:
        raise Wrong("object with several bndbox", f"object {clipped(name)[1:-1]} with {len(boxes)} bndbox")
    box = boxes[0] if boxes else None
    if box is None:
        turned = " but with robndbox, a rotated box" if element.find("robndbox") is not None else ""
        raise Wrong("object without bndbox", f"object {clipped(name)[1:-1]} without bndbox{turned}")
    left, top, right, bottom = (_pixels(name, side, box.findtext(side)) for side in SIDES)
    bbox = cut(left - 1, top - 1, right, bottom, size)
    if min(bbox[2:]) <= 0:
        corners = f"{[left, top, right, bottom]} of {size[0]}x{size[1]} px"
        raise Wrong("box has no area", f"object {clipped(name)[1:-1]} has no area in the image: {corners}")
    mark = next((child for child in element if child.tag.lower() == "difficult"), None)
    word = "" if mark is None else (mark.text or "").strip()
    difficult = DIFFICULT.get(word.lower())
    if mark is not None and difficult is None:
        text = f"difficult = {clipped(word)[1:-1]}, expected 0 or 1; taken for 0"
        faults.add("difficult is neither 0 nor 1", path, text, lines[mark], level="warning")
    return LabelledObject(name, bbox, crowd=bool(difficult))


def _pixels(name: str, side: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        shown = clipped(text)[1:-1] if text else text
        raise Wrong(
            "side of a box is no number",
            f"object {clipped(name)[1:-1]}: {side} = {shown}, expected a number of pixels",
        )
    return value
