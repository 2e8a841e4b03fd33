"""A finished run of the chain."""

import pytest
from written_run import write_classification, write_data, write_detection, write_search


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    for name in ("search", "classification", "detection"):
        (folder / name).mkdir(parents=True)
    write_search(folder / "search")
    write_classification(folder / "classification")
    write_detection(folder / "detection", write_data(tmp_path / "data"))
    return folder
