"""How every Hydra command starts: compose, check, run, and say in one message what was wrong."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import register
from search.loop import SearchPaused

log = logging.getLogger(__name__)

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, OmegaConfBaseException, SearchPaused)
"""What a wrong value, a missing file or an outage raises; all else is a bug and keeps its traceback."""


def main(config_name: str, run: Callable[[Any], Any]) -> None:
    """Runs `run` with the root dataclass that `conf/<config_name>.yaml` and the command line compose.

    A user's mistake ends with exit code 1 and one message; HYDRA_FULL_ERROR=1 shows the traceback.
    """
    register()
    hydra.main(version_base="1.3", config_path="pkg://conf", config_name=config_name)(_task(run))()


def _task(run: Callable[[Any], Any]) -> Callable[[DictConfig], Any]:
    def task(config: DictConfig) -> Any:
        output_dir = Path(HydraConfig.get().runtime.output_dir)
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if sweep and "run_dir" in config:
            config.run_dir = str(output_dir)
        try:
            # Dataclasses check their ranges when they are made, before anything long starts.
            return _objective(run(OmegaConf.to_object(config)))
        except USER_ERRORS as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            log.debug("refused", exc_info=True)
            if sweep:  # Hydra records the failed job, runs the others, and ends with this message
                raise CompactHydraException(str(error)) from None
            print(error, file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted; the same command with the same run_dir continues", file=sys.stderr)
            sys.exit(130)
        finally:
            _remove_if_empty(output_dir)

    return task


def _objective(result: Any) -> Any:
    """What a sweeper optimises: the first metric of the stage, as `metrics.json` orders them."""
    return (
        next(iter(result["metrics"].values())) if isinstance(result, dict) and result.get("metrics") else None
    )


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the run folder before anything is checked; a refused run leaves none behind."""
    for empty in (folder, *folder.parents):
        if (
            not empty.is_dir()
            or any(empty.iterdir())
            or (empty != folder and Path.cwd() not in empty.parents)
        ):
            return
        empty.rmdir()
