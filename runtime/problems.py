"""What a check of a data set finds: broken rules, each with a count and its first offenders."""

from dataclasses import dataclass, field


@dataclass
class Problem:
    """A broken rule. count: how often; names: the first files, folders or pairs of files that break it."""

    rule: str
    count: int = 0
    names: list[str] = field(default_factory=list)
    level: str = "error"

    def __str__(self) -> str:
        shown = ", ".join(self.names) + (", ..." if self.count > len(self.names) else "")
        return f"{self.level}: {self.rule}: {self.count} ({shown})"


@dataclass
class Report:
    """What the folders hold and which rules they break. kinds: images by format and colours."""

    folder: str
    counts: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    names: int = 5

    def add(self, rule: str, name: str, level: str = "error") -> None:
        found = next((problem for problem in self.problems if problem.rule == rule), None)
        if found is None:
            self.problems.append(found := Problem(rule, level=level))
        found.count += 1
        if len(found.names) < self.names:
            found.names.append(name)
