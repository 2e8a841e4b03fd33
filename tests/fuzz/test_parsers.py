"""Any bytes give a value or one of our errors: a few seconds of each reader, and `make fuzz` for longer."""

import os

import pytest
from fuzz_targets import TARGETS, refusal
from hypothesis import HealthCheck, given, settings
from mutations import broken

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
"""Times as many examples as usual."""


@pytest.fixture(params=TARGETS)
def target(request):
    return TARGETS[request.param]


def test_what_is_right_is_read(target, tmp_path):
    target.prepare(tmp_path)
    for seed in target.seeds():
        assert refusal(target, tmp_path, seed) is None


def test_what_is_broken_is_read_or_refused_by_the_name_of_its_file(target, tmp_path):
    target.prepare(tmp_path)

    @settings(
        max_examples=FACTOR * target.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=FACTOR == 1,
    )
    @given(broken(target.seeds()))
    def read(data):
        error = refusal(target, tmp_path, data)
        assert error is None or str(tmp_path) in str(error)

    read()
