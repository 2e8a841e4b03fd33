"""Which folder a search has, and which file is the newest of its ledger: what every reader asks first."""

import socket
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from backbones.files import real_path
from search.ledger.reader import connect, damage_named, fact, is_ledger, ledger_of


class Located(NamedTuple):
    """folder: of the search. ledger: the file to read.

    elsewhere: where a newer one is or was that cannot be read, as `host:path` or `path, which is gone`; empty
    without one."""

    folder: Path
    ledger: Path
    elsewhere: str = ""


def located(place: Path) -> Located:
    """The search that a folder means, or a ledger.

    A search with `ledger=DIR` writes there, and its folder receives a copy now and then. Each of both says
    where the other is; on the host that has the original, that is the one to read. Raises FileNotFoundError
    where there is no ledger, and ValueError as `read_children` does."""
    path = ledger_of(place)
    known = life_and_place(path)
    where = known["place"] or {}
    here = where.get("host") == socket.gethostname()
    original = Path(where.get("path", path))
    if not where or (here and real_path(original) == real_path(path)):
        folder = Path(where.get("run_dir", path.parent))
        return Located(folder if folder.is_dir() else path.parent, path)
    if not here:
        return Located(path.parent, path, f"{where.get('host')}:{original}")
    if not is_ledger(original):
        return Located(path.parent, path, f"{original}, which is gone")
    newer = (life_and_place(original)["life"] or 0) >= (known["life"] or 0)
    return Located(path.parent, original if newer else path)


def life_and_place(path: Path) -> dict[str, Any]:
    """Facts of a ledger. life: how often its search was started. place: of the original, where this may be
    a copy."""
    with closing(connect(path, read_only=True)) as database, damage_named(path):
        return {name: fact(database, name) for name in ("life", "place")}
