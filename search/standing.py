"""How a search stands: it runs, is paused, was killed, has finished; and why."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from backbones.words import counted, printable
from runtime.owner import owner
from runtime.yaml_files import read_mapping
from search.ledger.rows import ENDED, SPENT
from search.snapshot import Snapshot

NO_WORD = "no process runs it, and the last one left no reason, as after kill -9 or on a full disk"


class Standing(NamedTuple):
    """word: `running: …`, `paused`, `killed`, `finished`, `ended …` or `a copy …`. why: in words; empty where
    the word says all, or an older version wrote the ledger. driver: the process that runs it; None without
    one."""

    word: str
    why: str
    driver: str | None


def standing(snapshot: Snapshot, folder: Path) -> Standing:
    """folder: of the search, which says who runs it and where its children ran."""
    driver = owner(folder)
    if driver:
        return Standing(f"running: {driver}", "", driver)
    hours = f"budget.hours = {snapshot.asked.get('hours') or 0:g}"
    if not snapshot.left_open:
        return Standing(f"finished: {hours} is spent" if snapshot.spent == "hours" else "finished", "", None)
    if fruitless(snapshot):
        return Standing("ended without a reward", f"{hours} was spent" if in_no_time(snapshot) else "", None)
    if snapshot.shared:
        done = f"{snapshot.count('done'):,} of {counted(snapshot.budget, 'child', 'children')}"
        return Standing(f"a copy of a search at {done}", "", None)
    why = snapshot.facts.get(ENDED)
    left = snapshot.count("running")
    if left or (ENDED in snapshot.facts and why is None):
        return Standing("killed", f"{NO_WORD}{_taken_up(left, settings(folder))}", None)
    if why == SPENT:
        why = "it was ended before it had written its results, as a full disk may end it"
    return Standing("paused", printable(str(why or "")), None)


def _taken_up(left: int, config: Mapping[str, Any]) -> str:
    """What becomes of the children that ran when the search was killed. left: how many they were."""
    if not left:
        return ""
    children = f"{counted(left, 'child', 'children')} that ran when it was killed"
    if (config.get("executor") or {}).get("name") == "ray":
        return f"; {children} may go on in the cluster, else will begin again"
    return f"; {children} will begin again"


def fruitless(snapshot: Snapshot) -> bool:
    """Whether the budget is spent and no child has a reward."""
    return snapshot.spent is not None and snapshot.best == []


def in_no_time(snapshot: Snapshot) -> bool:
    """Whether the hours were spent before a child was done."""
    return snapshot.spent == "hours" and not snapshot.count("done")


def settings(folder: Path) -> Mapping[str, Any]:
    """The configuration of the search; empty where it cannot be read."""
    try:
        return read_mapping(folder / "config.yaml", "configuration of a search")
    except (OSError, ValueError):
        return {}


def stopped(snapshot: Snapshot, config: Mapping[str, Any]) -> int | None:
    """Children that `child.stop_below` ended; None where it is not set."""
    child = config.get("child")
    if not isinstance(child, Mapping) or not child.get("stop_below"):
        return None
    return sum(count for epochs, count in snapshot.epochs.items() if epochs < child.get("epochs", 0))
