"""Verifies that a finished run is what it was when it ended.

    python -m pipeline.verify DIR

Compares every file of a chain, or of one stage, with the SHA-256 that was recorded when the run finished, and
follows the links: detector, backbone, genotype, child in the ledger, split of the images; `init`, `continues`
and what an evaluation scored as well. The input files of a single run are looked for where its configuration
says. A line that starts with `DIFFERS` or `MISSING`
names a file; one with `unknown` says what could not be checked. Exit code 0: all was checked and is as
recorded; 1: something differs, is missing, or was never recorded.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backbones.arguments import documented_parser
from backbones.files import read_json, real_path
from backbones.genotype import Genotype
from backbones.metadata import read_metadata, stored_kind
from backbones.words import counted, printable, told
from runtime.digests import FILE, digest, files_of, read_digests, record
from runtime.folder import EVALUATION
from runtime.yaml_files import read_mapping
from search.ledger.located import located
from search.ledger.reader import LEDGER, read_children, read_fact

CONFIG = "config.yaml"
STAGES = ("search", "classification", "detection")
INPUTS = ("backbone.weights", "backbone.name", "init", "continues", "weights", "predictions")
"""Keys of a configuration that may name a file of another run, which this one began with."""
PRODUCTS = ("detector.safetensors", "backbone.safetensors", "metrics.json")
"""What a run makes of such a file; the first that is there. The last one is an evaluation's."""
BROKEN = (OSError, ValueError, LookupError, TypeError, RecursionError)
"""What readers raise for a file that is not what it should be."""


class Finding(NamedTuple):
    """level: `ok`, `DIFFERS`, `MISSING`, or `unknown` for what could not be checked, `note` for what need not
    be. where: the file or the folder."""

    level: str
    where: str
    text: str


class Verification:
    """Findings about a chain or a stage, and about the runs that its input files come from.

    names: of paths in the findings are relative to the folder that was asked for."""

    def __init__(self, folder: Path, data: bool = True):
        """data: read the images, where they are, to compare the split. Raises FileNotFoundError for a folder
        that holds no run."""
        self.folder, self.data = folder, data
        self.files = 0
        self._whole: dict[Path, bool] = {}
        inside = [path.parent for path in folder.glob("*/config.yaml")] if folder.is_dir() else []
        inside.sort(key=lambda run: (STAGES.index(run.name) if run.name in STAGES else -1, run.name))
        if not inside and not (folder / "config.yaml").exists() and not (folder / FILE).exists():
            raise FileNotFoundError(f"{folder}: no run, expected {CONFIG} in it")
        self.runs = [folder, *inside]

    def findings(self) -> Iterator[Finding]:
        for run in self.runs:
            yield from self._digests(run)
        for run in reversed(self.runs):  # from the detector to the search
            yield from self._links(run)

    def unrecorded(self) -> list[Path]:
        """Folders of finished runs without digests."""
        stages = [run for run in self.runs if run != self.folder] or self.runs
        finished = all((run / "metrics.json").exists() for run in stages)
        return [run for run in self.runs if finished and not (run / FILE).exists()]

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)

    def _digests(self, run: Path) -> Iterator[Finding]:
        """Every file of one run against what was recorded."""
        if not (run / FILE).exists():
            text = "is not there: the run is not finished, or an older version finished it: --record"
            yield Finding("unknown", self._name(run / FILE), text)
            return
        try:
            recorded = read_digests(run)
        except BROKEN as error:
            yield Finding("DIFFERS", self._name(run / FILE), _short(error, run / FILE))
            return
        equal = 0
        for name, expected in recorded.items():
            path = run / name
            finding = self._compared(path, expected)
            self._whole[real_path(path)] = finding is None
            equal += finding is None
            if finding is not None:
                yield finding
        self.files += len(recorded)
        level = "ok" if equal == len(recorded) else "note"
        yield Finding(level, self._name(run), f"{equal} of {counted(len(recorded), 'file')} as recorded")
        if new := [name for name in files_of(run) if name not in recorded]:
            yield Finding("note", self._name(run), f"not recorded: {', '.join(new)}")
        if changing := [name for name in files_of(run, changing=True) if name != FILE]:
            text = f"not verified, since they may change: {', '.join(changing)}"
            yield Finding("note", self._name(run), text)

    def _compared(self, path: Path, expected: str) -> Finding | None:
        try:
            found = digest(path)
        except FileNotFoundError:
            return Finding("MISSING", self._name(path), f"was there with SHA-256 {expected[:12]}…")
        except OSError as error:
            return Finding("DIFFERS", self._name(path), f"cannot be read: {told(error)}")
        text = f"SHA-256 is {found[:12]}…, recorded was {expected[:12]}…"
        return None if found == expected else Finding("DIFFERS", self._name(path), text)

    def _links(self, run: Path) -> Iterator[Finding]:
        """What one run was made from."""
        try:
            asked = next((run / name for name in (CONFIG, EVALUATION) if (run / name).exists()), run / CONFIG)
            if (run / "inputs.json").exists() and self._is_whole(run / "inputs.json", asked):
                config, inputs = read_mapping(asked, "configuration"), _inputs(run)
                for key in INPUTS:
                    if key in inputs:
                        yield from self._input(run, Path(_value(config, key)), inputs[key])
            if (run / "genotype.json").exists():
                yield from self._child(run)
            if (run / LEDGER).exists() and self._is_whole(run / LEDGER):
                yield from self._split(run)
        except BROKEN as error:
            yield Finding("unknown", self._name(run), f"its links: {_told(error)}")

    def _is_whole(self, *paths: Path) -> bool:
        """Whether no difference of these files was found: of others there is nothing to follow."""
        return all(self._whole.get(real_path(path), True) for path in paths)

    def _input(self, run: Path, asked: Path, expected: str) -> Iterator[Finding]:
        """A run's product against the file of another run that it began with. asked: as it was named."""
        product = next((run / name for name in PRODUCTS if (run / name).exists()), run / PRODUCTS[0])
        # In a folder that was copied or renamed the runs still lie side by side.
        beside = run.parent / _run_of(asked).name / asked.relative_to(_run_of(asked))
        places = [beside, asked, *(each / asked for each in run.absolute().parents)]
        found = {path: digest(path) for path in dict.fromkeys(places) if path.is_file()}
        if not found:
            text = f"from {asked}, which is not here (SHA-256 {expected[:12]}…)"
            yield Finding("unknown", self._name(product), text)
            return
        source = next((path for path, each in found.items() if each == expected), next(iter(found)))
        link = f"from {self._name(source)}"
        if found[source] != expected:
            text = f"{link}, whose SHA-256 is {found[source][:12]}…, recorded was {expected[:12]}…"
            yield Finding("DIFFERS", self._name(product), text)
            return
        cells = self._same_cells(product, source)
        yield Finding("ok", self._name(product), f"{link} (SHA-256 {expected[:12]}…){cells}")
        other = _run_of(source)
        if real_path(other) not in {real_path(each) for each in self.runs}:
            self.runs.append(other)
            if (other / CONFIG).exists():
                yield from self._digests(other)
                yield from self._links(other)

    def _same_cells(self, product: Path, source: Path) -> str:
        """In words, once both files hold the same genotype. Raises ValueError where they do not."""
        described = product.suffix == ".safetensors" and source.suffix in (".safetensors", ".json")
        if not described or not product.is_file() or not self._is_whole(product, source):
            return ""
        own, theirs = _genotype(product), _genotype(source)
        if own is None or theirs is None:
            return ""
        if own != theirs:
            raise ValueError(f"{product} does not have the cells of {source}")
        return ", the same cells"

    def _child(self, run: Path) -> Iterator[Finding]:
        """The genotype against the child in the ledger that it names."""
        path = run / "genotype.json"
        if not self._is_whole(path, run / LEDGER):
            return
        genotype = Genotype.load(path)
        origin, place = genotype.origin, run
        if "child" not in origin:
            yield Finding("unknown", self._name(path), "names no child of a search")
            return
        if "reranked" in origin:  # chosen among the best cells of a search by longer training
            place = Path(str(origin["search"]))
        try:
            ledger = located(place).ledger
        except (OSError, ValueError) as error:
            yield Finding("unknown", self._name(path), f"its ledger: {error}")
            return
        rows = {row.number: row for row in read_children(ledger)}
        row, child = rows.get(origin["child"]), f"child {origin['child']} of {self._name(ledger)}"
        search = origin["search"] if place == run else None
        if row is None or _cells(row.genotype) != _cells(genotype):
            yield Finding("DIFFERS", self._name(path), f"is not {child}")
        elif search is not None and (search, origin["reward"]) != (read_fact(ledger, "search"), row.reward):
            yield Finding("DIFFERS", self._name(path), f"names another search or reward than {child}")
        else:
            yield Finding("ok", self._name(path), f"{child}, reward {row.reward:.4g}")

    def _split(self, run: Path) -> Iterator[Finding]:
        """The split that the ledger records against that of the images, where these are here."""
        ledger = run / LEDGER
        split = read_fact(ledger, "split")
        if split is None:
            yield Finding("note", self._name(ledger), "no split: the search had an evaluator of its own")
            return
        what = f"{split['training']} + {split['validation']} images (SHA-256 {split['sha256'][:12]}…)"
        if not self.data:
            yield Finding("note", self._name(ledger), f"split of {what}; the images are not looked at")
            return
        try:
            found = _split_of(run)
        except (*BROKEN, ImportError) as error:
            yield Finding(
                "unknown", self._name(ledger), f"split of {what}; the images are not here: {_told(error)}"
            )
            return
        if found == split:
            yield Finding("ok", self._name(ledger), f"split of {what}, the images here give the same")
        else:
            names = ", ".join(name for name in split if split[name] != found.get(name))
            yield Finding(
                "DIFFERS", self._name(ledger), f"split of {what}, but the images here give other {names}"
            )


def _split_of(run: Path) -> Mapping[str, Any]:
    """What a search in this folder would record of its images now."""
    from dataclasses import replace

    from search.children.images import ChildImages  # PyTorch, which a folder without data need not wait for
    from search.stored import stored_search

    search = stored_search(run, run_dir="", strategy=None, executor=None)
    return ChildImages.open(search.data, replace(search.child, device="cpu"), search.seed).record


def _inputs(run: Path) -> dict[str, str]:
    inputs = read_json(run / "inputs.json", "inputs")
    if not isinstance(inputs, dict):
        raise ValueError(f"{run / 'inputs.json'}: expected keys and digests")
    return inputs


def _value(config: Any, key: str) -> str:
    for name in key.split("."):
        config = config[name]
    return str(config)


def _run_of(path: Path) -> Path:
    """The folder of the run that a product or a checkpoint is of."""
    return path.parent.parent if path.suffix == ".ckpt" else path.parent


def _genotype(path: Path) -> Any:
    """The cells that a file describes; None where its network has no genotype."""
    if path.suffix == ".json":
        return _cells(Genotype.load(path))
    network = read_metadata(path, stored_kind(path) or path.stem)["network"]
    return _cells(Genotype.from_dict(network["genotype"])) if "genotype" in network else None


def _cells(genotype: Genotype) -> Any:
    return genotype.normal, genotype.reduction


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, LookupError | TypeError) else told(error)


def _short(error: Exception, path: Path) -> str:
    return _told(error).removeprefix(f"{path}: ")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = documented_parser("pipeline.verify", __doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="folder of a chain or of one stage")
    parser.add_argument("--no-data", action="store_true", help="do not read the images to compare the split")
    parser.add_argument(
        "--record",
        action="store_true",
        help="first record the files as they are now, where nothing is recorded",
    )
    asked = parser.parse_args(arguments)
    try:
        verification = Verification(asked.dir, data=not asked.no_data)
        if asked.record:
            for run in verification.unrecorded():
                print(f"recorded {counted(record(run), 'file')} of {run}")
        bad = 0
        for finding in verification.findings():
            bad += finding.level in ("DIFFERS", "MISSING", "unknown")
            print(printable(f"{finding.level:7}  {finding.where}: {finding.text}"), flush=True)
    except (OSError, ValueError) as error:
        print(printable(told(error)), file=sys.stderr)
        return 1
    files = counted(verification.files, "file")
    print(f"verified: {files}" if not bad else f"not verified: {counted(bad, 'line')} above of {files}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
