"""How every Hydra command starts: compose, check, run, and say in one message what was wrong."""

import contextlib
import logging
import os
import pkgutil
import shlex
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbones.files import STDOUT, check_output
from backbones.ranges import ConfigError
from backbones.words import printable, printable_lines, told
from celltransfer import command_line, program, user_folder_last
from conf import BORROWED, EXPERIMENTS, register
from conf.help import register_help
from conf.objects import check_set, to_objects, value_of
from conf.refusals import refusal
from conf.sweep import failed_jobs
from runtime.config import RENAMED, check_extras
from runtime.folder import log_only
from runtime.interrupts import sigterm_as_interrupt
from runtime.launch import end_with_parent, launched_by_lightning, launched_by_torchrun, launched_rank
from runtime.overrides import override
from runtime.owner import refuse_if_in_use
from search.messages import SearchPaused

log = logging.getLogger(__name__)

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, OmegaConfBaseException, SearchPaused)
"""What a wrong value, a missing file or an outage raises; all else is a bug and keeps its traceback."""
FULL_ERROR = "HYDRA_FULL_ERROR"
SWEEP = {"-m", "--multirun"}


def main(config_name: str, run: str) -> None:
    """Runs `run` with the root dataclass that `conf/<config_name>.yaml` and the command line compose.

    run: `module:function`, imported once the configuration has proved good: --help and --cfg need no torch.
    A user's mistake ends with exit code 1 and one message; HYDRA_FULL_ERROR=1 shows the traceback.
    """
    refuse_dashes(sys.argv[1:])
    sys.argv[1:] = options_first(sys.argv[1:])
    refuse_foreign_experiment(config_name, sys.argv[1:])
    refuse_old_names(sys.argv[1:])
    register(config_name)
    wish = os.environ.get(FULL_ERROR)
    start = hydra.main(version_base="1.3", config_path="pkg://conf", config_name=config_name)(
        _task(run, wish)
    )
    with _exit_with_message(config_name, wish == "1"), _environment("1"):
        if {"--help", "-h"} & {*sys.argv[1:]}:
            _help(start, config_name)
        else:
            start()


@contextlib.contextmanager
def _environment(full_error: str | None) -> Iterator[None]:
    """Sets HYDRA_FULL_ERROR. While it is 1, Hydra raises its errors instead of printing them."""
    before = os.environ.pop(FULL_ERROR, None)
    try:
        if full_error is not None:
            os.environ[FULL_ERROR] = full_error
        yield
    finally:
        os.environ.pop(FULL_ERROR, None)
        if before is not None:
            os.environ[FULL_ERROR] = before


@contextlib.contextmanager
def _exit_with_message(command: str, full: bool) -> Iterator[None]:
    """Ends the process with one message for what Hydra refused, and with what became of a sweep's jobs.

    full: show tracebacks instead."""
    try:
        yield
    except Exception as error:
        failed = failed_jobs()
        words = [word for word in sys.argv[1:] if not word.startswith("-")]
        message = "\n".join(failed) if failed else None
        if not failed and not _in_the_task(error):
            message = refusal(error, command, words, sweep=SWEEP & {*sys.argv[1:]} != set())
        if full or message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(1)


def _in_the_task(error: Exception) -> bool:
    """Whether it was raised while a composed configuration ran: a bug, there or in a user's code."""
    places = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any((code.co_name, code.co_filename) == ("run_it", __file__) for code in places)


def _help(start: Callable[[], None], command: str) -> None:
    """Hydra's help by our template, unless `hydra/help` chooses another one."""
    if not any(word.startswith("hydra/help=") for word in sys.argv):
        sys.argv.append(register_help(command, experiments(command)))
    # Hydra copies its whole store for each group that it lists, which takes seconds; what it takes out of the
    # store it copies anyway.
    store = ConfigStore.instance()
    vars(store)["__deepcopy__"] = lambda memo: store
    start()


def refuse_dashes(words: Sequence[str]) -> None:
    """Ends the process where a key is given as an option, which argparse would answer with its usage."""
    options = vars(get_args_parser())["_option_string_actions"]
    for word in words:
        name, equals, value = word.partition("=")
        known = name in options or any(each.startswith(name) for each in options if len(name) > 2)
        if word.startswith("-") and not known and (equals or "." in name):
            shown = shlex.quote(value) if value else "VALUE"
            sys.exit(f"{name}: keys take no dashes; type {name.lstrip('-')}={shown}")


def options_first(words: Sequence[str]) -> list[str]:
    """The same with the options before the keys: argparse takes keys from one place only."""
    actions = vars(get_args_parser())["_option_string_actions"]
    options: list[str] = []
    keys: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if not word.startswith("-"):
            keys.append(word)
            continue
        options.append(word)
        action = actions.get(word)
        if action is None or action.nargs == 0:
            continue
        if action.nargs == "?" and not (rest and rest[0] in action.choices):
            options.append(action.const)
        elif rest:
            options.append(rest.popleft())
    return [*options, *keys]


def refuse_foreign_experiment(command: str, words: Sequence[str]) -> None:
    """Ends the process where `experiment=` names one of another command, which Hydra would not know.

    command: the name of its configuration."""
    own = ", ".join(experiments(command)) or "none"
    names = [name for word in words if word.startswith("experiment=") for name in word[11:].split(",")]
    for name in names:
        homes = [path.parent.parent.name for path in EXPERIMENTS.glob(f"*/experiment/{name}.yaml")]
        if homes and BORROWED.get(command, command) not in homes:
            theirs, ours = program(homes[0]), program(command.replace("_", "."))
            sys.exit(f"experiment={name} is one of {theirs}; those of {ours} are: {own}")


def refuse_old_names(words: Sequence[str]) -> None:
    """Ends the process where a key is given by its name of before."""
    for key in (word.lstrip("+~").split("=")[0] for word in words):
        for old, new in RENAMED.items():
            if f".{key}".endswith(f".{old}"):
                gpu = " (gpu is called cuda)" if new == "trainer.device" else ""
                sys.exit(f"{key} is called {key.removesuffix(old)}{new} now{gpu}")


def experiments(command: str) -> list[str]:
    """Names that `experiment=` takes."""
    home = BORROWED.get(command, command)
    return sorted(path.stem for path in EXPERIMENTS.glob(f"{home}/experiment/*.yaml"))


class MakeFolder(Callback):
    """Makes the folder of a run or a sweep where Hydra would, which answers what fails with a traceback.

    Ends the process where there can be none, and where a key that has no default is not set."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        try:
            check_set(config)  # before the folder, whose name may be of such a key
            if "run_dir" in config:
                value_of(config, "run_dir")
        except ConfigError as error:
            sys.exit(str(error))
        self._make(config.hydra.run.dir, "run_dir" if "run_dir" in config else "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._make(config.hydra.sweep.dir, "hydra.sweep.dir")

    def _make(self, folder: str, key: str) -> None:
        try:
            if folder == STDOUT:
                check_output(folder, folder=True)
            Path(folder).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # the second of a zero byte
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            sys.exit(printable(f"{key} = {folder}: no folder can be made there ({reason}); choose another"))


def _task(run: str, full_error: str | None) -> Callable[[DictConfig], Any]:
    """full_error: HYDRA_FULL_ERROR as the user set it, for the processes that the run starts, too."""

    def task(config: DictConfig) -> Any:
        with _environment(full_error):
            return run_it(config)

    def run_it(config: DictConfig) -> Any:
        user_folder_last()  # in a process of a launcher, too
        output_dir = Path(HydraConfig.get().runtime.output_dir)
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if (sweep or launched_by_lightning()) and "run_dir" in config:
            config.run_dir = str(output_dir)  # of a sweep's job, or of the process that started this one
        if launched_by_lightning():
            end_with_parent()
        if launched_rank():
            logging.disable(logging.WARNING)  # the first of a training's processes speaks for all
        try:
            sigterm_as_interrupt()
            _check_one_folder(config, sweep)
            # Dataclasses check their ranges when they are made, before anything long starts.
            asked = to_objects(config)
            check_extras(asked)
            if "run_dir" in config:
                refuse_if_in_use(Path(config.run_dir))
                log.info("%s: %s", HydraConfig.get().job.config_name, config.run_dir)
            return _objective(pkgutil.resolve_name(run)(asked))
        except USER_ERRORS as error:
            if full_error == "1":
                raise
            log.debug("refused", exc_info=True)
            if sweep:  # `conf.sweep` reports the failed job, and Hydra runs the others
                raise CompactHydraException(told(error)) from None
            rank = launched_rank()
            text = printable_lines(told(error))
            print(f"rank {rank}: {text}" if rank else text, file=sys.stderr)
            log_only(text, logging.ERROR)
            sys.exit(1)
        except KeyboardInterrupt:
            if not launched_rank():
                message = _how_to_continue(config, sweep)
                print(message, file=sys.stderr)
                log_only(message, logging.WARNING)
            sys.exit(130)
        finally:
            if not launched_rank():
                _remove_if_empty(output_dir)

    return task


def _check_one_folder(config: DictConfig, sweep: bool) -> None:
    """Refuses what would give the processes of one training different folders."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    if sweep:
        # Lightning starts the other processes by this process's command, which is that of the whole sweep.
        here = "BasicLauncher" in HydraConfig.get().launcher["_target_"]
        if here and raw.get("trainer", {}).get("devices", 1) > 1 and launched_by_torchrun() is None:
            raise ValueError(
                "a sweep on this machine trains on one device; for more take hydra/launcher=submitit_slurm, "
                "or a command for each training (docs/distributed.md)"
            )
    elif launched_by_torchrun() is not None and "${now:" in raw.get("run_dir", ""):
        raise ValueError("under torchrun, name the run's folder: run_dir=DIR")


def _how_to_continue(config: DictConfig, sweep: bool) -> str:
    """What the user is told after an interrupt."""
    if "run_dir" not in config:
        return "Interrupted. No figures were written."
    if launched_by_torchrun() is not None:
        return f"Interrupted. The same torchrun command continues {config.run_dir}."
    key, folder = "run_dir", str(config.run_dir)
    if sweep:
        key, folder = "hydra.sweep.dir", str(HydraConfig.get().sweep.dir)
    command = command_line()
    if not any(word.startswith(f"{key}=") for word in sys.argv[1:]):
        command += f" {override(key, folder)}"
    return f"Interrupted. This continues: {command}"


def _objective(result: Any) -> Any:
    """What a sweeper optimises: the first metric of the stage, as `metrics.json` orders them."""
    return (
        next(iter(result["metrics"].values())) if isinstance(result, dict) and result.get("metrics") else None
    )


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the run folder before anything is checked; a refused run leaves none behind.

    Never removed is the folder that the user is in, or one around it."""
    here = Path.cwd()
    for empty in (folder, *folder.parents):
        kept = empty in (here, *here.parents) or (empty != folder and here not in empty.parents)
        if kept or not empty.is_dir() or any(empty.iterdir()):
            return
        empty.rmdir()
