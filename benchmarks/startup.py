"""How long commands take to start: CPU seconds of whole processes, as shares of `import torch`.

    python -m benchmarks.startup --rounds 9

--help, --cfg job and the check of a small data set end by themselves; a training is measured up to its first
line, which names its folder, and then ended. Less is better.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from benchmarks.ratios import Row, compare, cpu, milliseconds, parser, report

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = "start of a command"
GOALS = {
    "classification --help": 0.4,
    "pipeline --help": 0.4,
    "pipeline --cfg job": 0.4,
    "detection.check_data": 0.4,
    "classification, first line": 0.6,
}
"""Largest share of `import torch`."""


def startup(rounds: int) -> Iterator[Row]:
    """Rounds are interleaved; the first, which fills the disk's cache, does not count."""
    with tempfile.TemporaryDirectory() as folder:
        data = _data_set(Path(folder))
        run_dir = f"run_dir={folder}/run"
        ways: Mapping[str, Callable[[], float]] = {
            "import torch": lambda: whole("-c", "import torch"),
            "classification --help": lambda: whole("-m", "classification", "--help"),
            "pipeline --help": lambda: whole("-m", "pipeline", "--help"),
            "pipeline --cfg job": lambda: whole("-m", "pipeline", "--cfg", "job", "experiment=demo"),
            "detection.check_data": lambda: whole("-m", "detection.check_data", *data, "--workers", "0"),
            "classification, first line": lambda: to_first_line(
                "-m", "classification", "data=digits", "logger=csv", run_dir
            ),
        }
        names = list(ways)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                taken = ways[name]()
                if number:
                    seconds[name].append(taken)
    goals = {(WORK, name): goal for name, goal in GOALS.items()}
    yield from compare(WORK, seconds, goals, milliseconds, less=True)


def whole(*arguments: str) -> float:
    """CPU seconds of a process that ends by itself. Raises RuntimeError where it fails."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen need not wait for it
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def to_first_line(*arguments: str) -> float:
    """CPU seconds until a process prints its first line on stderr; then it is ended.

    Raises RuntimeError where it prints none."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    # Fields 14 and 15 of proc(5)'s stat, counted after the name in parentheses, which may hold spaces.
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    process.kill()
    process.wait()
    process.stderr.close()
    if not line.strip() or "Traceback" in line:
        raise RuntimeError(f"python {' '.join(arguments)} printed {line!r} first")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _data_set(folder: Path) -> tuple[str, str]:
    """Annotations and images of a COCO data set of one image."""
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return str(folder / "annotations.json"), str(folder)


def main() -> None:
    args = parser(__doc__, rounds=9).parse_args()
    if not Path("/proc/self/stat").exists():
        sys.exit("no /proc/self/stat: the time of a running process is read there, on Linux")
    report([lambda: startup(args.rounds)], args, cpu())


if __name__ == "__main__":
    main()
