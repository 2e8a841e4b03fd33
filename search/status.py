"""Shows how a search stands, while it runs or afterwards. Reads its folder and writes nothing there.

    python -m search.status DIR [--watch] [--digest] [--csv FILE]

--watch shows it again every few seconds until Ctrl-C, which ends the display and not the search. --digest
prints one SHA-256 of all that a search with the same configuration must have in common with this one. --csv
writes a table of all children.

To pause a search, press Ctrl-C where it runs, or send it SIGTERM; its command with the same run_dir continues
it. To extend one that has finished, start it with a larger budget.children.
"""

import csv
import io
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from backbones.arguments import documented_parser, one_line_errors
from backbones.files import check_output, write_output
from backbones.words import counted, printable, printable_lines
from search import commands
from search.chance import at_chance
from search.estimate import duration, estimated
from search.ledger.located import Located, located
from search.ledger.reader import read_children
from search.snapshot import Attempt, Snapshot
from search.standing import Standing, fruitless, in_no_time, settings, standing, stopped

BEST = 10
"""Best children that are listed."""
RUNNING = 16
"""Running children that are listed."""
WATCH_SECONDS = 2.0
DETAIL = 300
"""Characters of a failure's message."""


def show(found: Located, now: float) -> RenderableType:
    """What the ledger says, as tables. now: Unix time."""
    snapshot = Snapshot.read(found.ledger)
    now_is, config = standing(snapshot, found.folder), settings(found.folder)
    alive = now_is.driver is not None
    parts: list[RenderableType] = [_facts(snapshot, found.folder, now_is, config, now)]
    if found.elsewhere and snapshot.left_open:
        parts.append(Text(f"read from a copy; the ledger itself is {found.elsewhere}"))
    if snapshot.best:
        parts.append(_best(snapshot))
    if running := [each for each in snapshot.attempts if each.ended is None]:
        parts.append(_running(running, now, alive=alive))
    if snapshot.attempts:
        parts.append(_hosts(snapshot.attempts))
    parts += [Text(line) for line in ("", *_what_next(snapshot, found.folder, config, alive=alive))]
    return Group(*parts)


def _facts(
    snapshot: Snapshot, folder: Path, now_is: Standing, config: Mapping[str, Any], now: float
) -> Table:
    table = Table.grid(padding=(0, 2))
    alive = now_is.driver is not None
    table.add_row("search", f"{folder} ({now_is.word})")
    if now_is.why:
        table.add_row("why", now_is.why)
    ran = snapshot.count("running")
    counts = [
        f"{snapshot.count('done'):,} of {snapshot.budget:,} done",
        f"{ran if alive else 0:,} running",
        *([f"{ran:,} broken off"] if ran and not alive else []),
        f"{snapshot.count('queued'):,} queued",
        f"{snapshot.budget - len(snapshot.children):,} to be proposed",
    ]
    table.add_row("children", ", ".join(counts))
    if snapshot.best:
        best, late = snapshot.best[0], snapshot.late
        mean = f", mean of the last {len(late)}: {statistics.fmean(late):.4g}"
        entropy = "" if snapshot.entropy is None else f", entropy of the policy {snapshot.entropy:.4g} nats"
        table.add_row("reward", f"best {best.reward:.4g} (child {best.number}){mean}{entropy}")
        if (warning := at_chance(late, snapshot.facts)) is not None:
            table.add_row("", warning)
    total = snapshot.failures.total()
    others = f"{counted(snapshot.duplicates, 'duplicate')}, {snapshot.rejected:,} rejected, {total:,} failed"
    kinds = _counts(snapshot.failures)
    table.add_row("of them", others + (f": {kinds}" if kinds else ""))
    if (ended := stopped(snapshot, config)) is not None:
        table.add_row("stopped", f"{counted(ended, 'child', 'children')} by child.stop_below")
    outcomes = Counter(_outcome(each, alive=alive) for each in snapshot.attempts)
    if outcomes:
        listed = ", ".join(f"{count:,} {printable(kind)}" for kind, count in outcomes.most_common(6))
        table.add_row("attempts", f"{len(snapshot.attempts):,}: {listed}")
    table.add_row("time", _time(snapshot, now, alive=alive))
    return table


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())


def _outcome(attempt: Attempt, *, alive: bool) -> str:
    if attempt.ended is None:
        return "running" if alive else "broken off"
    return attempt.outcome or "ended"


def _time(snapshot: Snapshot, now: float, *, alive: bool) -> str:
    spent = duration(snapshot.seconds)
    if not snapshot.left_open or snapshot.shared or (not alive and fruitless(snapshot)):
        return spent
    left = snapshot.seconds_left(now, alive=alive)
    return f"{spent} so far, " + ("ETA not known yet" if left is None else f"ETA {estimated(left)}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        words = name in ("cell", "host", "device", "torch", "capability")
        table.add_column(name, justify="left" if words else "right")
    return table


def _best(snapshot: Snapshot) -> Table:
    table = _table("\nbest cells", "child", "reward", "cell", "proposed", "run time")
    repeats = Counter(row.cell_key for row in snapshot.children)
    for row in snapshot.best[:BEST]:
        seconds = duration(row.seconds) if row.seconds else "–"
        times = f"{repeats[row.cell_key]}×"
        table.add_row(str(row.number), f"{row.reward:.4f}", row.cell_key, times, seconds)
    return table


def _running(running: Sequence[Attempt], now: float, *, alive: bool) -> Table:
    table = _table("\nrunning" if alive else "\nrunning when the search was killed", "child", "for", "host")
    for each in running[:RUNNING]:
        since = duration(max(0.0, now - each.begun)) if alive else "–"
        table.add_row(str(each.child), since, printable(each.host or "–"))
    if len(running) > RUNNING:
        table.add_row("…", f"{len(running) - RUNNING} more", "")
    return table


def _hosts(attempts: Sequence[Attempt]) -> Table:
    table = _table("\nhosts", "host", "device", "torch", "capability", "attempts", "mean time")
    by_host: dict[tuple[str, ...], list[float]] = {}
    for each in attempts:
        if each.host and each.ended is not None:
            key = tuple(printable(str(x)) for x in (each.node or each.host, each.device, each.torch))
            seconds = by_host.setdefault((*key, printable(str(each.capability))), [])
            seconds.append(each.ended - each.begun)
    for key, seconds in sorted(by_host.items()):
        table.add_row(*key, f"{len(seconds):,}", duration(sum(seconds) / len(seconds)))
    return table


def _what_next(snapshot: Snapshot, folder: Path, config: Mapping[str, Any], *, alive: bool) -> list[str]:
    report = f"report: {commands.about('search.report', folder)}"
    rerank = f"train the best cells longer: {commands.rerank(folder)}"
    if snapshot.shared:
        return ["search.share wrote this copy, which is not continued.", rerank, report]
    if alive:
        return ["To pause, press Ctrl-C where it runs, or send it SIGTERM.", report]
    if snapshot.left_open and not fruitless(snapshot):
        command = commands.again(folder)
        return [f"This continues it: {command}" if command else "", report]
    asked, key = snapshot.asked, snapshot.spent or "children"
    larger = 2 * (asked["hours"] if key == "hours" else snapshot.budget)
    if in_no_time(snapshot):
        larger = max(larger, 1)
    command = commands.again(folder, **{key: larger})
    typed = f": {command}" if command else ""
    if in_no_time(snapshot):
        return [f"No child was done in this time. To go on, add budget.hours={larger:g}{typed}"]
    if fruitless(snapshot):
        tried = [*_why_fruitless(snapshot, config)]
        return [*tried, f"To go on with other cells, add budget.{key}={larger:g}{typed}"]
    extend = f"To extend it, add budget.{key}={larger:g} to its command{typed}"
    return [extend, rerank, report]


def _why_fruitless(snapshot: Snapshot, config: Mapping[str, Any]) -> list[str]:
    failed = [row for row in snapshot.children if row.failure]
    kinds = Counter(str(row.failure) for row in failed)
    first = printable(f"child {failed[0].number}: {failed[0].detail[:DETAIL]}")
    keys = commands.cures(kinds, config)
    return [
        f"Nothing is left to run, and no child has a reward: {_counts(kinds)}; {first}",
        f"The same command runs nothing more. Other values to try in a new run_dir: {keys}",
    ]


def table_of_children(path: Path) -> str:
    """All children as CSV: a column for each figure, each metric as `metrics.NAME`; the curve as JSON."""
    rows = read_children(path)
    metrics = sorted({name for row in rows for name in row.metrics})
    plain = [name for name in vars(rows[0]) if name not in ("genotype", "metrics")] if rows else ["number"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*plain, *(f"metrics.{name}" for name in metrics), "genotype"])
    writer.writeheader()
    for row in rows:
        values: dict[str, Any] = {name: _cell(getattr(row, name)) for name in plain}
        values |= {f"metrics.{name}": value for name, value in row.metrics.items()}
        writer.writerow(values | {"genotype": json.dumps(row.genotype.to_dict())})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return json.dumps(value) if isinstance(value, tuple | Mapping) else value


def watch(place: Path, console: Console, seconds: float = WATCH_SECONDS) -> NoReturn:
    """Shows it again and again until an interrupt."""
    with Live(show(located(place), time.time()), console=console, auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(seconds)
            try:
                live.update(show(located(place), time.time()), refresh=True)
            except OSError as error:  # a share that is away for a moment
                live.update(Text(printable_lines(f"{place}: {error}")), refresh=True)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("search.status", __doc__)
    parser.add_argument("dir", type=Path, help="folder of a search, or of a chain; or the ledger itself")
    parser.add_argument("--watch", action="store_true", help=f"show it every {WATCH_SECONDS:g} s")
    parser.add_argument(
        "--digest", action="store_true", help="print the SHA-256 of the search, and only that"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write all children as a table; -: to standard output"
    )
    asked = parser.parse_args(arguments)
    try:
        if asked.csv is not None:
            check_output(asked.csv, text=True)
        found = located(asked.dir)
        if asked.digest:
            from search.ledger.digest import digest

            print(digest(found.ledger))
            return 0
        console = Console(width=None if sys.stdout.isatty() else 120)
        if asked.csv is not None:
            write_output(asked.csv, table_of_children(found.ledger))
            return 0
        if asked.watch:
            watch(asked.dir, console)
        console.print(show(found, time.time()), soft_wrap=True)
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
