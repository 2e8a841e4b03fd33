"""Times cells in a process of their own. One such process runs at a time for a user on a machine."""

import fcntl
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from backbones.formats import NEEDS
from backbones.genotype import Genotype
from backbones.runtimes import check_precision
from backbones.words import printable
from celltransfer import not_installed
from runtime.cache import cache_folder
from runtime.interrupts import signals_held
from search.latency.config import LatencyConfig
from search.latency.passes import LEAST, settled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """The passes over one network in milliseconds; none, and an error, where it could not run."""

    passes: tuple[float, ...] = ()
    error: str = ""

    @property
    def milliseconds(self) -> float:
        """Of the fastest pass."""
        return min(self.passes)

    @property
    def settled(self) -> bool:
        """Whether the fastest passes agree (`search.latency.passes`)."""
        return settled(self.passes)

    @property
    def spread(self) -> float:
        """By how much the slowest of the `LEAST` fastest passes exceeds the fastest, relative to it."""
        return sorted(self.passes)[:LEAST][-1] / self.milliseconds - 1


def check_engine(config: LatencyConfig) -> None:
    """Raises ModuleNotFoundError with the command that installs what the engine lacks, and ValueError where
    it cannot compute in `config.precision` on this machine."""
    if config.engine != "openvino":
        return
    for name in NEEDS["openvino"]:
        if importlib.util.find_spec(name) is None:
            raise not_installed(f"latency.engine = {config.engine}", name, "export")
    check_precision("latency.precision", "openvino", config.precision)


def measure(
    genotypes: Sequence[Genotype], config: LatencyConfig, on_done: Callable[[int], None] | None = None
) -> list[Timing]:
    """The times of each cell's network, as `config` says; on_done: is told how many are done.

    Waits while another measurement runs. Raises RuntimeError where the process ends before its answers."""
    if not genotypes:
        return []
    asked = {"config": asdict(config), "genotypes": [genotype.to_dict() for genotype in genotypes]}
    found: list[Timing] = []
    with _alone(), tempfile.TemporaryFile("w+") as errors:
        with _process(config, errors.fileno()) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                json.dump(asked, process.stdin)
                process.stdin.close()
            except BrokenPipeError:
                pass  # what it died of is in its errors
            for line in process.stdout:
                answer = json.loads(line)
                found.append(Timing(tuple(answer.get("passes", ())), answer.get("error", "")))
                if on_done is not None:
                    on_done(len(found))
        if len(found) < len(genotypes):
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise RuntimeError(f"the process that measures latencies ended: {printable(last)}")
    return found


@contextmanager
def _process(config: LatencyConfig, errors: int) -> Iterator[subprocess.Popen[str]]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from search.latency.worker import main; main()"
    with signals_held():
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(config.threads)},
        )
    try:
        with process:
            yield process
    finally:
        process.kill()


@contextmanager
def _alone() -> Iterator[None]:
    """Holds the lock that all who measure on this machine as this user wait for."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "latency.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another measurement of latencies runs on this machine; this one waits for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
