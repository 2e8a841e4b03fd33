"""Fuzzes one reader with Atheris, guided by coverage, until it is stopped or finds something.

    make fuzz TARGET=coco SECONDS=600
    python tests/fuzz/run.py coco -max_total_time=600 -rss_limit_mb=4096

What it finds lies in the current folder as `crash-…`, `oom-…` or `timeout-…`; with such a file as last word
just that file is read. With `--values` the values in a file are broken, as Hypothesis does in the suite, not
its bytes. Needs `pip install -e ".[fuzz]"`. Further words are libFuzzer's.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris
from hypothesis import given

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

PACKAGES = ["backbones", "runtime", "classification", "search", "detection", "pipeline", "yaml", "PIL"]

with atheris.instrument_imports(include=PACKAGES):
    from fuzz_targets import TARGETS, Target, refusal
    from mutations import broken


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} TARGET [libFuzzer's words]; targets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as corpus:
        target.prepare(Path(folder))
        for number, seed in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        words = [word for word in sys.argv[1:] if word.startswith("-") and word != "--values"]
        files = [word for word in sys.argv[1:] if not word.startswith("-")]
        arguments = [sys.argv[0], "-timeout=20", "-max_len=20000", *words, *(files or [corpus])]
        atheris.Setup(arguments, reader(target, Path(folder), values="--values" in sys.argv))
        atheris.Fuzz()


def reader(target: Target, folder: Path, values: bool) -> Callable[[bytes], object]:
    """What Atheris calls with each input. values: the input is the choices of Hypothesis, not the file."""

    @given(broken(target.seeds()))
    def read_broken(data: bytes) -> None:
        read(target, folder, data)

    return read_broken.hypothesis.fuzz_one_input if values else partial(read, target, folder)


def read(target: Target, folder: Path, data: bytes) -> None:
    error = refusal(target, folder, data)
    if error is not None and str(folder) not in str(error):
        raise AssertionError(f"{type(error).__name__} without a file's name: {error}") from error


if __name__ == "__main__":
    main()
