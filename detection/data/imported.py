"""Labels of other formats as an annotation file in COCO format."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from backbones.files import check_output, write_atomically
from backbones.words import counted, printable
from detection.data.coco_file import columns
from detection.data.coco_rules import find_problems
from detection.data.coco_text import Elements
from detection.data.labels import LabelledImages
from detection.data.voc_labels import read_voc
from detection.data.yolo_labels import read_yolo
from runtime.problems import Problem, refuse

READERS: Mapping[str, Callable[[Path, str | None, Path | None, Path | None], LabelledImages]] = {
    "yolo": read_yolo,
    "voc": read_voc,
}


def import_labels(
    kind: str,
    root: Path,
    output: Path,
    split: str | None = None,
    images: Path | None = None,
    annotations: Path | None = None,
    where: str | None = None,
) -> tuple[LabelledImages, list[Problem]]:
    """Reads labels and writes them to `output`; returns them and what the check warns of. kind: of READERS.

    images, annotations: folders of the images and of the labels, where they lie elsewhere. where: what the
    check calls the annotations. None: `output`.
    Raises FileNotFoundError for a missing folder, ValueError that lists all faults by file and line or names
    an output that cannot be written."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    check_output(output)
    labelled = READERS[kind](root, split, images, annotations)
    return labelled, write_labels(labelled, kind, root, output, where)


def write_labels(
    labelled: LabelledImages, kind: str, root: Path, output: Path, where: str | None = None
) -> list[Problem]:
    """Writes labels that were read from `root` to `output`; returns what they and the check warn of.

    where: as in `import_labels`, which raises the same."""
    if not labelled.categories:
        read = counted(len(labelled.images), "image")
        raise ValueError(
            f"{root}: no object in the {kind} labels of {read}, so there is no category to train on"
        )
    source = root.name if where else str(root)  # of the same folder elsewhere the same file is made
    data = msgspec.json.encode(labelled.to_coco(f"imported from the {kind} labels of {printable(source)}"))
    where = where or str(output)
    problems = find_problems(columns(msgspec.json.decode(data, type=Elements), where), where)
    refuse(problems)
    write_atomically(output, data)
    return [*labelled.problems, *problems]
