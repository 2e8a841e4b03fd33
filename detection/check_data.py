"""Checks a COCO-format data set before anything is trained on it.

    python -m detection.check_data ANNOTATIONS.json IMAGES_DIR [--json]

Exit code 0 when nothing is wrong, 1 when anything is: lines that start with `error` stop a training, those
that start with `left out` are boxes that a training leaves out. Fatal are: an unreadable file, missing or
mistyped keys, no images, boxes or categories, ids or category names given twice, ids that point nowhere,
`iscrowd` other than 0 or 1, impossible image sizes, file names that leave the folder, missing images.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from detection.coco_file import Problem, find_problems, missing_images, parse


@dataclass
class Report:
    """What a data set holds and which rules it breaks. `per_category`: boxes by category name."""

    annotations: str
    images: str
    counts: dict[str, int] = field(default_factory=dict)
    per_category: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check(annotations: Path, images: Path) -> Report:
    """Looks at the annotations' keys, ids and boxes and at the names of the images; decodes no image."""
    report = Report(str(annotations), str(images))
    try:
        file = parse(annotations)
    except (ValueError, FileNotFoundError) as error:
        report.problems = [Problem(str(error), 1, [str(annotations)])]
        return report
    boxes = file.annotations or []
    report.problems = find_problems(file)
    if not boxes:
        report.problems.append(Problem("annotations: empty, nothing to train on", 1, ["annotations"]))
    try:
        missing = missing_images([image.file_name for image in file.images], images)
        if missing:
            report.problems.append(Problem(f"images: no such file in {images}", len(missing), missing[:5]))
    except FileNotFoundError as error:
        report.problems.append(Problem(str(error), 1, [str(images)]))
    used = {box.image_id for box in boxes}
    report.counts = {
        "images": len(file.images),
        "images without boxes": sum(image.id not in used for image in file.images),
        "boxes": len(boxes),
        "crowd regions": sum(box.iscrowd for box in boxes),
        "categories": len(file.categories),
    }
    per_category = Counter(box.category_id for box in boxes)
    report.per_category = {category.name: per_category[category.id] for category in file.categories}
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m detection.check_data", description=__doc__.split("\n")[0]
    )
    parser.add_argument("annotations", type=Path, help="annotation file in COCO format")
    parser.add_argument("images", type=Path, help="folder of its images")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args(arguments)
    report = check(options.annotations, options.images)
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        for counts in (report.counts, report.per_category):
            print("  ".join(f"{name}: {count}" for name, count in counts.items()))
        for problem in report.problems:
            print(f"{'error' if problem.fatal else 'left out'}: {problem}")
        fatal = sum(problem.fatal for problem in report.problems)
        print(f"{len(report.problems)} problems, {fatal} fatal" if report.problems else "no problems")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
