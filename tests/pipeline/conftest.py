"""A finished run of the chain."""

import pytest
from written_run import write_run


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path)
