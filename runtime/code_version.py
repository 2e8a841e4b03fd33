"""Which code runs: the version of the package and, in a clone, its commit."""

import subprocess
import tomllib

from celltransfer import ROOT, version

SECONDS = 2.0
"""Longest time that git may take."""


def code_version() -> str:
    """As `0.1.0` for an installed package, and as `0.1.0 (git 1a2b3c4-dirty)` for a clone.

    `dirty`: a tracked file differs from the commit."""
    commit = _commit()
    return f"{_number()} (git {commit})" if commit else _number()


def _number() -> str:
    try:
        with (ROOT / "pyproject.toml").open("rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, ValueError, LookupError):
        return version()


def _commit() -> str:
    """Empty where there is none, no git, or no answer in time."""
    if not (ROOT / ".git").exists():
        return ""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
