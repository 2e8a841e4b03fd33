"""The check list of Lindauer and Hutter for searches, answered as far as ledgers and run folders know.

Source: Best Practices for Scientific Research on Neural Architecture Search, 1909.02453, section 5.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from backbones.words import counted
from celltransfer import program
from runtime.folder import differences
from search.comparison import unequal_splits
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
    evaluators = {str(each["_target_"]) for s in searches if (each := s.config.get("evaluator"))}
    package = f"search/children of celltransfer {versions}"
    own = f"left open: the evaluator is {', '.join(sorted(evaluators))}"
    return [
        Answer(
            "Code of the pipeline that trains the final architectures", "yes", "the package classification"
        ),
        Answer("Hyperparameters of that training", "open", "in the run folder of the classifier"),
        Answer(
            "Code that trains and scores the architectures of the search",
            "open" if evaluators else "yes",
            own if evaluators else package,
        ),
        Answer("Search space", state, f"search/space.py; its options: {where}"),
        Answer("Code of the search methods", "yes", "search/strategies"),
        Answer("Hyperparameters of the search methods", state, where),
        Answer("Random seeds", state, f"seeds {_each(search.seed for search in searches)}"),
    ]


def _comparison(groups: Sequence[Group], searches: Sequence[History]) -> list[Answer]:
    same = _same(groups, searches)
    seeds = {group.name: len(set(group.seeds)) for group in groups}  # one seed twice is one run
    several = all(count > 1 for count in seeds.values())
    runs = ", ".join(f"{name}: {count}" for name, count in seeds.items())
    return [
        Answer("Same data, split, space and training for all methods", *same),
        Answer(
            "Confounding factors controlled: hardware, versions, run times", *_confounders(groups, searches)
        ),
        Answer("Ablation studies", "open", OPEN),
        Answer("Same evaluation protocol for all methods", *same),
        Answer("Performance over time", "yes", "charts above, by children and by CPU time"),
        Answer("Comparison with random search", *_with_random(groups, same[0])),
        Answer("Several runs, with their seeds", "yes" if several else "no", f"runs: {runs}"),
        Answer("Tabular or surrogate benchmarks for in-depth evaluation", "open", OPEN),
    ]


def _same(groups: Sequence[Group], searches: Sequence[History]) -> tuple[str, str]:
    """Whether the methods differ in nothing else. A split follows its seed: splits are compared by seed."""
    if len(groups) == 1:
        return "open", "only one method is on this page"
    first = experiment(searches[0])
    changes = [line for search in searches for line in differences(first, experiment(search))]
    found = list(dict.fromkeys(line.partition(": ")[0] for line in changes))
    if unequal := unequal_splits(searches):
        found.append(f"split of seed {_each(unequal)}")
    if len({frozenset(group.seeds) for group in groups}) > 1:
        seeds = "; ".join(f"{group.name} {_each(group.seeds)}" for group in groups)
        found.append(f"seeds, and with them the splits ({seeds})")
    if found:
        return "no", f"differences: {', '.join(found)}"
    common = len({search.seed for search in searches})
    by_seed = f", seed by seed for {counted(common, 'seed')}" if common > 1 else ""
    return "yes", f"equal data, split, space and training{by_seed}"


def _confounders(groups: Sequence[Group], searches: Sequence[History]) -> tuple[str, str]:
    kinds = [_kinds(search) for search in searches]
    packages = {str(sorted(search.versions.items())) for search in searches}
    known = all(kinds) and all(search.versions for search in searches)
    found = [
        *(["devices, capabilities or versions of PyTorch differ"] if len(set().union(*kinds)) > 1 else []),
        *(["versions of packages differ"] if len(packages) > 1 else []),
    ]
    each = ", ".join(f"{group.name} {_cpu_time(group.searches)}" for group in groups)
    times = f"CPU time of the children: {each}"
    if found:
        return "no", f"{'; '.join(found)}; {times}"
    equal = f"one kind of hardware, equal versions: {_hardware(searches)}"
    return (
        "open",
        f"{equal if known else 'hardware or versions are not known'}; {times}; the rest is left open",
    )


def _with_random(groups: Sequence[Group], same: str) -> tuple[str, str]:
    """same: whether the methods differ in nothing else."""
    if not any(group.name.startswith("random") for group in groups):
        return "no", "run the same command with strategy=random and name both folders"
    if len(groups) == 1:
        return "open", "only random search is on this page"
    return "yes", "on this page" + ("" if same == "yes" else ", but with other differences: see above")


def _details(searches: Sequence[History]) -> list[Answer]:
    wall = sum(search.snapshot.seconds for search in searches)
    children = _children(sum(len(search.rows) for search in searches))
    spent = f"{children}, {_cpu_time(searches)} of CPU time, {duration(wall)} of wall time for the searches"
    hardware = _hardware(searches)
    return [
        Answer("Tuning of hyperparameters: how, with which time and resources", "open", OPEN),
        Answer(
            "Time of the whole method, not of the search alone", "open", f"{spent}; the rest is left open"
        ),
        Answer("Hardware", "yes" if hardware else "open", hardware or "unknown"),
        Answer("Budget", "yes", ", ".join(dict.fromkeys(map(_budget, searches)))),
        Answer(
            "Noise: how much one architecture's score differs from seed to seed",
            "open",
            f"measured by {program('search.probe')}; the ledger of a search has each cell once",
        ),
    ]


def _cpu_time(searches: Sequence[History]) -> str:
    return duration(3600 * sum(search.cpu_hours for search in searches))


def _children(number: int) -> str:
    return f"{number:,} {'child' if number == 1 else 'children'}"


def _budget(search: History) -> str:
    hours = search.snapshot.asked.get("hours")
    return _children(search.snapshot.budget) + ("" if hours is None else f" or {hours:g} h")


def _kinds(search: History) -> set[tuple[str, str, str]]:
    """Device, capability and PyTorch's version where children ran, or where the search began."""
    ran = [each for each in search.snapshot.attempts if each.device]
    found = {(str(each.device), str(each.capability), str(each.torch)) for each in ran}
    if not found and (began := search.snapshot.facts.get("hardware")):
        found = {(str(began.get("device")), str(began.get("capability")), str(began.get("torch")))}
    return {(device.partition(":")[0], capability, torch) for device, capability, torch in found}


def _hardware(searches: Sequence[History]) -> str:
    found = set().union(*map(_kinds, searches))
    return ", ".join(sorted({f"{device} {capability}" for device, capability, _ in found}))


def _each(values: Any) -> str:
    return ", ".join(dict.fromkeys("unknown" if value is None else str(value) for value in values))
