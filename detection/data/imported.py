"""Labels of other formats as an annotation file in COCO format."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from backbones.files import check_output, write_atomically
from backbones.words import counted, printable
from detection.data.coco_file import CocoFile, columns
from detection.data.coco_rules import find_problems
from detection.data.coco_text import Elements
from detection.data.labels import LabelledImages
from detection.data.layouts import VOC, YOLO, Layout, Part, stated_parts
from detection.data.voc_labels import read_voc
from detection.data.yolo_labels import read_listed_yolo, read_yolo
from runtime.problems import SHOWN, Problem, refuse

READERS: Mapping[str, Callable[[Path, str | None, Path | None, Path | None, int], LabelledImages]] = {
    YOLO: read_yolo,
    VOC: read_voc,
}


def import_labels(
    kind: str,
    root: Path,
    output: Path,
    split: str | None = None,
    images: Path | None = None,
    annotations: Path | None = None,
) -> tuple[LabelledImages, list[Problem]]:
    """Reads labels and writes them to `output`; returns them and what the check warns of. kind: of READERS.

    split: a part of it, which of YOLO is what data.yaml names, before folders of that name. images,
    annotations: folders of the images and of the labels, where they lie elsewhere.
    Raises FileNotFoundError for a missing folder, ValueError that lists all faults by file and line or names
    an output that cannot be written."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    check_output(output)
    stated = stated_parts(root) if kind == YOLO and images is None and annotations is None else {}
    if split is None and any(part.listed for part in stated.values()):
        names = " and ".join(stated)
        raise ValueError(
            f"{root}: data.yaml lists the images of {names}: choose one with --split, as in --split train"
        )
    if (part := stated.get("val" if split == "valid" else split or "")) is not None:
        labelled = read_part(Layout(kind, root, stated), part)
    else:
        labelled = READERS[kind](root, split, images, annotations, SHOWN)
    return labelled, write_labels(labelled, kind, root, output)


def read_part(layout: Layout, part: Part, shown: int = SHOWN) -> LabelledImages:
    """The labels of a part that is not in COCO's format. Raises as the readers do; shown: of each fault."""
    if part.listed:
        return read_listed_yolo(layout.root, part.images, part.listed, shown)
    images, labels = (part.images, part.labels) if part.stated else (None, None)
    split = None if part.stated else part.name or None
    return READERS[layout.kind](layout.root, split, images, labels, shown)


def write_labels(
    labelled: LabelledImages, kind: str, root: Path, output: Path, where: str | None = None
) -> list[Problem]:
    """Writes labels that were read from `root` to `output`; returns what they and the check warn of.

    where: what the check calls the annotations. None: `output`. Raises as `import_labels` does."""
    called = root.name if where else str(root)  # of the same folder elsewhere the same file is made
    where = where or str(output)
    data, file = as_coco(labelled, kind, root, where, called)
    problems = find_problems(file, where)
    refuse(problems)
    write_atomically(output, data)
    return [*labelled.problems, *problems]


def as_coco(
    labelled: LabelledImages, kind: str, root: Path, where: str, called: str = ""
) -> tuple[bytes, CocoFile]:
    """The text of an annotation file, and what it says. where, called: names of the file, for problems, and
    of the data set in `root`, for its description.

    Raises ValueError for labels without an object."""
    if not labelled.categories:
        read = counted(len(labelled.images), "image")
        raise ValueError(
            f"{root}: no object in the {kind} labels of {read}, so there is no category to train on"
        )
    data = msgspec.json.encode(labelled.to_coco(f"imported from the {kind} labels of {printable(called)}"))
    return data, columns(msgspec.json.decode(data, type=Elements), where)
