"""What a weights file says of itself: one metadata key of a safetensors file, a JSON string."""

import json
import os
import struct
from typing import Any

from safetensors import SafetensorError, safe_open

from backbones.files import convert_json, existing

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
        if header is None:
            raise ValueError(f"{path}: no metadata key {KEY!r}; expected a {kind} file of this project")
        value = json.loads(header)
    except (SafetensorError, struct.error, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a {kind} file in safetensors format ({error})") from None
    metadata = convert_json(value, dict[str, Any], f"{path}: metadata.")
    if metadata.get("kind") != kind:
        raise ValueError(f"{path}: kind = {metadata.get('kind')!r}, expected {kind!r}")
    if (version := metadata.get("format")) != FORMAT:
        again = "; format 1 named its tensors otherwise: train it again" if version == 1 else ""
        raise ValueError(f"{path}: format = {version!r}, this version reads format {FORMAT}{again}")
    return metadata
