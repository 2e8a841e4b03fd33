"""How this process was started: by whom, and as which of a training run's processes."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def launched_rank() -> int:
    """This process's rank as its launcher set it; 0 where there is none."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):  # torchrun's, Lightning's, SLURM's
        if name in os.environ:
            return int(os.environ[name])
    return 0


def launched_by_torchrun() -> int | None:
    """How many processes torchrun started in all, None where it did not."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def launched_by_lightning() -> bool:
    """Whether the trainer of another process started this one and waits for it."""
    return launched_by_torchrun() is None and int(os.environ.get("LOCAL_RANK", 0)) > 0


def end_with_parent(parent: int | None = None) -> None:
    """Ends this process when the one that started it is gone, however that ended.

    parent: its process id, which may be gone already; None: that of now."""
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, even inside native code.

    parent: the process id of the one that started it, which may be gone already. Where there is no such
    call, as on macOS, `end_with_parent` does what it can."""
    if sys.platform != "linux":
        end_with_parent(parent)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
