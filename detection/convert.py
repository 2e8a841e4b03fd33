"""Converts a trained detector between the engines, which compute the same.

python -m detection.convert detector.safetensors --engine detectron2
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.arguments import one_line_errors
from celltransfer import program
from detection.engines.config import FAMILIES


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=program("detection.convert"), description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path, help="a detector.safetensors")
    parser.add_argument("--engine", required=True, choices=FAMILIES, help="whose engine shall load it")
    parser.add_argument(
        "--output", type=Path, help="file to write; default: detector_detectron2.safetensors or so, beside it"
    )
    options = parser.parse_args(arguments)
    from detection.engines.conversion import convert  # imports torch, for which --help need not wait

    beside = options.weights.with_name(f"{options.weights.stem}_{options.engine}.safetensors")
    output = options.output or beside
    name = convert(options.weights, options.engine, output)
    print(f"{output}: detector={name}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
