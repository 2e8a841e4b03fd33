"""The check list of Lindauer and Hutter for searches, answered as far as ledgers and run folders know.

Source: Best Practices for Scientific Research on Neural Architecture Search, 1909.02453, section 5.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from celltransfer import program
from search.estimate import duration
from search.history import Group, History, experiment

OPEN = "left open: a ledger cannot know this"


class Answer(NamedTuple):
    """state: `yes`, `no` or `open`."""

    question: str
    state: str
    text: str


def checklist(groups: Sequence[Group]) -> list[tuple[str, list[Answer]]]:
    """The list's three parts, each with its questions."""
    searches = [search for group in groups for search in group.searches]
    return [
        ("Releasing code", _code(searches)),
        ("Comparing methods", _comparison(groups, searches)),
        ("Reporting details", _details(searches)),
    ]


def _code(searches: Sequence[History]) -> list[Answer]:
    configured = all(search.config for search in searches)
    versions = _each(search.versions.get("celltransfer") for search in searches)
    where = "config.yaml in each folder" if configured else "config.yaml is missing in a folder"
    state = "yes" if configured else "no"
    package = f"search/children of celltransfer {versions}"
    return [
        Answer(
            "Code of the pipeline that trains the final architectures", "yes", "the package classification"
        ),
        Answer("Hyperparameters of that training", "open", "in the run folder of the classifier"),
        Answer("Code that trains and scores the architectures of the search", "yes", package),
        Answer("Search space", state, f"search/space.py; its options: {where}"),
        Answer("Code of the search methods", "yes", "search/strategies"),
        Answer("Hyperparameters of the search methods", state, where),
        Answer("Random seeds", state, f"seeds {_each(search.seed for search in searches)}"),
    ]


def _comparison(groups: Sequence[Group], searches: Sequence[History]) -> list[Answer]:
    first = experiment(searches[0])
    other = sorted({key for s in searches for key, value in experiment(s).items() if value != first.get(key)})
    splits = {str(search.snapshot.facts.get("split")) for search in searches}
    same = not other and len(splits) == 1
    data = "equal data, split, space and training" if same else f"differences: {', '.join(other) or 'split'}"
    hardware = {str(search.snapshot.facts.get("hardware")) for search in searches}
    packages = {str(sorted(search.versions.items())) for search in searches}
    confounders = [
        *(["devices or capabilities differ"] if len(hardware) > 1 else []),
        *(["versions of packages differ"] if len(packages) > 1 else []),
    ]
    several = all(len(group.searches) > 1 for group in groups)
    runs = ", ".join(f"{group.name}: {len(group.searches)}" for group in groups)
    random = any(group.name.startswith("random") for group in groups)
    alone = len(groups) == 1
    return [
        Answer(
            "Same data, split, space and training for all methods",
            "open" if alone else "yes" if same else "no",
            "only one method is on this page" if alone else data,
        ),
        Answer(
            "Confounding factors controlled: hardware, versions, run times",
            "no" if confounders else "yes",
            "; ".join(confounders) or f"one kind of hardware, equal versions: {_hardware(searches)}",
        ),
        Answer("Ablation studies", "open", OPEN),
        Answer(
            "Same evaluation protocol for all methods",
            "open" if alone else "yes" if same else "no",
            "only one method is on this page" if alone else data,
        ),
        Answer("Performance over time", "yes", "charts above, by children and by CPU-hours"),
        Answer(
            "Comparison with random search",
            "yes" if random else "no",
            "on this page" if random else "run the same command with strategy=random and name both folders",
        ),
        Answer("Several runs, with their seeds", "yes" if several else "no", f"runs: {runs}"),
        Answer("Tabular or surrogate benchmarks for in-depth evaluation", "open", OPEN),
    ]


def _details(searches: Sequence[History]) -> list[Answer]:
    wall = sum(float(search.snapshot.facts.get("seconds") or 0) for search in searches)
    hours = sum(search.cpu_hours for search in searches)
    children = sum(len(search.rows) for search in searches)
    spent = f"{children:,} children, {hours:,.2f} CPU-hours, {duration(wall)} of wall time for the searches"
    return [
        Answer("Tuning of hyperparameters: how, with which time and resources", "open", OPEN),
        Answer(
            "Time of the whole method, not of the search alone", "open", f"{spent}; the rest is left open"
        ),
        Answer("Hardware", "yes", _hardware(searches)),
        Answer(
            "Budget",
            "yes",
            ", ".join(sorted({f"{search.snapshot.budget:,} children" for search in searches})),
        ),
        Answer(
            "Noise: how much one architecture's score differs from seed to seed",
            "open",
            f"measured by {program('search.probe')}; the ledger of a search has each cell once",
        ),
    ]


def _hardware(searches: Sequence[History]) -> str:
    known = [search.snapshot.facts.get("hardware") or {} for search in searches]
    words = {" ".join(str(each[key]) for key in ("device", "capability") if key in each) for each in known}
    return ", ".join(sorted(words - {""})) or "unknown"


def _each(values: Any) -> str:
    return ", ".join(dict.fromkeys("unknown" if value is None else str(value) for value in values))
