"""What a weights file says of itself: one metadata key of a safetensors file, a JSON string."""

import json
import os
import struct
from typing import Any

from safetensors import SafetensorError, safe_open

from backbones.files import convert_json, existing, parse_json
from backbones.words import clipped, counted

FORMAT = 2
KEY = "celltransfer"


def read_metadata(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The metadata of a `backbone` or `detector` file; no tensor is read.

    Raises FileNotFoundError, or ValueError that names the file, the key and what was expected there.
    """
    existing(path, kind)
    try:
        with safe_open(path, framework="np") as file:
            header = (file.metadata() or {}).get(KEY)
            tensors = len(file.keys())
        if header is None:
            raise ValueError(f"{path}: no metadata key {KEY!r}; expected a {kind} file of this project")
    except (SafetensorError, struct.error, OSError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path}: not a {kind} file in safetensors format ({error})") from None
    value = parse_json(header, f"{path}: expected JSON under the metadata key {KEY!r}")
    metadata = convert_json(value, dict[str, Any], f"{path}: metadata.")
    if metadata.get("kind") != kind:
        raise ValueError(f"{path}: kind = {clipped(metadata.get('kind'))}, expected {kind!r}")
    if (version := metadata.get("format")) != FORMAT:
        again = "; format 1 named its tensors otherwise: train it again" if version == 1 else ""
        raise ValueError(f"{path}: format = {clipped(version)}, this version reads format {FORMAT}{again}")
    _check_cells(metadata.get("network"), tensors, path)
    return metadata


def stored_kind(path: str | os.PathLike[str]) -> str | None:
    """`backbone` or `detector`; None where the file says neither, which its reader tells."""
    try:
        with safe_open(path, framework="np") as file:
            value = json.loads((file.metadata() or {}).get(KEY, "null"))
    except (SafetensorError, struct.error, OSError, MemoryError, OverflowError, ValueError, RecursionError):
        return None
    kind = value.get("kind") if isinstance(value, dict) else None
    return kind if kind in ("backbone", "detector") else None


def _check_cells(network: Any, tensors: int, path: str | os.PathLike[str]) -> None:
    """Raises ValueError where there are too few tensors for so many cells, before these take time."""
    cells = network.get("cells_per_stage") if isinstance(network, dict) else None
    # Three stages; of two cells that follow each other at least one is built, and has tensors.
    if isinstance(cells, int) and 3 * cells > 2 * tensors:
        raise ValueError(
            f"{path}: network.cells_per_stage = {clipped(cells)}, but the file holds only "
            f"{counted(tensors, 'tensor')}"
        )
