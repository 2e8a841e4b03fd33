"""What two ledgers of one search must have in common."""

import hashlib
import json
from contextlib import closing
from pathlib import Path

from search.ledger.reader import connect, damage_named

COLUMNS = (
    *("number", "proposal_group", "cell_key", "decisions", "log_prob", "log_probs"),
    *("cost", "parameters", "multiply_adds", "activation_bytes", "start", "finish", "original"),
    *("observed", "reward", "failure", "curve"),
)
"""Of the children. Not among them is what another machine, a kill or chance in its timing may change:
status, attempts, times, memory, `detail`, and `metrics`, which may be measured."""


def digest(path: str | Path) -> str:
    """SHA-256, in hexadecimal, of COLUMNS of all children and of every state of the strategy.

    Of searches with equal configurations and budgets it is the same, however many workers ran the children,
    in whatever order those finished, and however often the search was killed. Raises as `read_children`.
    """
    path = Path(path)
    found = hashlib.sha256()
    with closing(connect(path, read_only=True)) as database, damage_named(path):
        database.execute("BEGIN")  # one moment of a search that runs
        known = {name for _, name, *_ in database.execute("PRAGMA table_info(children)")}
        columns = [name if name in known else f"NULL AS {name}" for name in COLUMNS]
        rows = database.execute(f"SELECT {', '.join(columns)} FROM children ORDER BY number")
        found.update(json.dumps(COLUMNS).encode())
        for row in rows:
            found.update(json.dumps(row, default=bytes.hex).encode())
        for state in database.execute("SELECT * FROM state_hashes ORDER BY proposal_group"):
            found.update(json.dumps(state).encode())
    return found.hexdigest()
