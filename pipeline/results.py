"""What the folder of a run holds, stage by stage. Read only; what is absent or broken is noted."""

import csv
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from backbones.files import decode_json, read_json, read_text
from backbones.genotype import Genotype
from backbones.metadata import read_metadata
from classification.mistakes import FILE as MISTAKES
from classification.mistakes import Mistakes, read_mistakes
from detection.evaluation.curves import FILE as CURVES
from detection.evaluation.curves import Curves, read_curves
from runtime.folder import EVALUATION
from runtime.yaml_files import read_mapping
from search.ledger.located import located
from search.ledger.reader import LEDGER, read_children
from search.ledger.rows import ChildRow

T = TypeVar("T")


class Metrics(msgspec.Struct):
    """The content of `metrics.json`, as far as it is shown."""

    split: str = ""
    annotations: str = ""
    """Name of the annotation file that a detector was scored on."""
    images: int | None = None
    """How many images these are."""
    metrics: dict[str, float] = {}
    costs: dict[str, float] = {}
    """Parameters and multiply-adds; older runs have them among the metrics."""
    per_class: dict[str, float | dict[str, float | None] | None] = {}
    undefined: list[str] = []
    """Metrics that the data cannot tell, such as APs without small boxes."""


@dataclass
class Stage:
    """One stage's folder. Empty where a file is absent; `notes` then says which, and what broke others."""

    folder: Path
    results: Metrics = field(default_factory=Metrics)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    curve: list[dict[str, str]] = field(default_factory=list)
    """Rows of metrics.csv."""
    mistakes: Mistakes | None = None
    curves: Curves | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, configured: bool = True) -> "Stage":
        """configured: a missing configuration is noted."""
        stage = cls(folder)
        if not folder.is_dir():
            stage.notes.append(f"{folder.name}/ is not there: this stage has not run.")
            return stage
        stage.results = stage.attempt("metrics.json", _read_metrics) or Metrics()
        if configured or (folder / "config.yaml").exists():
            stage.config = stage.attempt("config.yaml", _configuration) or {}
        elif (folder / EVALUATION).exists():
            stage.config = stage.attempt(EVALUATION, _configuration) or {}
        if (folder / "versions.json").exists():
            stage.versions = stage.attempt("versions.json", _read_versions) or {}
        if (folder / "metrics.csv").exists():
            stage.curve = stage.attempt("metrics.csv", _read_csv) or []
        if (folder / MISTAKES).exists():
            stage.mistakes = stage.attempt(MISTAKES, read_mistakes)
        if (folder / CURVES).exists():
            stage.curves = stage.attempt(CURVES, read_curves)
        return stage

    def attempt(self, name: str, read: Callable[[Path], T]) -> T | None:
        """What `read` makes of the file `name`; None, and a note that names it, where that fails."""
        if not self.folder.is_dir():
            return None
        try:
            return read(self.folder / name)
        except (OSError, ValueError, RecursionError, csv.Error, msgspec.ValidationError) as error:
            message = str(error).replace(f"{self.folder}{os.sep}", "")
            self.notes.append(message if name in message else f"{name}: {message}")
            return None

    def value(self, key: str) -> float | None:
        """A metric or a cost; None where it is unknown or undefined."""
        known = self.results.metrics | self.results.costs
        return None if key in self.results.undefined else known.get(key)

    @property
    def data(self) -> Mapping[str, Any]:
        """The configuration's data section."""
        section = self.config.get("data")
        return section if isinstance(section, Mapping) else {}

    @property
    def per_class(self) -> dict[str, float | None]:
        """Accuracy, or AP, of each class in 0..1."""
        values = self.results.per_class.items()
        return {name: value.get("AP") if isinstance(value, dict) else value for name, value in values}


@dataclass
class Results:
    """A run's three stages and what they handed on.

    lone: the stage where the folder is not a chain's but that of one search, training or evaluation."""

    run_dir: Path
    search: Stage
    classification: Stage
    detection: Stage
    command: str | None
    """The command line that started the run, from `command.txt`."""
    genotype: Genotype | None
    children: list[ChildRow]
    backbone: Mapping[str, Any] | None
    """Description in `backbone.safetensors`."""
    detector: Mapping[str, Any] | None
    """Description in `detector.safetensors`."""
    lone: Literal["", "search", "classification", "detection"] = ""
    evaluated: bool = False
    """The folder is that of one evaluation."""

    @classmethod
    def read(cls, run_dir: str | os.PathLike[str]) -> "Results":
        """Raises FileNotFoundError unless the folder holds at least one stage, or one stage's figures."""
        run_dir = Path(run_dir)
        if not run_dir.is_dir():
            raise FileNotFoundError(f"{run_dir}: no such folder")
        names = ("search", "classification", "detection")
        if not any((run_dir / name).is_dir() for name in names):
            if (run_dir / MISTAKES).exists():
                return cls._read_lone(run_dir, "classification")
            if (run_dir / CURVES).exists() or (run_dir / "predictions.json").exists():
                return cls._read_lone(run_dir, "detection")
            if (run_dir / LEDGER).exists():
                return cls._read_lone(run_dir, "search")
            raise FileNotFoundError(
                f"{run_dir}: no pipeline run, expected {', '.join(names)} in it, a search's {LEDGER}, "
                f"a classifier's {MISTAKES}, or a detector's {CURVES} or predictions.json"
            )
        search, classification, detection = (Stage.read(run_dir / name) for name in names)
        return cls(
            run_dir,
            search,
            classification,
            detection,
            command=_command(run_dir, search.notes),
            genotype=search.attempt("genotype.json", Genotype.load),
            children=search.attempt(LEDGER, _children) or [],
            backbone=classification.attempt("backbone.safetensors", _description("backbone")),
            detector=detection.attempt("detector.safetensors", _description("detector")),
        )

    @classmethod
    def _read_lone(cls, run_dir: Path, kind: Literal["search", "classification", "detection"]) -> "Results":
        stage = Stage.read(run_dir, configured=False)
        backbone, genotype, detector = None, None, None
        if kind == "search":
            genotype = stage.attempt("genotype.json", Genotype.load)
        if (run_dir / "backbone.safetensors").exists():
            backbone = stage.attempt("backbone.safetensors", _description("backbone"))
        if backbone and "genotype" in (network := backbone.get("network", {})):
            genotype = stage.attempt(
                "backbone.safetensors", lambda _: Genotype.from_dict(network["genotype"])
            )
        if (run_dir / "detector.safetensors").exists():
            detector = stage.attempt("detector.safetensors", _description("detector"))
        return cls(
            run_dir,
            stage if kind == "search" else Stage(run_dir / "search"),
            stage if kind == "classification" else Stage(run_dir / "classification"),
            stage if kind == "detection" else Stage(run_dir / "detection"),
            command=_command(run_dir, stage.notes),
            genotype=genotype,
            children=(stage.attempt(LEDGER, _children) or []) if kind == "search" else [],
            backbone=backbone,
            detector=detector,
            lone=kind,
            evaluated=(run_dir / EVALUATION).exists() and not (run_dir / "config.yaml").exists(),
        )

    def files(self) -> dict[str, Path]:
        """The files that the run is for, by name; those that exist."""
        paths = [
            self.run_dir / "report.html",
            self.search.folder / "genotype.json",
            self.classification.folder / "backbone.safetensors",
            self.detection.folder / "detector.safetensors",
        ]
        return {path.name: path for path in paths if path.exists()}


def _command(run_dir: Path, notes: list[str]) -> str | None:
    """The command line in `command.txt`; None where it is absent, or, with a note, where it is broken."""
    path = run_dir / "command.txt"
    try:
        return read_text(path, "command").strip() if os.path.lexists(path) else None
    except (OSError, ValueError) as error:
        notes.append(str(error).replace(f"{run_dir}{os.sep}", ""))
        return None


def _description(kind: str) -> Callable[[Path], Mapping[str, Any]]:
    return lambda path: read_metadata(path, kind)


def _read_metrics(path: Path) -> Metrics:
    return msgspec.convert(read_json(path, "metrics"), Metrics)


def _read_versions(path: Path) -> dict[str, str]:
    return decode_json(path, dict[str, str], "versions")


def _read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_text(path, "metrics"), newline="")))


def _configuration(path: Path) -> Mapping[str, Any]:
    return read_mapping(path, "configuration")


def _children(ledger: Path) -> list[ChildRow]:
    """Of the ledger itself where this is a copy."""
    return read_children(located(ledger).ledger if ledger.is_file() else ledger)
