"""A trained detector for the other engine, which computes the same."""

import dataclasses
import os

from backbones.files import check_output, real_path
from backbones.weights import check_claims, read_safetensors, write_safetensors
from detection.engines.config import ENGINES, FAMILIES
from detection.engines.description import Description
from detection.engines.renaming import TORCHVISION_AND_DETECTRON2, rename, reverse


def convert(source: str | os.PathLike[str], family: str, output: str | os.PathLike[str]) -> str:
    """Writes the detector of `source` for the engine of another family; the tensors keep their values.

    family: `torchvision` or `detectron2`. Detectron2 need not be installed. Returns the name of the new
    engine, such as `detectron2_fpn`. Raises FileNotFoundError or ValueError that names the file, the key and
    what was expected, before anything is written."""
    if family not in FAMILIES:
        raise ValueError(f"engine = {family!r}, expected one of {', '.join(FAMILIES)}")
    if real_path(output) == real_path(source):
        raise ValueError(f"{source}: would be overwritten, give another --output")
    check_output(output)
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
    blank = dataclasses.replace(description, config=theirs[0])
    check_claims(description.spec, lambda: blank.build(source), theirs[1], str(source))
    changes = {"engine": name, "detector": dataclasses.asdict(config)}
    write_safetensors(output, "detector", renamed, {**metadata, **changes})
    return name
