"""The next minor version of Hydra composes every configuration; where an index has it."""

import sysconfig
from pathlib import Path

import pytest

from tests.install.conftest import REPOSITORY, environment_variables, run

pytestmark = pytest.mark.install

NEXT = "hydra-core>=1.4.0rc1,<1.5"


def test_the_configuration_tests_pass(make_environment):
    """In an environment upon this one, with a release candidate if there is no release."""
    environment = make_environment("hydra", below=Path(sysconfig.get_path("purelib")))
    environment.pip("install", "--pre", NEXT)
    variables = environment_variables(environment.home)
    version = run([environment.python, "-c", "import hydra; print(hydra.__version__)"], REPOSITORY, variables)
    assert version.startswith("1.4.")
    tests = [environment.python, "-m", "pytest", "--disable-warnings", "-p", "no:cacheprovider", "tests/conf"]
    run(tests, REPOSITORY, variables)
