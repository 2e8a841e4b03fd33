"""Says whether runs can start on this machine.

    python -m pipeline.doctor [RUNS] [--data DIR…]

Looks at versions, device, memory, disk, extras, the folder for runs, data folders and wandb. A line that
starts with `FAULT` stops runs and comes with what to do; `note` says what is limited or can be added. Nothing
is written, downloaded or asked of a network. Exit code 0: no faults; 1: at least one.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from backbones.arguments import documented_parser
from backbones.files import check_output
from backbones.words import counted, printable, told
from celltransfer import ROOT, install_command
from pipeline.torch_probe import probe
from pipeline.wandb_login import wandb_mode
from runtime.code_version import code_version
from runtime.yaml_files import read_mapping
from search.ledger.file_system import SHARED, file_system

GIB = 2**30
LEAST_DISK, LOW_DISK = GIB // 2, 10 * GIB
"""Bytes: below the first no training can keep its checkpoints, below the second not the paper's networks."""
LOW_MEMORY = 4 * GIB
"""Bytes of the machine's memory below which the demo may not fit."""
LOW_SHARED_MEMORY = GIB
"""Bytes of /dev/shm, through which loader workers hand over images; Docker gives 64 MiB."""
FOR_DEVELOPERS = ("test", "fuzz")
"""Extras that no run needs."""
SHOWN = ("torch", "torchvision", "lightning", "wandb")
RUNS_READ = 50
"""Newest runs whose data folders are looked at."""


class Line(NamedTuple):
    """One finding. level: `ok`, `note` or `FAULT`."""

    level: str
    topic: str
    text: str


def examine(runs: Path, data: Sequence[Path] = ()) -> Iterator[Line]:
    """All findings. runs: folder that runs are written into. data: folders that have to be there."""
    yield Line("ok", "celltransfer", f"{code_version()} in {ROOT}")
    requirements, extras = _declared()
    yield from _python()
    yield from _packages(requirements)
    yield from _device()
    yield from _memory()
    yield from _runs(runs)
    yield from _extras(extras)
    yield from _data(runs, data)
    yield Line("note" if (found := wandb_mode()).offline else "ok", "wandb", found.text)


def _declared() -> tuple[list[str], dict[str, list[str]]]:
    """What the package requires, and its extras by name: of the clone, or of the installed package."""
    if (ROOT / "pyproject.toml").is_file():
        with (ROOT / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        return project["dependencies"], project["optional-dependencies"]
    try:
        declared = importlib.metadata.requires("celltransfer") or []
    except importlib.metadata.PackageNotFoundError:
        return [], {}
    required: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in declared:
        requirement, _, marker = line.partition(";")
        if found := re.search(r"""extra\s*==\s*["']([\w-]+)["']""", marker):
            extras.setdefault(found[1], []).append(requirement.strip())
        else:
            required.append(requirement.strip())
    return required, extras


def _unmet(requirement: str) -> str:
    """What is wrong with an installed package, such as `torch is 2.1.0, expected >=2.11`; empty: nothing."""
    name = re.split(r"[\s<>=!~\[;]", requirement, maxsplit=1)[0]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    try:
        from packaging.requirements import Requirement
    except ImportError:  # then wandb and Lightning, which require it, do not work either
        return "packaging is not installed"
    expected = Requirement(requirement).specifier
    wrong = not expected.contains(version, prereleases=True)
    return f"{name} is {version}, expected {expected}" if wrong else ""


def _python() -> Iterator[Line]:
    old = sys.version_info < (3, 11)
    advice = "; celltransfer needs 3.11 or newer" if old else ""
    yield Line("FAULT" if old else "ok", "python", f"{platform.python_version()} ({sys.executable}){advice}")


def _packages(requirements: Sequence[str]) -> Iterator[Line]:
    faults = [fault for requirement in requirements if (fault := _unmet(requirement))]
    if not requirements:
        yield Line("note", "packages", "celltransfer is not installed here: what it requires is unknown")
    for fault in faults:
        where = f"-e {ROOT}" if (ROOT / "pyproject.toml").is_file() else "--upgrade celltransfer"
        yield Line("FAULT", "packages", f"{fault}: {sys.executable} -m pip install {where}")
    if requirements and not faults:
        versions = "  ".join(f"{name} {importlib.metadata.version(name)}" for name in SHOWN)
        yield Line("ok", "packages", f"{versions}  and {len(requirements) - len(SHOWN)} more, as required")


def _device() -> Iterator[Line]:
    try:
        found = probe()
    except (ValueError, OSError) as error:
        yield Line("FAULT", "device", f"{error}; install PyTorch anew: https://pytorch.org/get-started")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = f"{counted(cores, 'core')}, {counted(found['threads'], 'thread')}, {found['capability']}"
    if not found["works"]:
        yield Line("FAULT", "device", f"a small network does not train on {found['auto']}")
    elif found["devices"]:
        cards = ", ".join(f"{name} ({_size(memory)})" for name, memory in found["devices"])
        yield Line("ok", "device", f"{found['auto']}: {cards}, CUDA {found['cuda']}; CPU: {cpu}")
    else:
        yield Line("ok", "device", f"cpu: {cpu}")
        if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
            built = f"is built for CUDA {found['cuda']}" if found["cuda"] else "is built without CUDA"
            text = f"an NVIDIA driver is here, but PyTorch, which {built}, finds no device: see nvidia-smi"
            yield Line("note", "", text)


def _memory() -> Iterator[Line]:
    total, free = _memory_bytes()
    if total:
        low = "; use small networks and batches" if total < LOW_MEMORY else ""
        available = f"{_size(free)} free of {_size(total)}"
        yield Line("note" if low else "ok", "memory", f"{available}{low}")
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < LOW_SHARED_MEMORY:
        advice = "set data.workers=0, or give the container more (docker run --shm-size=2g)"
        yield Line("note", "", f"/dev/shm has {_size(size)}: {advice}")


def _memory_bytes() -> tuple[int, int]:
    """Total and free, of the machine or of the container that limits it; zeros where neither is told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":") for line in lines)}
        total, free = known["MemTotal"], known["MemAvailable"]
    except (OSError, ValueError, LookupError):
        return 0, 0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # `max`: no limit
        return total, free
    return min(total, limit), min(free, max(0, limit - used))


def _runs(runs: Path) -> Iterator[Line]:
    try:
        check_output(runs, folder=True)
    except (ValueError, OSError) as error:
        yield Line("FAULT", "runs", f"{error}; choose another folder: run_dir=DIR")
        return
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    text = f"{runs} can be written, {_size(free)} free"
    if free < LEAST_DISK:
        yield Line("FAULT", "runs", f"{text}: a run needs {_size(LEAST_DISK)}; run_dir=DIR on another disk")
    else:
        low = f"; large networks need {_size(LOW_DISK)} for checkpoints" if free < LOW_DISK else ""
        yield Line("note" if low else "ok", "runs", f"{text}{low}")
    if SHARED.fullmatch(kind := file_system(runs)):
        yield Line("note", "", f"{runs} is on {kind}: a search needs ledger=DIR on a local disk")


def _extras(extras: Mapping[str, Sequence[str]]) -> Iterator[Line]:
    wanted = {name: lines for name, lines in extras.items() if name not in FOR_DEVELOPERS}
    unmet = {name: [*filter(None, map(_unmet, lines))] for name, lines in wanted.items()}
    missing = {name: faults for name, faults in unmet.items() if faults}
    if "detectron2" in wanted and "detectron2" not in missing and not importlib.util.find_spec("detectron2"):
        missing["detectron2"] = ["detectron2 is not installed"]
    if there := [name for name in wanted if name not in missing]:
        yield Line("ok", "extras", f"installed: {', '.join(there)}")
    for index, (name, faults) in enumerate(missing.items()):
        topic = "extras" if not there and index == 0 else ""
        yield Line("note", topic, f"without {name} ({'; '.join(faults[:2])}): {install_command(name)}")


def _data(runs: Path, data: Sequence[Path]) -> Iterator[Line]:
    topic = "data"
    for folder in data:
        fault = _unreadable(folder)
        yield Line("FAULT" if fault else "ok", topic, f"{folder}: {fault or 'is there'}")
        topic = ""
    for root in _roots(runs):
        fault = _unreadable(root)
        text = f"{root}: {fault or 'is there'} (from earlier runs)"
        yield Line("note" if fault else "ok", topic, text)
        topic = ""
    if not data:
        text = "no folder given: --data DIR looks at yours; the demo's digits and scenes need none"
        yield Line("ok", topic, text)


def _unreadable(folder: Path) -> str:
    try:
        return "" if next(folder.iterdir(), None) else "the folder is empty"
    except OSError as error:
        return told(error).removeprefix(f"{folder}: ")


def _roots(runs: Path) -> list[Path]:
    """Data folders that the configurations of the newest runs name."""
    try:
        files = [path for pattern in ("*", "*/*") for path in runs.glob(f"{pattern}/config.yaml")]
        newest = sorted(files, key=lambda path: -path.stat().st_mtime)[:RUNS_READ]
    except OSError:
        return []
    roots: dict[str, None] = {}
    for path in newest:
        try:
            config = read_mapping(path, "configuration")
        except (OSError, ValueError):
            continue
        for section in (config, config.get("detection")):
            known = section.get("data") if isinstance(section, Mapping) else None
            if isinstance(known, Mapping) and isinstance(root := known.get("root"), str):
                roots[root] = None
    return [Path(root) for root in roots]


def _size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("pipeline.doctor", __doc__)
    parser.add_argument(
        "runs", type=Path, nargs="?", default=Path("runs"), help="folder for runs; default: runs"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="DIR", help="data folders to look for"
    )
    asked = parser.parse_args(arguments)
    faults = 0
    for line in examine(asked.runs, asked.data):
        faults += line.level == "FAULT"
        print(printable(f"{line.level:5}  {line.topic:12}  {line.text}"), flush=True)
    print("ready" if not faults else f"{counted(faults, 'fault')}: runs cannot start before")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
