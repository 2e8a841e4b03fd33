"""Writes a detector as one program for other runtimes: ONNX, OpenVINO, or PyTorch's exported program.

    python -m detection.export detector.safetensors --format onnx --output detector.onnx
    python -m detection.export detector.safetensors --format openvino --output d.xml --images DIR --int8

What the program takes and gives: `detection.deployment.program`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.arguments import one_line_errors
from backbones.formats import check_export
from backbones.words import counted, printable
from celltransfer import program
from detection.deployment import FORMATS
from runtime.digests import digest
from runtime.progress import ConsoleHandler

if TYPE_CHECKING:
    from detection.deployment.export import Report
    from detection.deployment.int8 import Cost


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.export"),
        description="Write a detector as one program that looks at one image of any size; NMS is inside. The "
        "file is written once it finds, in the runtime that it is for, what the detector finds.",
    )
    parser.add_argument("weights", type=Path, help="a detector.safetensors")
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the file to write")
    parser.add_argument(
        "--output", type=Path, required=True, help="file to write: .onnx, .xml (and .bin) or, for torch, .pt2"
    )
    parser.add_argument(
        "--images", type=Path, help="folder of pictures to compare file and detector on (default: patterns)"
    )
    parser.add_argument("--int8", action="store_true", help="quantise, calibrated on the pictures; OpenVINO")
    parser.add_argument("--annotations", type=Path, help="of the pictures, in COCO's format: AP in int8")
    options = parser.parse_args(arguments)
    check_export(options.output, options.format, FORMATS)
    from detection.deployment.export import export  # imports torch, for which neither need wait
    from detection.detector import Detector

    detector = Detector.load(options.weights, "cpu")
    report = export(
        detector,
        options.output,
        options.format,
        weights=digest(options.weights),
        images=options.images,
        annotations=options.annotations,
        int8=options.int8,
    )
    _tell(report)
    print(options.output)
    return 0


def _tell(report: "Report") -> None:
    print(printable(f"compared on {report.pictures}: {report.comparison}"))
    if report.cost is not None:
        for line in _cost(report.cost):
            print(printable(line))


def _cost(cost: "Cost") -> list[str]:
    first = f"int8, calibrated on {counted(cost.calibrated, 'picture')}"
    if cost.kept is not None:
        confident, kept = cost.kept
        return [f"{first}: finds {kept} of the {confident} detections of a score from 0.5 again"]
    percent = {
        name: " → ".join("-" if value is None else f"{100 * value:.1f}" for value in both)
        for name, both in cost.ap.items()
    }
    whole = percent.pop("AP")
    return [f"{first}: AP {whole}", *(f"  {name} {both}" for name, both in percent.items())]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ConsoleHandler()])
    logging.getLogger("detection").setLevel(logging.INFO)
    sys.exit(main())
