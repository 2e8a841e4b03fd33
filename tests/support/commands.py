"""Commands as a user types them, in this process: imports are most of what a short one does."""

import contextlib
import io
import logging
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_here(*words: object, cwd: Path) -> Done:
    """What `python -m …` in `cwd` gives and prints."""
    printed, told, code = io.StringIO(), io.StringIO(), 0
    handlers = logging.getLogger().handlers[:]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(told),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", list(map(str, words)))
        # Hydra closes all handlers there are; absl's, which an exporter made, would close pytest's stream.
        patch.setattr(logging, "shutdown", lambda *_: None)
        for name in [name for name in sys.modules if name.endswith(".__main__")]:
            patch.delitem(sys.modules, name)  # else runpy warns of it
        try:
            runpy.run_module(str(words[0]), run_name="__main__", alter_sys=True)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
            if isinstance(exit.code, str):  # as the interpreter does
                print(exit.code, file=told)
    logging.getLogger().handlers[:] = handlers  # Hydra's, to a stream that nobody reads any more, go
    return Done(code, printed.getvalue(), told.getvalue())
