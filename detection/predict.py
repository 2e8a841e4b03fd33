"""Finds objects in image files.

python -m detection.predict detector.safetensors IMAGES… --output DIR
python -m detection.predict detector.safetensors IMAGES… --json | jq …
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape

from backbones.arguments import number
from backbones.files import check_output, write_atomically
from backbones.words import printable, printable_lines, told
from celltransfer import program
from runtime.named_images import Unread, find_images, tell_unread
from runtime.progress import track
from runtime.tables import print_table, whole_table

if TYPE_CHECKING:
    from detection.evaluation.file_detections import Found, NamedResult

SHOW_PROGRESS_FROM = 10
"""Images from which a person wants to know how many are left."""


def _row(found: "Found") -> tuple[str, ...]:
    names = [result.category for result in found.results]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    best = f"{found.results[0].score:.2f}" if names else ""
    return escape(printable(str(found.path))), str(len(names)), best, escape(printable(counts))


def _unread_row(unread: Unread) -> tuple[str, ...]:
    reason = unread.reason.removeprefix(f"{unread.name}: ")
    return escape(printable(unread.name)), "", "", escape(printable(reason))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("detection.predict"),
        description="Find objects in image files. Exit code 1 where one of them cannot be read; the others "
        "are looked at all the same.",
        epilog="detections.json and --json hold COCO's results format, a list of detections, with file_name "
        "and category besides; image ids count the images from 1.",
    )
    parser.add_argument("weights", help="a detector.safetensors")
    parser.add_argument("images", nargs="+", help="image files, folders or patterns of them")
    parser.add_argument("--output", type=Path, help="folder for drawings and detections.json")
    parser.add_argument("--json", action="store_true", help="print the detections as JSON and nothing else")
    parser.add_argument(
        "--min-score", type=number(0, 1), default=0.3, help="leave out those below (default 0.3)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.json:
        parser.error("give --output DIR, or --json, or both")
    table = whole_table("image", "objects", "best", "found")
    results: list[NamedResult] = []
    read = 0
    try:
        if options.output is not None:
            check_output(options.output, folder=True)
        paths, unread = find_images(options.images)
        if not paths:
            tell_unread(unread, 0)
            return 1
        for missing in unread:
            table.add_row(*_unread_row(missing))
        from detection.detector import Detector  # imports torch, for which nothing above need wait
        from detection.evaluation.file_detections import predict

        detector = Detector.load(options.weights, options.device)
        few = len(paths) < SHOW_PROGRESS_FROM
        with track(len(paths), "predicting", images_per_unit=1, quiet=few) as progress:
            for found in predict(detector, paths, options.output, options.min_score):
                if found.error is None:
                    read += 1
                    results += found.results
                    table.add_row(*_row(found))
                else:
                    unread.append(Unread(str(found.path), found.error))
                    table.add_row(*_unread_row(unread[-1]))
                progress.advance()
        # Names as they are, as escapes: a control character or a byte that is no UTF-8 cannot do harm so.
        content = json.dumps(msgspec.to_builtins(results), indent=2) + "\n"
        if options.output is not None:
            write_atomically(options.output / "detections.json", content)
    except (ValueError, OSError, ImportError) as error:
        print(printable_lines(told(error)), file=sys.stderr)
        return 1
    if options.json:
        print(content, end="")
    else:
        print_table(table)
        print(printable(str(options.output / "detections.json")))
    tell_unread(unread, read)
    return 1 if unread else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
