"""Tables on standard output whose cells are never cut: names in them are there to be copied."""

import sys

from rich.console import Console
from rich.table import Table

ANY_WIDTH = 1_000_000


def whole_table(*columns: str) -> Table:
    """A table whose cells go on in the next line where the terminal is too narrow for them."""
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """As wide as the terminal; as its cells where the output goes to a file or a pipe."""
    Console(width=None if sys.stdout.isatty() else ANY_WIDTH).print(table)
