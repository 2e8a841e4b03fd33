"""How long commands take to start: CPU seconds of whole processes, as shares of `import torch`.

    python -m benchmarks.startup --rounds 9

What ends by itself is measured whole, on data of two images; a training run up to its first line, which names
its folder, and is then ended. Less is better.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from backbones import processor
from benchmarks.ratios import Row, compare, milliseconds, parser, report

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = "start of a command"
WHOLE, FIRST_LINE = 0.4, 0.6
"""Largest shares of `import torch`."""
TRAINED = {
    "search": ["data=digits"],
    "classification": ["data=digits"],
    "detection": ["data=scenes", "backbone.name=nasnet_a_mobile"],
    "pipeline": ["experiment=demo"],
}


def startup(rounds: int) -> Iterator[Row]:
    """Rounds are interleaved; the first, which fills the disk's cache, does not count."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {"import torch": partial(whole, "-c", "import torch")} | _ways(Path(folder))
        names = list(ways)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds + 1):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                taken = ways[name]()
                if number:
                    seconds[name].append(taken)
    goals = {(WORK, name): FIRST_LINE if "first line" in name else WHOLE for name in names}
    yield from compare(WORK, seconds, goals, milliseconds, less=True)


def _ways(folder: Path) -> dict[str, Callable[[], float]]:
    """CPU seconds of each command, on data that lie in `folder`."""
    annotations, run_dir = str(folder / "annotations.json"), str(folder / "run")
    _write_data(folder)
    helped = {f"{name} --help": ["-m", name, "--help"] for name in ("classification", "pipeline")}
    commands = helped | {
        "pipeline --cfg job": ["-m", "pipeline", "--cfg", "job", "experiment=demo"],
        "detection.check_data": ["-m", "detection.check_data", annotations, str(folder), "--workers=0"],
        "detection.import_labels": [
            *("-m", "detection.import_labels", "--from=yolo", str(folder)),
            f"--output={folder}/imported.json",
        ],
        "detection.split": ["-m", "detection.split", annotations, "--minival=1", f"--output={folder}/split"],
        "pipeline.report": ["-m", "pipeline.report", run_dir],
    }
    ways: dict[str, Callable[[], float]] = {n: partial(whole, *words) for n, words in commands.items()}
    for name, words in TRAINED.items():
        arguments = ["-m", name, *words, "logger=csv", f"run_dir={folder}/{name}"]
        ways[f"{name}, first line"] = partial(to_first_line, *arguments)
    return ways


def whole(*arguments: str) -> float:
    """CPU seconds of a process that ends by itself. Raises RuntimeError where it fails."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *arguments], stdout=silent, stderr=silent, cwd=REPOSITORY)
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


def _write_data(folder: Path) -> None:
    """A COCO data set of two images, the same as YOLO labels, and the folder of a classifier's run."""
    images = []
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number, name in enumerate(("a", "b")):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(folder / "images" / f"{name}.png")
        (folder / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        images.append({"id": number, "file_name": f"images/{name}.png", "width": 64, "height": 48})
    (folder / "classes.txt").write_text("thing\n")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
    categories = [{"id": 1, "name": "thing"}]
    content = {"images": images, "annotations": [box], "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "run").mkdir()
    metrics = {"stage": "classification", "split": "test", "metrics": {"top1": 0.5}, "per_class": {}}
    (folder / "run" / "metrics.json").write_text(json.dumps(metrics))
    mistakes = {"source": "", "classes": ["thing"], "confusion": [[0, 0, 2]], "worst": []}
    (folder / "run" / "mistakes.json").write_text(json.dumps(mistakes))


def main() -> None:
    args = parser(__doc__, rounds=9).parse_args()
    if not Path("/proc/self/stat").exists():
        sys.exit("no /proc/self/stat: the time of a running process is read there, on Linux")
    report([lambda: startup(args.rounds)], args, processor.name())


if __name__ == "__main__":
    main()
