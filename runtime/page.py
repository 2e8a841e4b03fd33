"""What the reports have in common: one self-contained HTML page, and how its figures are written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from backbones.words import counted


def page(template: Path, context: Mapping[str, Any]) -> str:
    """The HTML of a template, which may include the style and import the macros that lie here.

    Everything is escaped but `Markup`. Raises for a name that the context does not have."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "short": short, "counted": counted}
    return environment.get_template(template.name).render(**context)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in 0..1 as percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def short(value: float | None) -> str:
    """A count with three significant digits: 5.29 M; a dash for None."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
