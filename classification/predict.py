"""Names what is in image files.

python -m classification.predict backbone.safetensors IMAGES… [--json]
python -m classification.predict backbone.onnx IMAGES… --engine openvino
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from backbones.arguments import whole
from backbones.runtimes import RUNTIMES
from backbones.words import printable, printable_lines, told
from celltransfer import program
from runtime.named_images import Unread, find_images, tell_unread
from runtime.progress import track
from runtime.tables import print_table, whole_table

if TYPE_CHECKING:
    from classification.guesses import Guess


EXPORTED = (".onnx", ".xml")


def _as_json(path: Path, guesses: Sequence["Guess"]) -> str:
    top = [{"class": guess.name, "label": guess.label, "probability": guess.probability} for guess in guesses]
    return json.dumps({"image": str(path), "top": top})


def _add_rows(table: Table, path: Path, guesses: Sequence["Guess"]) -> None:
    for place, guess in enumerate(guesses):
        image = escape(printable(str(path))) if place == 0 else ""
        style = "bold" if place == 0 else ""
        table.add_row(image, escape(printable(guess.name)), f"{guess.probability:.1%}", style=style)
    table.add_section()


def _show_unread(table: Table, unread: Unread, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": unread.name, "error": unread.reason}), flush=True)
    else:
        reason = unread.reason.removeprefix(f"{unread.name}: ")
        table.add_row(escape(printable(unread.name)), escape(printable(reason)), "")
        table.add_section()


def _answers(
    options: argparse.Namespace, paths: Sequence[Path]
) -> Iterator[tuple[Path, list["Guess"] | Exception]]:
    """Loads the network; what was exported needs no PyTorch, whose import takes seconds."""
    if Path(options.weights).suffix in EXPORTED:
        from backbones.exported import open_exported
        from classification.exported_predictions import predict as predict_exported

        if options.device not in ("auto", "cpu"):
            raise ValueError(f"--device {options.device}: exported files run on the CPU")
        network = open_exported(options.weights, runtime=options.engine)
        return predict_exported(network, paths, top=options.top)
    if options.engine is not None:
        raise ValueError(
            f"{options.weights}: --engine {options.engine} runs exported files, which end in "
            f"{' or '.join(EXPORTED)}; {program('backbones')} export writes them"
        )
    from classification.file_predictions import load, predict

    loaded = load(options.weights, options.device, len(paths))
    return predict(loaded, paths, top=options.top, batch_size=options.batch_size)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("classification.predict"),
        description="Name what is in image files. Exit code 1 where one of them cannot be read; the others "
        "are answered all the same.",
    )
    parser.add_argument("weights", help="a backbone.safetensors, or an exported .onnx or .xml")
    parser.add_argument("images", nargs="+", help="image files, folders or patterns of them")
    parser.add_argument("--top", type=whole(1), default=5, help="classes for each image (default 5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead")
    parser.add_argument(
        "--batch-size", type=whole(1), default=16, help="images per forward pass (default 16)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--engine", choices=list(RUNTIMES), help="what runs an exported file (default: what it was made for)"
    )
    options = parser.parse_args(arguments)
    table = whole_table("image", "class", "probability")
    table.columns[2].justify = "right"
    read = 0
    try:
        paths, unread = find_images(options.images)
        for missing in unread:
            _show_unread(table, missing, options.json)
        if not paths:
            tell_unread(unread, 0)
            return 1
        answers = _answers(options, paths)
        shown = not options.json and len(paths) > options.batch_size
        with track(len(paths), "predicting", images_per_unit=1, quiet=not shown) as progress:
            for path, result in answers:
                progress.advance()
                if isinstance(result, Exception):
                    unread.append(Unread(str(path), told(result)))
                    _show_unread(table, unread[-1], options.json)
                    continue
                read += 1
                if options.json:
                    print(_as_json(path, result), flush=True)
                else:
                    _add_rows(table, path, result)
    except (ValueError, OSError, ImportError) as error:
        print(printable_lines(told(error)), file=sys.stderr)
        return 1
    if table.rows:
        print_table(table)
    tell_unread(unread, read)
    return 1 if unread else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
