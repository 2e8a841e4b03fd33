"""The console command `celltransfer`; the commands and the extras by name.

`celltransfer NAME …` is `python -m NAME …` for whoever installed the wheel. The difference is the user's own
folder: `python -m` searches it first, so that a `search.py` there runs instead of this project's `search`;
here it comes last. Every package asks `refuse_module` whether it was started as a command.
"""

import atexit
import contextlib
import difflib
import importlib.metadata
import io
import logging  # noqa: F401  (registers its flush at exit before ours)
import os
import re
import runpy
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

COMMANDS: Mapping[str, str] = {
    "pipeline": "search, classify and detect in one run",
    "pipeline.machine": "which detector for this machine: searched and known ones by AP and milliseconds",
    "pipeline.report": "write report.html from the files of a run",
    "pipeline.doctor": "whether runs can start on this machine: packages, device, folders, wandb",
    "pipeline.wandb_sync": "send runs that were tracked offline to wandb, from wherever they lie now",
    "pipeline.verify": "whether the files of a run are what they were when it ended, and fit together",
    "search": "search a cell on a small data set",
    "search.status": "show how a search stands, while it runs or afterwards",
    "search.report": "write a page about one search or several",
    "search.rerank": "train the best cells of a search longer",
    "search.probe": "how far short training ranks cells as longer training does",
    "search.replay": "train one child of a search again",
    "search.share": "copy what others need of a search: children and configuration, without places",
    "search.surrogate": "how well a surrogate of trained cells predicts others",
    "search.simulate": "simulate a search on many workers: utilisation, duration, driver",
    "classification": "train a classifier",
    "classification.evaluate": "evaluate a classifier on labelled images",
    "classification.predict": "classify images",
    "classification.int8": "write a classifier for OpenVINO in int8",
    "classification.split": "split class folders into training and validation images",
    "classification.check_data": "check class folders of images before training",
    "detection": "train a detector",
    "detection.preview": "draw images and boxes as a training would see them",
    "detection.evaluate": "evaluate a detector, or a results file, on COCO-format data",
    "detection.predict": "detect objects in images",
    "detection.check_data": "check labelled images before training: COCO, YOLO, VOC",
    "detection.import_labels": "convert YOLO or VOC labels to COCO format",
    "detection.split": "split COCO annotations, by a share of the images or into the paper's mini-val",
    "detection.speed": "milliseconds and memory of detectors on this machine, exported files as well",
    "detection.profile": "parameters, multiply-adds and memory of a detector",
    "detection.convert": "convert a detector to another engine",
    "detection.export": "export a detector to ONNX, OpenVINO or torch.export",
    "backbones": "list, profile, draw, convert and export networks",
    "backbones.speed": "milliseconds and memory of networks on this machine, exported files as well",
}
"""What can be typed after `celltransfer`, or after `python -m`."""

ALIASES = {"wandb-sync": "pipeline.wandb_sync"}
"""Further names of commands after `celltransfer`."""

ROOT = Path(__file__).resolve().parent
"""Where the packages lie: the clone, or `site-packages`."""
CONSOLE = "CELLTRANSFER_CONSOLE"
"""Names the command in the environment of the console command and of all processes that it starts."""
LISTED = "celltransfer --help lists the commands"


def main() -> None:
    """The console command: lists the commands, or runs one."""
    end_with_reader()
    name, *words = sys.argv[1:] or ["--help"]
    name = ALIASES.get(name, name)
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: celltransfer COMMAND …\n\ncommands (each has its own --help):")
        print("\n".join(f"  {command:{width}}  {line}" for command, line in COMMANDS.items()))
        print("\n".join(f"  {alias:{width}}  the same as {command}" for alias, command in ALIASES.items()))
        print("\ncelltransfer --version prints the version.")
    elif name == "--version":
        print(f"celltransfer {version()}")
    elif name not in COMMANDS:
        package = [command for command in COMMANDS if command == name.split(".")[0]]
        near = list(dict.fromkeys([*package, *difflib.get_close_matches(name, COMMANDS, n=3)]))
        hint = f"did you mean {' or '.join(near)}?" if near else LISTED
        sys.exit(f"celltransfer: {name!r} is not a command; {hint}")
    else:
        # Processes that this one starts by `python -m` must not find the user's folder first, either.
        os.environ |= {"PYTHONSAFEPATH": "1", CONSOLE: name}
        user_folder_last()
        sys.argv[1:] = words
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def version() -> str:
    """Of the installed distribution."""
    try:
        return importlib.metadata.version("celltransfer")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def user_folder_last() -> None:
    """Searches the current folder for modules after everything else, where the console command is used.

    A `_target_` of a configuration may name a module there."""
    if CONSOLE not in os.environ:
        return
    here = os.getcwd()
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    # An editable installation is found after all of sys.path: the clone must stand before the user's folder.
    sys.path += [folder for folder in (str(ROOT), here) if folder not in sys.path]


def program(command: str) -> str:
    """How the user types a command: `celltransfer NAME`, or `python -m NAME`."""
    return f"{'celltransfer' if CONSOLE in os.environ else 'python -m'} {command}"


def command_line() -> str:
    """This process's command, to be typed again."""
    if CONSOLE in os.environ:
        return shlex.join(["celltransfer", os.environ[CONSOLE], *sys.argv[1:]])
    return shlex.join(["python", *sys.orig_argv[1:]])


def refuse_module(package: str, commands: Collection[str] = tuple(COMMANDS)) -> None:
    """Ends the process where `python -m` was given a module of `package` that is no command.

    Called when the package is imported. Until Python has found the module to run, sys.argv[0] is `-m`."""
    if sys.argv[:1] != ["-m"]:
        return
    name = _module_asked_for()
    if name.split(".")[0] != package:
        return
    end_with_reader()
    if name.removesuffix(".__main__") in commands:
        return
    own = [command for command in commands if command.split(".")[0] == package]
    hint = LISTED if not own else f"the commands of {package} are {', '.join(own)}"
    if package in own:
        hint = f"use python -m {package} ({LISTED})"
    sys.exit(f"python -m {name} is not a command; {hint}")


class _Output(io.FileIO):
    """Standard output that ends the process quietly, with exit code 0, when its reader has gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for what is still buffered
            os.close(nowhere)
            raise SystemExit(0) from None


def end_with_reader() -> None:
    """Lets a command whose output is piped, as into `head`, end when nobody reads on.

    An exception other than BrokenPipeError passes by those who report an OSError to the user. The signal
    SIGPIPE would end the process for any other pipe and socket, too, such as that of a dead worker."""
    out = sys.stdout
    if out is not sys.__stdout__ or not isinstance(out, io.TextIOWrapper):
        return
    raw = getattr(out.buffer, "raw", out.buffer)  # without a buffer under -u
    if type(raw) is not io.FileIO:
        return
    out.flush()
    ours = _Output(raw.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        ours if out.buffer is raw else io.BufferedWriter(ours),
        encoding=out.encoding,
        errors=out.errors,
        line_buffering=out.line_buffering,
        write_through=out.write_through,
    )
    # The interpreter's own flush would tell of a failure, and so would logging's, which is registered by now.
    atexit.register(_flush)


def _flush() -> None:
    with contextlib.suppress(SystemExit, ValueError):
        sys.stdout.flush()


def _module_asked_for() -> str:
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word in ("-X", "-W"):
            next(words, "")
        elif found := re.fullmatch(r"-(?![XW])[a-zA-Z]*?m(.*)", word):
            return found[1] or next(words, "")
    return ""


def not_installed(
    what: str, module: str, extra: str, error: ImportError | None = None
) -> ModuleNotFoundError:
    """The error for a choice that needs an extra. what: the choice, such as `logger.name = tensorboard`.

    error: of the import, whose cause may lie deeper."""
    name = {"sklearn": "scikit-learn"}.get(module, module)
    detail = "" if error is None else f" ({error})"
    return ModuleNotFoundError(
        f"{what} needs {name}, which is not installed{detail}: {install_command(extra)}"
    )


def install_command(extra: str) -> str:
    """What installs an extra, from any folder: from the clone, or the packages where there is none.

    The distribution's own name would ask the package index, which does not have it."""
    install = [sys.executable, "-m", "pip", "install"]
    if (ROOT / "pyproject.toml").is_file():
        in_clone = ["make", "-C", str(ROOT), "detectron2"]
        return shlex.join(in_clone if extra == "detectron2" else [*install, "-e", f"{ROOT}[{extra}]"])
    try:
        requirements = importlib.metadata.requires("celltransfer") or ()
    except importlib.metadata.PackageNotFoundError:
        return f"its packages are the extra {extra!r} of celltransfer"
    pattern = re.compile(rf"""(.+?)\s*;.*extra\s*==\s*["']{extra}["']""")
    found = (pattern.fullmatch(line) for line in requirements)
    packages = shlex.join([*install, *(match[1] for match in found if match)])
    if extra == "detectron2":
        source = "git+https://github.com/facebookresearch/detectron2.git"
        isolated = shlex.join([*install, "--no-build-isolation", "--no-deps", source])
        return f"{packages} wheel && {isolated}"
    return packages


if __name__ == "__main__":
    main()
