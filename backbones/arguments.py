"""Command lines that argparse reads; their numbers are refused by the words of `backbones.ranges`."""

import argparse
import functools
import math
import sys
from collections.abc import Callable
from typing import ParamSpec

from backbones.ranges import LARGEST_INT, rule
from backbones.words import clipped, printable_lines, told
from celltransfer import program

Given = ParamSpec("Given")


def documented_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of a command whose help is `doc`: its first line, the rest below the options."""
    intro, _, more = (doc or "").partition("\n")
    return argparse.ArgumentParser(
        prog=program(command),
        description=intro,
        epilog=more.replace(f"python -m {command}", program(command)).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def whole(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number of 64 bits, in `least..most` where these are given."""

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError:  # also of more digits than Python reads
            raise argparse.ArgumentTypeError(f"{clipped(word)[1:-1]}, must be a whole number") from None
        if (least is not None and value < least) or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{word}, must be {rule(least, None, most, None)}")
        if not -LARGEST_INT - 1 <= value <= LARGEST_INT:
            end = f"at most {LARGEST_INT}" if value > 0 else f"at least {-LARGEST_INT - 1}"
            raise argparse.ArgumentTypeError(f"{word}, must be {end}")
        return value

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """An argparse type: a number in `least..most`, both of which it may be."""

    def read(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{word}, must be a number {rule(least, None, most, None)}")
        return value

    return read


def one_line_errors(main: Callable[Given, int]) -> Callable[Given, int]:
    """A command's `main`, of which what the user can mend ends as one line and exit code 1."""

    @functools.wraps(main)
    def command(*arguments: Given.args, **named: Given.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except (OSError, ValueError, ImportError) as error:
            print(printable_lines(told(error)), file=sys.stderr)
            return 1

    return command
