"""What a page of several searches says of them beside their figures: their names, and in what they differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.files import real_path
from runtime.folder import plain
from search.history import Group, History, experiment

OF_REWARDS = ("data", "child", "objective", "evaluator")
"""Parts of a configuration that decide what a reward measures."""
HOW_CHILDREN_RUN = {
    f"child.{name}" for name in ("threads", "device", "deterministic", "channels_last", "timeout_seconds")
}
"""Keys among them that do not."""
ABSENT = "–"
MOST_KEYS = 24
"""Keys in the table of differences."""


def short_names(searches: Sequence[History]) -> dict[Path, str]:
    """The end of each search's path that no other one has, by folder."""
    paths = {search.folder: real_path(search.folder) for search in searches}
    found = {}
    for folder, path in paths.items():
        others = [other for other in paths.values() if other != path]
        length = 1
        while length < len(path.parts) and any(o.parts[-length:] == path.parts[-length:] for o in others):
            length += 1
        found[folder] = str(Path(*path.parts[-length:]))
    return found


def settings(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """The keys in which the groups differ, each with the value of every group, those of rewards first.

    A group without a configuration has none of them. Strategies of different names differ in all their keys,
    of which the name says enough."""
    kinds = {group.searches[0].strategy for group in groups}
    leaves = [_leaves(_compared(group, strategy=len(kinds) == 1)) for group in groups]
    keys = dict.fromkeys(key for each in leaves for key in each)
    found = []
    for key in keys:
        values = [each.get(key, ABSENT) for each in leaves]
        if len(set(values)) > 1:
            found.append((key, values))
    return sorted(found, key=lambda each: not decides_rewards(each[0]))[:MOST_KEYS]


def decides_rewards(key: str) -> bool:
    """Whether a key belongs to what a reward measures."""
    return key.partition(".")[0] in OF_REWARDS and key not in HOW_CHILDREN_RUN


def unlike(groups: Sequence[Group], found: Sequence[tuple[str, list[str]]]) -> str | None:
    """Says that the rewards of the groups do not measure the same; None where they do.

    found: as `settings` gives it. A split follows its seed: splits are compared seed by seed."""
    reasons = [key for key, _ in found if decides_rewards(key)]
    seeds = unequal_splits([search for group in groups for search in group.searches])
    if seeds and not reasons:
        reasons.append(f"images or split of seed {', '.join(map(str, seeds))}")
    if not reasons:
        return None
    return (
        f"Not comparable: these searches differ in {', '.join(reasons)}. Their rewards do not measure the "
        "same, so a higher line says nothing about the strategies."
    )


def unequal_splits(searches: Sequence[History]) -> list[Any]:
    """Seeds with which two searches had other images, or divided them otherwise."""
    splits: dict[Any, set[str]] = {}
    for search in searches:
        splits.setdefault(search.seed, set()).add(str(search.snapshot.facts.get("split")))
    return [seed for seed, each in splits.items() if len(each) > 1]


def comparable(searches: Sequence[History]) -> list[list[History]]:
    """The searches apart by what their accuracies measure, in their order: equal values of the keys that
    decide it, and the same images and split for one seed. An objective changes rewards alone."""
    sets: list[tuple[dict[str, str], list[History]]] = []
    for search in searches:
        leaves = _leaves(experiment(search))
        deciding = {
            key: value
            for key, value in leaves.items()
            if decides_rewards(key) and not key.startswith("objective.")
        }
        for known, members in sets:
            if search.config and known == deciding and not unequal_splits([*members, search]):
                members.append(search)
                break
        else:
            sets.append((deciding, [search]))
    return [members for _, members in sets]


def _compared(group: Group, *, strategy: bool) -> dict[str, Any]:
    first = group.searches[0]
    own = {"strategy": first.config.get("strategy")} if strategy and first.config else {}
    return {**experiment(first), **own}


def _leaves(config: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(config, Mapping) and config:
        found: dict[str, str] = {}
        for key, value in config.items():
            found |= _leaves(plain(value), f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: ABSENT if config is None else str(config)}
