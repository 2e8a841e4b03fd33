"""Folders of labels as people have them, and what `detection.import_labels` makes of them."""

from pathlib import Path

from PIL import Image

from detection.data.annotations import read_coco
from detection.import_labels import main

ROW = "0 0.5 0.5 0.5 0.5"
BOX = [10.0, 5.0, 20.0, 10.0]
"""Of ROW, in a picture of 40x20."""
XML = """<annotation>
<filename>{name}</filename>
<object><name>{label}</name>
<difficult>{difficult}</difficult>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>15</ymax></bndbox></object>
</annotation>"""


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(path)


def xml(label="cat", difficult="0", name="a.png", encoding=None) -> bytes:
    head = f'<?xml version="1.0" encoding="{encoding}"?>' if encoding else ""
    return (head + XML.format(label=label, difficult=difficult, name=name)).encode(encoding or "utf-8")


def run(kind: str, root: Path, *more: str) -> dict[str, list]:
    """What is written: boxes of each image. Raises AssertionError unless the import succeeds."""
    output = root.parent / "out.json"
    assert main(["--from", kind, str(root), "--output", str(output), *more]) == 0
    coco, _ = read_coco(output)
    return {
        str(name): coco.bboxes[coco.first[row] : coco.first[row + 1]].tolist()
        for row, name in enumerate(coco.file_names)
    }


def refused(kind: str, root: Path, capsys, *more: str) -> str:
    output = root.parent / "out.json"
    assert main(["--from", kind, str(root), "--output", str(output), *more]) == 1
    assert not output.exists()
    return capsys.readouterr().err
