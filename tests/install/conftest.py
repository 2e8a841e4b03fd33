"""Environments of their own for the built wheel, and commands that run in them.

An environment stands alone, or upon another whose packages it sees; what is installed in it leaves the other
as it was.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def environment_variables(home: Path) -> dict[str, str]:
    """Those of this process without what points to its own packages; `home` takes the caches' place.

    pip's cache stays where it was: an installation takes minutes without."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pip"
    return {"PIP_CACHE_DIR": str(cache)} | kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


def run(command: Sequence[str | Path], folder: Path, variables: Mapping[str, str], code: int = 0) -> str:
    """What a command printed, both streams; fails with that where it ends with another exit code."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode} of {command}:\n{done.stdout[-8000:]}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment. home: an empty folder for its commands' HOME."""

    path: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.path / "lib" / version / "site-packages"

    def pip(self, *words: str | Path) -> None:
        run([self.python, "-m", "pip", *words], self.home, environment_variables(self.home))

    def has(self, module: str) -> bool:
        code = f"import importlib.util; print(importlib.util.find_spec('{module}') is not None)"
        return run([self.python, "-c", code], self.home, environment_variables(self.home)).strip() == "True"

    def celltransfer(self, folder: Path, *words: str | Path, code: int = 0) -> str:
        """What the console command printed, run in `folder`."""
        command = [self.path / "bin" / "celltransfer", *words]
        return run(command, folder, environment_variables(self.home), code)


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory) -> Iterator[Callable[..., Environment]]:
    """Gives a function that makes an empty environment, which sees the packages of the folder `below`.

    They are several GB, so none is kept after the tests."""
    made = []

    def make(name: str, below: Path | None = None) -> Environment:
        path = tmp_path_factory.mktemp(name)
        environment = Environment(path / "venv", path / "home")
        environment.home.mkdir()
        made.append(environment)
        subprocess.run([sys.executable, "-m", "venv", environment.path], check=True)
        if below is not None:
            line = f"import site; site.addsitedir({str(below)!r})\n"  # reads the .pth files there, too
            (environment.packages / "below.pth").write_text(line)
        return environment

    yield make
    for environment in made:
        shutil.rmtree(environment.path, ignore_errors=True)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the last commit: what lies in the working tree beside it does not get in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "--extract"], cwd=source, input=archive.stdout, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source]
    run(command, folder, os.environ)
    (path,) = folder.glob("celltransfer-*.whl")
    return path


@pytest.fixture(scope="session")
def base(make_environment, wheel) -> Environment:
    """The wheel without extras, by the ranges of pyproject.toml."""
    environment = make_environment("base")
    environment.pip("install", wheel)
    environment.pip("check")
    return environment


@pytest.fixture(scope="session")
def with_extra(make_environment, wheel, base) -> Callable[[str], Environment]:
    """Returns a function that gives the environment of `base` with one extra."""

    def make(extra: str) -> Environment:
        environment = make_environment(extra, below=base.packages)
        environment.pip("install", "--force-reinstall", "--no-deps", wheel)
        environment.pip("install", f"{wheel}[{extra}]")
        return environment

    return make
