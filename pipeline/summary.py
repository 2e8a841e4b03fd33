"""The table that a pipeline run prints at its end."""

import os

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from backbones.words import printable
from detection.evaluation.scoring import METRICS
from pipeline.results import Results
from runtime.page import percent, short


def summary(run_dir: str | os.PathLike[str]) -> RenderableType:
    """Key figures of the three stages, and where the files lie; a dash where a figure is unknown.

    Raises FileNotFoundError unless the folder holds a pipeline run.
    """
    results = Results.read(run_dir)
    search, classification, detection = results.search, results.classification, results.detection
    table = Table(title=escape(printable(str(results.run_dir))), show_header=False, show_lines=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(
        "search",
        f"children {short(search.value('children'))}, {short(search.value('failed'))} failed\n"
        f"reward   best {percent(search.value('best_reward'))}   mean {percent(search.value('mean_reward'))}",
    )
    top5 = classification.value("top5")  # of more than 5 classes only
    table.add_row(
        "classification",
        f"accuracy   top-1 {percent(classification.value('top1'))}"
        f"{'' if top5 is None else f'   top-5 {percent(top5)}'}\n"
        f"parameters {short(classification.value('parameters'))}   "
        f"multiply-adds {short(classification.value('multiply_adds'))}",
    )
    cells = [f"{name:<5} {percent(detection.value(name)):>7}" for name in METRICS]
    table.add_row("detection", "\n".join("   ".join(cells[i : i + 3]) for i in range(0, len(cells), 3)))
    # Paths stand outside the table, which would fold them at 80 columns.
    paths = Text(
        "\n".join(printable(str(path)) for path in results.files().values()), overflow="ignore", no_wrap=True
    )
    return Group(table, paths)
