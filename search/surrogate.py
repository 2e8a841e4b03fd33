"""Says how well a surrogate, learned from trained cells, predicts the accuracy of others.

    python -m search.surrogate [DIR...]

Without DIR, of the cells that ship with the project. It learns from the searches that follow no reward
(strategy=random, prim_skip); their children must have been trained alike. The figures are those of ten-fold
cross-validation.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from backbones.arguments import documented_parser, one_line_errors
from backbones.words import counted
from celltransfer import program
from runtime.overrides import override

BOOTSTRAP_SEED = 0


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("search.surrogate", __doc__)
    parser.add_argument("dirs", type=Path, nargs="*", metavar="DIR", help="folders of searches")
    asked = parser.parse_args(arguments)
    show(asked.dirs)
    return 0


def show(folders: Sequence[Path]) -> None:
    """Prints the table of models, and how a search is run on the best one."""
    from search.rank_agreement import agreement
    from search.table.recorded import shipped, trained
    from search.table.surrogate import FOLDS, cross_validated, table

    rows = trained(folders or shipped())
    scores = np.array([row.accuracy for row in rows.learned])
    qualities = cross_validated(table([row.genotype for row in rows.learned], rows.child), scores)
    drawn = Table(box=None)
    for head in ("model", "tau", "95 % interval", "error"):
        drawn.add_column(head, justify="left" if head == "model" else "right")
    for name, quality in qualities.items():
        tau = agreement([(list(quality.predictions), list(scores))], BOOTSTRAP_SEED)
        between = "–" if tau.low is None else f"{tau.low:.2f} to {tau.high:.2f}"
        drawn.add_row(name, f"{quality.tau:.3f}", between, f"{quality.error:.2%}")
    print(
        f"{counted(len(scores), 'cell')}, accuracy {scores.mean():.2%} +- {scores.std(ddof=1):.2%}, "
        f"{scores.min():.2%} to {scores.max():.2%}; {FOLDS} folds"
    )
    Console().print(drawn)
    floor = next(iter(qualities.values())).floor
    print(f"error: root mean square, in points of accuracy; {floor:.2%} where the mean is predicted for all")
    best = max(qualities, key=lambda name: qualities[name].tau)
    evaluator: dict[str, object] = {"_target_": "search.table.recorded.Recorded", "model": best}
    if folders:
        evaluator["folders"] = [str(folder) for folder in folders]
    print(f"search on it: {program('search')} {override('evaluator', evaluator)} budget.children=2000")


if __name__ == "__main__":
    sys.exit(main())
