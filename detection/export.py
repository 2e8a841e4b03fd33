"""Writes a detector as one program for other runtimes: PyTorch's exported program, or ONNX.

    python -m detection.export detector.safetensors --format onnx --size 800 1088 --output detector.onnx

What the program takes and gives: `detection.deployment.program`.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.arguments import one_line_errors, whole
from backbones.formats import check_export
from celltransfer import program
from detection.data.sizing import SIDES
from detection.deployment import FORMATS


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("detection.export"),
        description="Write a detector as one program that looks at one image of a fixed size; NMS is inside.",
    )
    parser.add_argument("weights", help="a detector.safetensors")
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the file to write")
    parser.add_argument(
        "--size", type=whole(*SIDES), nargs=2, metavar=("H", "W"), required=True, help="pixels of the image"
    )
    parser.add_argument("--output", type=Path, required=True, help="file to write: .onnx, or .pt2 for torch")
    options = parser.parse_args(arguments)
    check_export(options.output, options.format, FORMATS)
    from detection.deployment.program import export  # imports torch, for which neither need wait
    from detection.detector import Detector

    detector = Detector.load(options.weights, "cpu")
    export(detector, options.output, options.format, *options.size)
    print(options.output)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
