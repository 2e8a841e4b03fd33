"""Finds objects in image files and videos.

python -m detection.predict detector.safetensors IMAGES… --output DIR
python -m detection.predict detector.safetensors IMAGES… --json | jq …
python -m detection.predict detector.onnx IMAGES… --engine openvino --output DIR
"""

import argparse
import itertools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape

from backbones.arguments import number
from backbones.files import check_output, write_atomically
from backbones.runtimes import RUNTIMES
from backbones.words import counted, printable, printable_lines, told
from celltransfer import program
from runtime import video
from runtime.named_images import Unread, find_images, tell_unread
from runtime.progress import track
from runtime.tables import print_table, whole_table

if TYPE_CHECKING:
    from detection.evaluation.file_detections import Finder, Found, NamedResult

SHOW_PROGRESS_FROM = 10
"""Images from which a person wants to know how many are left."""
EXPORTED = (".onnx", ".xml")


def _row(path: Path, results: Sequence["NamedResult"], frames: int, drawing: Path | None) -> tuple[str, ...]:
    """frames: of a video; 0: a picture."""
    names = [result.category for result in results]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    best = f"{max(result.score for result in results):.2f}" if names else ""
    name = f"{path} ({counted(frames, 'frame')})" if frames else str(path)
    drawn = () if drawing is None else (escape(printable(drawing.name)),)
    return escape(printable(name)), str(len(names)), best, escape(printable(counts)), *drawn


def _unread_row(unread: Unread) -> tuple[str, ...]:
    reason = unread.reason.removeprefix(f"{unread.name}: ")
    return escape(printable(unread.name)), "", "", escape(printable(reason))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("detection.predict"),
        description="Find objects in image files and videos. Exit code 1 where one of them cannot be read; "
        "the others are looked at all the same.",
        epilog="detections.json and --json hold COCO's results format, a list of detections, with file_name "
        "and category besides, and of a video the frame; image ids count images and frames from 1.",
    )
    parser.add_argument("weights", help="a detector.safetensors, or an exported .onnx or .xml")
    parser.add_argument("images", nargs="+", help="image or video files, folders or patterns of images")
    parser.add_argument(
        "--engine", choices=list(RUNTIMES), help="what runs an exported file (default: what it was made for)"
    )
    parser.add_argument("--output", type=Path, help="folder for drawings and detections.json")
    parser.add_argument("--json", action="store_true", help="print the detections as JSON and nothing else")
    parser.add_argument(
        "--min-score", type=number(0, 1), default=0.3, help="leave out those below (default 0.3)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    return parser


def _open(options: argparse.Namespace) -> "Finder":
    """What was exported needs no PyTorch, whose import takes seconds. Raises as `Detector.load` does."""
    if Path(options.weights).suffix in EXPORTED:
        from detection.deployment.runner import Runner

        if options.device not in ("auto", "cpu"):
            raise ValueError(f"--device {options.device}: exported files run on the CPU")
        return Runner.open(options.weights, options.engine)
    if options.engine is not None:
        raise ValueError(
            f"{options.weights}: --engine {options.engine} runs exported files, which end in "
            f"{' or '.join(EXPORTED)}; {program('detection.export')} writes them"
        )
    from detection.detector import Detector

    return Detector.load(options.weights, options.device)


def _advancing(found: Iterator["Found"], advance: Callable[[], object]) -> Iterator["Found"]:
    for one in found:
        yield one
        advance()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.output is None and not options.json:
        parser.error("give --output DIR, or --json, or both")
    drawn = [] if options.output is None else ["drawn in"]
    table = whole_table("image", "objects", "best", "found", *drawn)
    drawings: list[Path] = []
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
        for path in filter(video.is_video, paths):
            video.check_installed(path)
        from detection.evaluation.file_detections import predict

        detector = _open(options)
        frames = sum(video.count(path) if video.is_video(path) else 1 for path in paths)
        with track(frames, "predicting", images_per_unit=1, quiet=frames < SHOW_PROGRESS_FROM) as progress:
            found = _advancing(predict(detector, paths, options.output, options.min_score), progress.advance)
            for place, looks in itertools.groupby(found, key=lambda one: one.place):
                path, seen = paths[place - 1], list(looks)
                own = [result for look in seen for result in look.results]
                results += own
                drawings += [drawing] if (drawing := seen[0].drawing) is not None else []
                if seen[-1].error is None:
                    read += 1
                    of_video = sum(look.frame is not None for look in seen)
                    table.add_row(*_row(path, own, of_video, drawing))
                else:
                    unread.append(Unread(str(path), seen[-1].error))
                    table.add_row(*_unread_row(unread[-1]))
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
        print(printable(f"{options.output}: {counted(len(drawings), 'drawing')}"))
        print(printable(str(options.output / "detections.json")))
    tell_unread(unread, read)
    return 1 if unread else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
