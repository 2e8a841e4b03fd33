"""Pascal VOC's labels: an XML file per image, boxes in pixels that count from 1 and include the last.

    Annotations/a.xml    JPEGImages/a.jpg    ImageSets/Main/train.txt: names without suffix, one a line

An object marked `difficult` becomes a crowd region, as VOC's own evaluation takes it: it is not counted, nor
here trained on. XML with a document type is refused, so none can declare entities.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from detection.data.image_check import upright_size
from detection.data.labels import Faults, LabelledImage, LabelledImages, LabelledObject, cut
from runtime.pictures import image_files
from runtime.progress import track

SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(root: Path, split: str | None) -> LabelledImages:
    """split: a part of it, listed in `ImageSets/Main/SPLIT.txt`. Categories, by name, are those of all files,
    so that the parts agree on them.

    Raises FileNotFoundError for a missing folder, ValueError that lists faults by file and line."""
    labels, folder = root / "Annotations", root / "JPEGImages"
    for path in (labels, folder):
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; expected a VOC data set with it")
    files = sorted(labels.glob("*.xml"))
    if not files:
        raise ValueError(f"{labels}: no .xml files in this folder")
    faults = Faults()
    wanted = {path.stem for path in files} if split is None else _listed(root, split, labels, faults)
    pictures: dict[str, list[Path]] = {}
    for picture in image_files(folder):
        pictures.setdefault(picture.stem, []).append(picture)
    taken: dict[str, Path] = {}
    images: list[LabelledImage] = []
    categories: set[str] = set()
    with track(len(files), "import", images_per_unit=1) as progress:
        for path in files:
            image = _Document(path, faults).image(folder, pictures)
            if image is not None and (first := taken.setdefault(image.file_name, path)) != path:
                faults.add(path, f"labels of {folder / image.file_name}, as {first} has them, too")
            elif image is not None:
                categories |= {thing.category for thing in image.objects}
                images += [image] if path.stem in wanted else []
            progress.advance()
    faults.refuse()
    return LabelledImages(folder, sorted(categories), images)


def _listed(root: Path, split: str, labels: Path, faults: Faults) -> set[str]:
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the images of the split {split}")
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if words := line.split():
            names[words[0]] = number
    for name, number in names.items():
        if not (labels / f"{name}.xml").is_file():
            faults.add(path, f"{name} has no {labels / name}.xml", number)
    if not names:
        faults.add(path, "lists no images")
    return set(names)


class _Document:
    """One XML file, whose elements know their lines."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self.path, self.faults = path, faults
        self._lines: dict[ElementTree.Element, int] = {}

    def image(self, folder: Path, pictures: dict[str, list[Path]]) -> LabelledImage | None:
        """None where something is wrong, which the faults tell."""
        try:
            root = self._parse()
        except expat.ExpatError as error:
            self.faults.add(self.path, f"not XML: {expat.ErrorString(error.code)}", error.lineno)
            return None
        except ValueError as error:
            self.faults.add(self.path, str(error))
            return None
        named = Path(root.findtext("filename", "")).name
        # Some tools name the labels otherwise than the image.
        found = pictures.get(self.path.stem) or pictures.get(Path(named).stem) or []
        if len(found) > 1:
            found = [path for path in found if path.name == named] or found
        if len(found) != 1:
            none = f"no image {self.path.stem} in {folder}"
            several = f"labels of {' or of '.join(map(str, sorted(found)))}"
            self.faults.add(self.path, several if found else none)
            return None
        (picture,) = found
        try:
            size = upright_size(picture)
        except ValueError as error:
            self.faults.shown.append(str(error))
            return None
        self._check_size(root, picture, size)
        objects = list(self._objects(root, size))
        return LabelledImage(picture.relative_to(folder).as_posix(), *size, objects)

    def _parse(self) -> ElementTree.Element:
        """Raises expat.ExpatError, or ValueError for a document type."""
        builder = ElementTree.TreeBuilder()
        parser = expat.ParserCreate()

        def start(tag: str, attributes: dict[str, Any]) -> None:
            self._lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

        def refuse(*_: Any) -> None:
            raise ValueError("declares a document type (<!DOCTYPE>), which labels have no need of")

        parser.StartElementHandler = start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.StartDoctypeDeclHandler = refuse
        parser.Parse(self.path.read_bytes(), True)
        return builder.close()

    def _check_size(self, root: ElementTree.Element, picture: Path, size: tuple[int, int]) -> None:
        """Tools that do not know the size leave it out or write 0."""
        element = root.find("size")
        if element is None:
            return
        stated = element.findtext("width", "0").strip(), element.findtext("height", "0").strip()
        if stated not in (("0", "0"), (str(size[0]), str(size[1]))):
            text = f"size {'x'.join(stated)}, but {picture} has {size[0]}x{size[1]} pixels"
            self.faults.add(self.path, text, self._lines[element])

    def _objects(self, root: ElementTree.Element, size: tuple[int, int]) -> Iterator[LabelledObject]:
        for element in root.iter("object"):
            try:
                yield _object(element, size)
            except ValueError as error:
                self.faults.add(self.path, str(error), self._lines[element])


def _object(element: ElementTree.Element, size: tuple[int, int]) -> LabelledObject:
    """Raises ValueError that says what is wrong with it."""
    name = element.findtext("name", "").strip()
    if not name:
        raise ValueError("object without a name")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"object {name} without bndbox")
    left, top, right, bottom = (_pixels(name, side, box.findtext(side)) for side in SIDES)
    bbox = cut(left - 1, top - 1, right, bottom, size)
    if min(bbox[2:]) <= 0:
        raise ValueError(
            f"object {name} has no area in the image: {[left, top, right, bottom]} of {size[0]}x{size[1]} px"
        )
    return LabelledObject(name, bbox, crowd=element.findtext("difficult", "0").strip() == "1")


def _pixels(name: str, side: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"object {name}: {side} = {text}, expected a number of pixels")
    return value
