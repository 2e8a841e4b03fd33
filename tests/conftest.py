import os
import signal
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """A shell starts what it puts in the background with Ctrl-C ignored, and what tests start inherits that:
    those that interrupt it would wait for ever."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The networks here are tiny: a second thread waits more than it works, above all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    """A test draws the same numbers whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real development images; see docs/development.md."""
    folder = Path(os.environ.get("CELL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the development images: no folder {folder} (set CELL_DATA)")
    return folder
