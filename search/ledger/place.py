"""Where a ledger lies: in the folder of its search, or on a local disk with a copy there."""

import hashlib
import os
import socket
from contextlib import closing
from pathlib import Path

from backbones.files import real_path
from backbones.ranges import KEY, ConfigError
from search.ledger.copying import copy_whole
from search.ledger.file_system import SHARED, file_system
from search.ledger.located import life_and_place
from search.ledger.reader import LEDGER, connect, damage_named, is_ledger
from search.ledger.writer import Ledger


def check_place(run_dir: Path, ledger: str | None) -> None:
    """Raises ConfigError where the ledger would lie on a file system that machines share."""
    key, folder = ("run_dir", run_dir) if ledger is None else ("ledger", Path(ledger))
    kind = file_system(folder)
    if SHARED.fullmatch(kind):
        advice = f"set {KEY}ledger to a folder on a local disk; run_dir receives copies"
        raise ConfigError(
            f"{KEY}{key} = {folder} is on {kind}, where SQLite's write-ahead log is not safe; {advice}"
        )


def open_ledger(run_dir: Path, ledger: str | None) -> Ledger:
    """The ledger of the search in `run_dir`, which this process owns; the newest one that can be found.

    ledger: folder on a local disk, which is made; None: `run_dir` itself. A search that goes on with another
    `ledger`, or on another machine, takes what it finds along: the live ledger where this machine still has
    it, or else the copy.
    """
    home = run_dir / LEDGER
    path = home if ledger is None else _local(run_dir, Path(ledger))
    if path != home:
        path.parent.mkdir(parents=True, exist_ok=True)
    known = {each: life_and_place(each) for each in dict.fromkeys((path, home)) if is_ledger(each)}
    # Where the copy says that its original lies, if that is on this machine.
    place = known.get(home, {}).get("place") or {}
    elsewhere = Path(place.get("path", path))
    if place.get("host") == socket.gethostname() and elsewhere not in known and is_ledger(elsewhere):
        known[elsewhere] = life_and_place(elsewhere)
    if known:
        # A life begins wherever a search is continued. Of one life the copy is the older one.
        newest = max(known, key=lambda each: (known[each]["life"] or 0, each != home, each == path))
        if newest != path:
            with closing(connect(newest)) as database:
                _leave_log(path)
                copy_whole(database, path)
    if path != home:
        _leave_log(home)
    opened = Ledger(path, None if path == home else home)
    place = {} if path == home else _place(path, run_dir)
    opened.save(facts={"life": (opened.fact("life") or 0) + 1, "place": place})
    opened.copy()  # from now on a ledger of an earlier life is known to be old
    return opened


def _place(path: Path, run_dir: Path) -> dict[str, str]:
    return {"host": socket.gethostname(), "path": str(path), "run_dir": str(real_path(run_dir))}


def _local(run_dir: Path, folder: Path) -> Path:
    """Several searches may share a folder."""
    name = hashlib.sha256(os.fsencode(real_path(run_dir))).hexdigest()[:12]
    return real_path(folder) / f"search-{name}.sqlite"


def _leave_log(path: Path) -> None:
    """Moves what a write-ahead log holds into its ledger, since the file is about to be replaced: SQLite
    would take the log for the new one's."""
    if is_ledger(path):
        with closing(connect(path)) as database, damage_named(path):
            database.execute("PRAGMA journal_mode = DELETE")
