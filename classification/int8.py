"""Writes a classifier for OpenVINO in int8, which is faster and a little less accurate.

    python -m classification.int8 backbone.safetensors --images DIR --output network.xml

The images calibrate it. Where their folder has the name of a class, DIR/<class>/<image>, it prints top-1
before and after; of all of them, how many keep their class.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.arguments import one_line_errors
from backbones.formats import check_export
from backbones.words import counted
from celltransfer import program
from runtime.named_images import find_images


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("classification.int8"),
        description="Write a classifier for OpenVINO in int8, calibrated on images, and say what that costs. "
        "Images in a folder that has the name of a class count as that class.",
    )
    parser.add_argument("weights", type=Path, help="a backbone.safetensors")
    parser.add_argument("--images", required=True, help="folder of images like those that it is for")
    parser.add_argument("--output", type=Path, required=True, help="the .xml to write; .bin lies beside it")
    options = parser.parse_args(arguments)
    check_export(options.output, "openvino")
    paths, unread = find_images([options.images])
    if unread:
        raise ValueError(unread[0].reason)
    from classification.quantised import write_int8  # imports torch, for which nothing above need wait

    cost = write_int8(options.weights, options.output, paths)
    print(f"int8, calibrated on {counted(cost.calibrated, 'image')}: {cost}")
    print(options.output)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
