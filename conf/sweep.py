"""What becomes of a sweep's jobs that fail: each is reported when it happens, and counted at the end."""

import sys
import traceback
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from backbones.words import counted

LIST = "failed.txt"


class ReportedJob(JobReturn):
    """A failed job whose error has been printed; Hydra's own return prints its overrides once more."""

    @property  # type: ignore[misc]  # without the setter, which nothing calls any more
    def return_value(self) -> Any:
        raise vars(self)["_return_value"]


class FailedJobs(Callback):
    """Hydra's callback. `failed.txt` in the sweep's folder has a line for each failed job.

    A file, since a launcher may run the jobs in other processes, on other machines."""

    path: ClassVar[Path | None] = None
    """Of this process's sweep, once it has begun."""
    printed: ClassVar[dict[str, int]] = {}
    """Lines that this process has printed, with the number of the job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        FailedJobs.path = Path(config.hydra.sweep.dir) / LIST
        FailedJobs.path.unlink(missing_ok=True)
        FailedJobs.printed = {}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        hydra = config.hydra
        if hydra.mode != RunMode.MULTIRUN or job_return.status != JobStatus.FAILED:
            return
        error = vars(job_return)["_return_value"]  # the property raises it, and prints
        reason = str(error)
        if not isinstance(error, CompactHydraException):  # a bug, not a refusal
            traceback.print_exception(error)
            reason = f"{type(error).__name__}: {error}"
        overrides = " ".join(job_return.overrides or ())
        folder = hydra.runtime.output_dir
        where = f", {folder}" if Path(folder).is_dir() else ""  # not where it was refused before it began
        line = f"job {hydra.job.num} ({overrides}) failed{where}: {reason}"
        print(line, file=sys.stderr, flush=True)
        entry = " ".join(line.split())
        FailedJobs.printed[entry] = hydra.job.num
        with (Path(hydra.sweep.dir) / LIST).open("a") as file:
            file.write(f"{entry}\n")
        job_return.__class__ = ReportedJob


def failed_jobs() -> list[str]:
    """What is said at the end of this process's sweep of the jobs that failed; nothing where none did.

    Of those that ran in this process the reason has been printed."""
    path = FailedJobs.path
    lines = path.read_text().splitlines() if path is not None and path.is_file() else []
    if not lines:
        return []
    here = [str(FailedJobs.printed[line]) for line in lines if line in FailedJobs.printed]
    above = f"; see above for {', '.join(here)}" if here else ""
    head = f"{counted(len(lines), 'job')} failed, as {path} says{above}"
    others = [line for line in lines if line not in FailedJobs.printed]
    return [f"{head}:" if others else head, *others]
