"""Converts a trained detector between the engines, which compute the same.

python -m detection.convert detector.safetensors --engine detectron2
"""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from backbones.weights import check_tensors, read_safetensors, write_safetensors
from detection.detector import Description
from detection.engines.registry import ENGINES
from detection.engines.renaming import TORCHVISION_AND_DETECTRON2, rename, reverse

FAMILIES = ("torchvision", "detectron2")


def convert(source: str | os.PathLike[str], family: str, output: str | os.PathLike[str]) -> str:
    """Writes the detector of `source` for the engine of another family; the tensors keep their values.

    family: `torchvision` or `detectron2`. Detectron2 need not be installed. Returns the name of the new
    engine, such as `detectron2_fpn`. Raises FileNotFoundError or ValueError that names the file, the key and
    what was expected, before anything is written."""
    if family not in FAMILIES:
        raise ValueError(f"engine = {family!r}, expected one of {', '.join(FAMILIES)}")
    if Path(output).resolve() == Path(source).resolve():
        raise ValueError(f"{source}: would be overwritten, give another --output")
    tensors, metadata = read_safetensors(source, "detector")
    description = Description.read(metadata, source)
    old = description.config
    name = f"{family}_{old.head}"
    if name == old.name:
        raise ValueError(f"{source}: is a detector of {name} already")
    pairs = TORCHVISION_AND_DETECTRON2[old.head]
    keys = {field.name: getattr(old, field.name) for field in dataclasses.fields(old)}
    try:
        renamed = rename(tensors, pairs if family == "detectron2" else reverse(pairs))
        config = ENGINES[name](**{**keys, "name": name})
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    # One side is torchvision's, which is always there to say what belongs into the file.
    theirs = (old, tensors) if family == "detectron2" else (config, renamed)
    with torch.device("meta"):
        expected = dataclasses.replace(description, config=theirs[0]).build(source).state_dict()
    check_tensors(expected, theirs[1], str(source))
    changes = {"engine": name, "detector": dataclasses.asdict(config)}
    write_safetensors(output, "detector", renamed, {**metadata, **changes})
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m detection.convert", description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path, help="a detector.safetensors")
    parser.add_argument("--engine", required=True, choices=FAMILIES, help="whose engine shall load it")
    parser.add_argument(
        "--output", type=Path, help="file to write; default: detector_detectron2.safetensors or so, beside it"
    )
    options = parser.parse_args(arguments)
    beside = options.weights.with_name(f"{options.weights.stem}_{options.engine}.safetensors")
    output = options.output or beside
    try:
        name = convert(options.weights, options.engine, output)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{output}: detector={name}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
