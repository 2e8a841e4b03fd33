"""Milliseconds of cells in a file of a run: each is measured once, and found there when the run goes on."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from backbones.files import decode_json, write_atomically
from backbones.genotype import Genotype
from backbones.words import counted
from runtime.progress import track
from search.latency.config import LATENCY, LatencyConfig
from search.latency.measure import measure
from search.latency.worker import TOGETHER

log = logging.getLogger(__name__)

FILE = "latencies.json"


def latencies(folder: Path, cells: Sequence[Genotype], config: LatencyConfig) -> list[float | None]:
    """Milliseconds of each cell's network, measured where the folder's file does not have it.

    None where the engine cannot run it, of which a warning tells. Of `config` the file tells sizes of the
    network apart, and nothing else: the run's own configuration keeps the rest from changing."""
    path = folder / FILE
    names = [f"{cell.key} {config.cells_per_stage}x{config.filters}" for cell in cells]
    known = decode_json(path, dict[str, list[float]], "latencies") if path.exists() else {}
    missing = {name: cell for name, cell in zip(names, cells, strict=True) if name not in known}
    if missing:
        log.info("timing %s: %s", counted(len(missing), "network"), _told(config))
        with track(len(names), LATENCY, done=len(names) - len(missing)) as progress:
            for start in range(0, len(missing), TOGETHER):
                part = list(missing)[start : start + TOGETHER]
                timings = measure([missing[name] for name in part], config, lambda done: progress.advance())
                for name, timing in zip(part, timings, strict=True):
                    if timing.error:
                        log.warning("cell %s cannot be timed: %s", name.split()[0], timing.error)
                    known[name] = list(timing.passes)
                write_atomically(path, json.dumps(known, indent=1))
    return [min(known[name], default=None) for name in names]


def _told(config: LatencyConfig) -> str:
    threads = counted(config.threads, "thread")
    size = f"{counted(config.cells_per_stage, 'cell')} per stage, {counted(config.filters, 'filter')}"
    return f"{size}, {config.width}x{config.height} px, {config.engine} {config.precision}, {threads}"
