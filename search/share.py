"""Writes what others need of a search: its children and its configuration, small and without places.

    python -m search.share DIR OUT

OUT receives `search.sqlite` and `config.yaml`, for search.report, search.status, search.surrogate and
search.rerank. Left out are the strategy's state, learning curves, attempts that run, names of hosts, and
paths. Such a folder can be read, not continued.
"""

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from backbones.arguments import documented_parser, one_line_errors
from backbones.files import check_output, real_path, write_atomically
from runtime.yaml_files import read_mapping
from search.ledger.copying import copy_whole
from search.ledger.located import located
from search.ledger.reader import LEDGER, connect, damage_named
from search.ledger.rows import SHARED

FACTS = ("search", "split", "hardware", "seconds", "finished")
"""Those that say what the search was."""
_LEAVE_OUT = f"""
DELETE FROM strategy_tensors;
DELETE FROM strategy_values;
DELETE FROM events WHERE kind != 'started';
DELETE FROM facts WHERE name NOT IN ({", ".join(f"'{name}'" for name in FACTS)});
INSERT OR REPLACE INTO facts VALUES ('{SHARED}', 'true');
UPDATE children SET curve = '[]', log_probs = NULL;
UPDATE children SET status = 'queued' WHERE status = 'running';
DELETE FROM attempts WHERE ended IS NULL;
UPDATE attempts SET host = NULL, node = NULL, pid = NULL;
"""


def share(folder: Path, output: Path) -> Path:
    """Writes the files, over those of an earlier copy, and returns where they are.

    Raises FileNotFoundError or ValueError where there is no search, or `output` holds something else."""
    found = located(folder)
    if real_path(output) == real_path(found.folder):
        raise ValueError(f"{output}: is the search itself; name another folder")
    config = dict(read_mapping(found.folder / "config.yaml", "configuration of a search"))
    check_output(output, folder=True)
    if any((output / name).exists() for name in ("command.txt", "owner.lock", "versions.json")):
        raise ValueError(f"{output}: holds a run; name another folder")
    output.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        with closing(connect(found.ledger, read_only=True)) as database, damage_named(found.ledger):
            database.backup(copy)
        copy.executescript(f"BEGIN; {_LEAVE_OUT} COMMIT; VACUUM")
        copy_whole(copy, output / LEDGER)
    write_atomically(output / "config.yaml", yaml.safe_dump(_without_places(config), sort_keys=False))
    return output


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    strategy = dict(config["strategy"] or {})
    strategy["start"] = [Path(file).name for file in strategy.get("start") or []]
    data = None if config["data"] is None else {**config["data"], "root": None}
    nowhere = {"run_dir": None, "ledger": None, "executor": None, "logger": None}
    return {**config, **nowhere, "strategy": strategy, "data": data}


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("search.share", __doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of a search")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    asked = parser.parse_args(arguments)
    print(share(asked.dir, asked.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
