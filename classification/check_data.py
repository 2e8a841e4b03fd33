"""Checks class folders before anything is trained on them: layout, and every image file.

    python -m classification.check_data DIR [--json] [--names 5] [--workers 2]

DIR holds `train/<class>/<image>` and `val/<class>/<image>` (or `test/`, `valid/`), unpacked or in zip
archives, or what else `data=folder` reads: `<class>/<image>` without a split. Exit code 0 when nothing is
wrong, 1 when anything is: lines that start with `error` stop or falsify a training, those that start with
`left out` are files that a training does not see. Training says the same.
Every file is read and decoded once; besides the names shown, 17 bytes are kept per file, 22 MB for ImageNet's
1.3 million. Duplicates are files with the same bytes.
"""

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from backbones.files import expanded
from celltransfer import program
from classification.class_folders import (
    FilePlace,
    Layout,
    own_split,
    read_layout,
    split_folder,
    taken_folders,
)
from classification.file_check import check_files
from runtime import zipped
from runtime.problems import Report, parse_check
from runtime.progress import track


def check(
    root: Path, train: str | None = None, test: str | None = None, *, names: int = 5, workers: int = 0
) -> Report:
    """train, test: names of the splits' folders; None: `train`; `test`, else `val`, else `valid`; where they
    are not there, what `own_split` finds.

    names: shown of each problem. workers: processes that decode; 0: this one.
    """
    report = Report(str(root), names=names)
    try:
        if not zipped.is_folder(root):
            report.add("no such folder", str(root))
            return report
        folders, report.taken = _folders(root, train, test)
    except (ValueError, OSError) as error:  # a broken archive, or no class folders
        report.add(str(error), str(root))
        return report
    layouts = [read_layout(folder, root, report.add) for folder in folders]
    _compare_classes(report, layouts)
    for layout in layouts:
        report.counts[f"{layout.folder.name}: classes"] = len(layout.images)
        report.counts[f"{layout.folder.name}: images"] = sum(layout.images.values())
    _check_images(report, layouts, workers)
    return report


def _folders(root: Path, train: str | None, test: str | None) -> tuple[list[Path], str]:
    """Of the splits, and which are used, in words. Raises ValueError as `own_split` does."""
    folders = [split_folder(root, is_train, train or "train", test) for is_train in (True, False)]
    if train is None and test is None and not all(map(zipped.is_folder, folders)):
        found = own_split(root)
        if found.test is None:
            return [found.train], "no split: a training with data=folder draws its validation images"
        folders = [found.train, found.test]
    return folders, taken_folders(root, folders)


def _compare_classes(report: Report, layouts: Sequence[Layout]) -> None:
    for one, other in itertools.permutations(layouts, 2):
        if one.images and other.images:
            for name in sorted(one.images.keys() - other.images.keys()):
                report.add(f"class folder in {one.folder.name} that {other.folder.name} does not have", name)


def _check_images(report: Report, layouts: Sequence[Layout], workers: int) -> None:
    total = sum(sum(layout.images.values()) for layout in layouts)
    kinds: Counter[str] = Counter()
    root = Path(report.folder)
    with track(total, "check", images_per_unit=1) as progress:
        files = (place for layout in layouts for place in layout.files())
        checked = check_files(files, total, workers)
        for place, result in checked:
            if result.problem is not None:
                shown = str(place.path.relative_to(root))
                report.add(result.problem, f"{shown}: {result.detail}" if result.detail else shown)
            else:
                kinds[result.kind] += 1
            progress.advance()
    for group in checked.duplicates(place for layout in layouts for place in layout.files()):
        report.add(_duplicate_rule(group), " = ".join(str(place.path.relative_to(root)) for place in group))
    report.kinds = dict(kinds.most_common())


def _duplicate_rule(group: Sequence[FilePlace]) -> str:
    """group: files of the same bytes."""
    if len({place.split for place in group}) > 1:
        return "leakage: the same image in both splits"
    if len({place.label for place in group}) > 1:
        return "the same image in two classes"
    return "the same image twice in a class"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("classification.check_data"),
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit code 0: nothing is wrong; 1: something is.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="holds <split>/<class>/<image>, or <class>/<image>"
    )
    parser.add_argument("--train-folder", help="as data.train_folder; default: train")
    parser.add_argument("--test-folder", help="as data.test_folder; default: test, else val, else valid")
    options = parse_check(parser, arguments)
    report = check(
        expanded(options.folder),
        options.train_folder,
        options.test_folder,
        names=options.names,
        workers=options.workers,
    )
    if options.json:
        content = asdict(report)
        del content["names"]
        print(json.dumps(content, indent=2))
    else:
        for name, count in {**report.counts, **report.kinds}.items():
            print(f"{name}: {count}")
        if report.taken:
            print(f"folders: {report.taken}")
        print("\n".join(map(str, report.problems)) or "no problems found")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
