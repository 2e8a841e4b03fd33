"""Sends runs that were tracked offline to wandb, from whatever folder they lie in now.

    python -m pipeline.wandb_sync RUNS…

RUNS are folders of chains or stages, or folders of these. `wandb sync` finds the files of artifacts by the
paths that they had, outside the run's folder, and passes over those that are gone. This command lets it send
metrics, tables and pictures, then logs the genotype, the backbone and the detector from the run's own folder,
and links each stage to the file that it began with. What arrived before is not sent again. Exit code 0: all
arrived; 1: something did not.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backbones.arguments import documented_parser
from backbones.words import counted, printable, told
from runtime.digests import FILE as DIGESTS
from runtime.digests import digest, read_digests
from runtime.wandb_runs import FILE, WandbRun, products

ORDER = ("search", "classification", "detection")
"""Stages; a later one begins with the file of an earlier one."""


def find(places: Sequence[Path]) -> list[tuple[Path, WandbRun]]:
    """Folders of tracked runs at, or at most three levels below, the places; earlier stages first.

    Raises FileNotFoundError for a place without any, ValueError for a damaged `wandb_run.json`."""
    found: dict[Path, WandbRun] = {}
    for place in places:
        depths = ("", "*/", "*/*/", "*/*/*/")
        files = [path for depth in depths for path in sorted(place.glob(f"{depth}{FILE}"))]
        if not files:
            raise FileNotFoundError(f"{place}: no run that was tracked by wandb, expected {FILE} in it")
        found |= {path.parent: WandbRun.load(path.parent) for path in files}
    rank = {stage: number for number, stage in enumerate(ORDER)}
    return sorted(found.items(), key=lambda one: rank.get(one[1].job_type, len(rank)))


def send(folder: Path, run: WandbRun) -> Iterator[str]:
    """Sends one run; gives a line for what arrived. Raises ValueError that says what did not."""
    yield _send_metrics(folder)
    files = products(folder)
    _check(folder, [path for _, path in files])
    import wandb

    with tempfile.TemporaryDirectory() as place:
        experiment = wandb.init(
            project=run.project,
            id=run.id,
            resume="must",
            mode="online",
            dir=place,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
            reinit="finish_previous",
        )
        try:
            for each in run.inputs.values():
                if each.artifact:
                    yield _use(experiment, each.reference, each.kind)
            for kind, path in files:
                yield _log(experiment, wandb, path, kind, run)
            yield f"run      {experiment.url}"
        finally:
            experiment.finish()


def _send_metrics(folder: Path) -> str:
    """What `wandb sync` sends of all sittings of a run."""
    records = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    if not records:
        return "metrics  none were kept offline"
    command = [sys.executable, "-m", "wandb", "sync", *map(str, records)]
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise ValueError(f"{folder}: wandb sync failed: {lines[-1] if lines else done.returncode}")
    return f"metrics  of {counted(len(records), 'sitting')}"


def _check(folder: Path, files: Sequence[Path]) -> None:
    """Raises ValueError for a file that is not what it was when the run finished."""
    recorded = read_digests(folder) if (folder / DIGESTS).exists() else {}
    for path in files:
        if recorded.get(path.name, digest(path)) != digest(path):
            raise ValueError(f"{path}: is not the file that the run wrote, so it is not sent")


def _use(experiment: Any, reference: str, kind: str) -> str:
    try:
        experiment.use_artifact(reference, type=kind)
    except Exception as error:  # wandb's own, of many kinds
        raise ValueError(
            f"{reference}: wandb does not have this {kind}, which the run began with; send the run that "
            f"wrote it first ({str(error).splitlines()[0]})"
        ) from None
    return f"uses     {reference}"


def _log(experiment: Any, wandb: Any, path: Path, kind: str, run: WandbRun) -> str:
    from runtime.tracking import add_artifact

    artifact = add_artifact(experiment, wandb, path=path, kind=kind, described=run)
    artifact.wait()
    return f"artifact {artifact.name}, {path.name}"


def _logged_in() -> bool:
    import wandb

    return bool(wandb.login(prompt=False))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("pipeline.wandb_sync", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="folders")
    asked = parser.parse_args(arguments)
    os.environ.pop("WANDB_MODE", None)  # offline, by which the runs were kept
    os.environ["WANDB_SILENT"] = "true"
    try:
        found = find(asked.runs)
        if not _logged_in():
            print("nobody is logged in to wandb: wandb login, or set WANDB_API_KEY", file=sys.stderr)
            return 1
    except (OSError, ValueError) as error:
        print(printable(told(error)), file=sys.stderr)
        return 1
    failed = 0
    for folder, run in found:
        print(printable(f"{run.name} ({folder})"), flush=True)
        try:
            for line in send(folder, run):
                print(printable(f"  {line}"), flush=True)
        except Exception as error:  # of wandb, whose kinds are many: the other runs are sent
            failed += 1
            print(printable(f"  FAILED   {told(error)}"), flush=True)
    sent = f"{len(found) - failed} of {counted(len(found), 'run')} sent"
    print(sent if failed else f"{counted(len(found), 'run')} sent")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
