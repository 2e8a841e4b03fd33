"""Splits class folders `DIR/<class>/<image>` into training and validation images, in a new folder.

    python -m classification.split DIR --fraction 0.2 --output NEW

NEW then holds `train/<class>/<image>` and `val/<class>/<image>`, copies or, with `--link`, symbolic links.
DIR stays as it is. Each class gives its share. Which images are held out depends on their names and the seed
alone, so that they stay held out when others are added. `data=folder` draws the same ones without copying.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.arguments import number, one_line_errors, whole
from backbones.files import check_output, expanded
from backbones.words import counted
from celltransfer import program
from classification.class_folders import own_split
from classification.config import ImageDataConfig
from classification.data import ImageSet, open_images
from runtime import zipped
from runtime.cache import write_folder


def split(root: Path, output: Path, fraction: float, seed: int, *, link: bool) -> dict[str, int]:
    """Writes the new folder, whole or not at all; returns the number of images of each part.

    Raises FileNotFoundError or ValueError for a folder that cannot be split or an output that holds files."""
    check_output(output, folder=True)
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"{output} holds files, expected a new folder")
    config = ImageDataConfig(name="folder", root=str(root), val_fraction=fraction, split_seed=seed)
    parts = {"train": open_images(config, "train"), "val": open_images(config, "test")}
    found = own_split(root)
    if found.test is not None:
        raise ValueError(f"{root} is split already: {found.train.name} and {found.test.name}")

    def write(folder: Path) -> None:
        for name, images in parts.items():
            _place(images, found.train, folder / name, link)

    write_folder(output, "train", write)
    return {name: len(images) for name, images in parts.items()}


def _place(images: ImageSet, source: Path, folder: Path, link: bool) -> None:
    for name in images.images:
        path = Path(os.fsdecode(name))
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        at = zipped.place(path)
        if link and at is not None:
            raise ValueError(f"{path} lies in an archive, to which there are no links: leave out --link")
        if link:
            target.symlink_to(path.absolute())
        else:
            target.write_bytes(path.read_bytes() if at is None else zipped.read(at))


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("classification.split"), description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="class folders, or a zip archive of them")
    parser.add_argument("--output", type=Path, required=True, metavar="NEW", help="folder to write")
    parser.add_argument(
        "--fraction", type=number(0.001, 0.999), default=0.2, help="share to hold out; default: 0.2"
    )
    parser.add_argument("--seed", type=whole(), default=0, help="of the drawing; default: 0")
    parser.add_argument("--link", action="store_true", help="symbolic links instead of copies")
    options = parser.parse_args(arguments)
    output = expanded(options.output)
    counts = split(expanded(options.folder), output, options.fraction, options.seed, link=options.link)
    for name, count in counts.items():
        print(f"{output / name}: {counted(count, 'image')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
