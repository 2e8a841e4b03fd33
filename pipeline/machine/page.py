"""What a comparison shows: a table, one page with a picture, and a card beside each detector."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from backbones.files import real_path, write_atomically
from backbones.words import printable
from celltransfer import program
from runtime.charts import Series, charts
from runtime.page import page, percent, short
from search import commands
from search.pareto import on_front

TEMPLATE = Path(__file__).with_name("machine.html.j2")
CARD = Path(__file__).with_name("card.md.j2")
PAGE = "machine.html"
NAME = "network (cells per stage x filters)"
Entry = Mapping[str, Any]
"""Of `machine.json`."""


def table(entries: Sequence[Entry]) -> Table:
    """Fastest first; a star marks those that no other one beats in both AP and milliseconds."""
    drawn = Table(box=None)
    for head in ("", NAME, "ms", "quartiles", "AP", "AP50", "parameters", "multiply-adds"):
        drawn.add_column(head, justify="left" if head in ("", NAME) else "right")
    for entry in sorted(entries, key=lambda entry: entry["ms"]):
        drawn.add_row(*_cells(entry))
    return drawn


def _cells(entry: Entry) -> list[str]:
    low, high = entry["quartiles"]
    return [
        "*" if entry["front"] else "",
        printable(entry["name"]),
        f"{entry['ms']:.1f}",
        f"{low:.1f} to {high:.1f}",
        percent(entry["metrics"].get("AP")),
        percent(entry["metrics"].get("AP50")),
        short(entry["costs"].get("parameters")),
        short(entry["costs"].get("multiply_adds")),
    ]


def mark_front(entries: Sequence[dict[str, Any]]) -> None:
    """Gives each entry `front`: no other one is as good and as fast, and better in one of them."""
    front = on_front([(entry["metrics"].get("AP"), entry["ms"]) for entry in entries])
    for entry, is_on in zip(entries, front, strict=True):
        entry["front"] = is_on


def write_page(folder: Path, entries: Sequence[Entry], protocol: str, processor: str) -> Path:
    """Writes `machine.html` and each detector's `README.md`; returns the page.

    protocol, processor: how the times were taken, and on what, in a sentence each."""
    context = {
        "title": real_path(folder).name,
        "heading": NAME,
        "picture": _picture(entries),
        "rows": [(entry, _cells(entry)) for entry in sorted(entries, key=lambda entry: entry["ms"])],
        "protocol": protocol,
        "processor": processor,
        "command": _predict,
        "again": commands.again(folder / "search"),
        "quoted": lambda entry: shlex.quote(str(folder / entry["folder"])),
    }
    for entry in entries:
        card = page(CARD, context | {"entry": entry, "figures": json.dumps(entry["metrics"], indent=1)})
        write_atomically(folder / entry["folder"] / "README.md", card)
    path = folder / PAGE
    write_atomically(path, page(TEMPLATE, context))
    return path


def _picture(entries: Sequence[Entry]) -> list[Any]:
    """AP against milliseconds; a ring with its name around each network of the front."""
    kinds: dict[str, list[tuple[float, float]]] = {"searched": [], "known": []}
    marks = []
    for entry in entries:
        if (ap := entry["metrics"].get("AP")) is None:
            continue
        kinds["known" if entry["searched"] is None else "searched"].append((entry["ms"], ap))
        if entry["front"]:
            marks.append(Series("front", "mark", [(entry["ms"], ap)], entry["name"]))
    series = [Series(name, "dots", sorted(places)) for name, places in kinds.items()]
    text = "AP of each detector against its milliseconds"
    return charts([*series, *marks], text, "milliseconds for one image", percent=True, x_text="{:g}".format)


def _predict(entry: Entry) -> str:
    return f"{program('detection.predict')} {shlex.quote(entry['weights'])} IMAGES"
