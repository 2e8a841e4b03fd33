"""A small data set with nothing wrong, to be changed, and what the check finds in it."""

import json
import threading

import numpy as np
from PIL import Image

from detection.check_data import check


def pool_threads():
    """Threads that still end a pool of processes: where they meet Python's own end, it prints a traceback."""
    return [thread for thread in threading.enumerate() if "ExecutorManager" in type(thread).__name__]


def annotated_folder(tmp_path):
    """A root with nothing wrong: images a.png (40x30), b.png (20x50), sub/c.jpg (16x8); three boxes, one of a
    crowd region. Returns a function that writes the annotations after `change` and returns their path."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name, size in (("a.png", (40, 30)), ("b.png", (20, 50)), ("sub/c.jpg", (16, 8))):
        Image.fromarray(noise.integers(0, 255, (*size[::-1], 3), np.uint8)).save(images / name)

    def write(change=lambda content: None):
        content = {
            "images": [
                {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
                {"id": 3, "file_name": "b.png", "width": 20, "height": 50},
                {"id": 0, "file_name": "sub/c.jpg", "width": 16, "height": 8},
            ],
            "annotations": [
                {"id": 11, "image_id": 7, "category_id": 1, "bbox": [1, 2, 10, 20]},
                {"id": 12, "image_id": 3, "category_id": 9, "bbox": [2.5, 2, 10, 20]},
                {
                    "id": 13,
                    "image_id": 3,
                    "category_id": 1,
                    "bbox": [0, 0, 20, 50],
                    "iscrowd": 1,
                    "segmentation": {"counts": [0, 1000], "size": [50, 20]},
                },
            ],
            "categories": [{"id": 9, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 4, "name": "gnu"}],
        }
        path = tmp_path / "annotations.json"
        path.write_text(change(content) or json.dumps(content))
        return path

    return write


def found(path, **options):
    problems = check(path, path.parent / "images", **options).problems
    return [(problem.level, problem.count, problem.rule, *problem.names) for problem in problems]


def of(kind, row, **changes):
    return lambda content: content[kind][row].update(changes)
