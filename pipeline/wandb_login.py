"""Whether runs go to wandb on-line: what wandb itself would find, without starting it."""

import configparser
import importlib.metadata
import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from backbones.files import expanded
from celltransfer import program

HOST = "https://api.wandb.ai"
LATER = f"; later: {program('pipeline.wandb_sync RUNS')}"


class Mode(NamedTuple):
    """offline: runs are kept in their folders only. text: in words, with what to do."""

    offline: bool
    text: str


def wandb_mode() -> Mode:
    """As wandb 0.31 decides: WANDB_MODE, then its settings files, then whether there is a login."""
    try:
        version = importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError:
        return Mode(True, "not installed")
    settings = _settings()
    host = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or HOST
    login = _login(host, settings)
    who = f"logged in at {urlsplit(host).netloc or host} ({login})" if login else "nobody is logged in"
    asked = os.environ.get("WANDB_MODE")
    mode, source = (asked, "WANDB_MODE") if asked else (settings.get("mode"), "wandb's settings")
    if mode in ("offline", "dryrun", "disabled"):
        later = "" if mode == "disabled" else LATER
        return Mode(True, f"{version}, {mode} by {source}; {who}{later}")
    if login:
        return Mode(False, f"{version}, on-line: {who}")
    return Mode(True, f"{version}, offline: {who}; `wandb login` changes that{LATER}")


def _login(host: str, settings: Mapping[str, str]) -> str:
    """Where the key for a host lies; empty where nowhere. The key itself is not shown."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return name
    with suppress(OSError, RuntimeError, ValueError, netrc.NetrcParseError):  # the second: no home folder
        path = expanded(os.environ.get("NETRC") or "~/.netrc")
        if (found := netrc.netrc(path).authenticators(urlsplit(host).netloc)) and found[2]:
            return str(path)
    return "wandb's settings" if settings.get("api_key") else ""


def _settings() -> dict[str, str]:
    """Of the user, and over them those of the current folder, which `wandb offline` writes."""
    found: dict[str, str] = {}
    for name in (os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb", "wandb"):
        parser = configparser.ConfigParser(interpolation=None)
        with suppress(OSError, RuntimeError, ValueError, configparser.Error):
            parser.read(expanded(name) / "settings")
            found |= dict(parser["default"]) if "default" in parser else {}
    return found
