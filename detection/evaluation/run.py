"""COCO's numbers of a detector, or of a predictions file.

Under torchrun each process looks at its share of the images.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from backbones.words import counted
from detection.data.annotations import CocoAnnotations, read_split
from detection.data.images import DetectionImages, collate, open_split
from detection.detector import Detector
from detection.evaluation.config import EvaluateConfig
from detection.evaluation.curves import write_curves
from detection.evaluation.results_file import Result, read_results, to_results, write_results
from detection.evaluation.scoring import METRICS, Evaluation, evaluate
from detection.evaluation.trackers import log_curves, log_examples
from runtime.device import resolve_device
from runtime.digests import digest
from runtime.distributed import gather, rank, world
from runtime.folder import finish_evaluation, record_evaluation
from runtime.launch import launched_by_torchrun, launched_rank
from runtime.loading import ResumableLoader
from runtime.progress import track
from runtime.stage import evaluation_folder, evaluation_loggers
from runtime.tracking import log_table

log = logging.getLogger(__name__)


def predict_all(detector: Detector, images: DetectionImages, workers: int) -> list[Result]:
    """Detections on every image of the set, in its order.

    Of several processes, all of which must call it, each looks at its share and returns all detections.
    Raises RuntimeError unless every image was looked at once."""
    coco = images.coco
    loader = ResumableLoader(images, 1, seed=0, shuffle=False, workers=workers, collate=collate)
    own = loader.share(rank(), world())
    found: list[tuple[int, list[Result]]] = []
    with track(len(own), "detecting", images_per_unit=1, quiet=rank() > 0) as progress:
        for (sample,) in own:
            height, width = coco.sizes[sample["index"]].tolist()
            prediction = detector.predict(sample["image"], (height, width))
            results = to_results(int(coco.image_ids[sample["index"]]), prediction, coco.category_ids)
            found.append((sample["index"], results))
            progress.advance()
    everything = sorted((pair for part in gather(found) for pair in part), key=lambda pair: pair[0])
    if [index for index, _ in everything] != list(range(len(coco))):
        seen = len({index for index, _ in everything})
        raise RuntimeError(
            f"{seen} of {counted(len(coco), 'image')} of {coco.path} were looked at, "
            f"{counted(len(everything), 'time')} in all"
        )
    return [result for _, results in everything for result in results]


def scored_on(coco: CocoAnnotations) -> dict[str, Any]:
    """What `metrics.json` says of the images: whose annotations, and how many there are."""
    return {"annotations": coco.path.name, "images": len(coco)}


def fingerprint(coco: CocoAnnotations) -> dict[str, int | str]:
    """What tells the annotations from others: the digest of their file."""
    return {"annotations": coco.path.name, "images": len(coco), "sha256": digest(coco.path)}


def record(
    folder: Path,
    loggers: Sequence[Logger],
    images: DetectionImages | None,
    coco: CocoAnnotations,
    results: Sequence[Result],
    evaluation: Evaluation,
    split: str = "val",
) -> None:
    """Writes `curves.json`, and hands curves, figures by class and example images to wandb where it is used.

    images: None where there are none to show."""
    write_curves(folder, evaluation.curves)
    log_curves(loggers, evaluation.curves, split)
    rows = [[name, *values.values()] for name, values in evaluation.per_class.items()]
    log_table(loggers, f"{split}/per_class", ["class", *METRICS], rows)
    if images is not None:
        log_examples(loggers, coco, images.folder, results, split)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Prints and returns the content of a `metrics.json`, without metrics where nothing is annotated.

    Of several processes the first one does, the others return nothing."""
    with evaluation_folder(config, "detection") as folder:
        return _run(config, folder)


def _run(config: EvaluateConfig, folder: Path | None) -> dict[str, Any]:
    images: DetectionImages | None = None
    if config.weights is not None:
        with _process_group():
            detector = Detector.load(config.weights, _own_device(config.device))
            images = detector.prepare(open_split(config.data, "val"))
            coco = images.coco
            _check_output(config, coco)
            results = predict_all(detector, images, config.data.workers)
            if rank():
                return {}
    elif launched_by_torchrun() is not None and launched_rank():
        return {}  # nothing to share out
    else:
        coco, _ = read_split(config.data, "val")
        results = read_results(str(config.predictions), coco)
    content: dict[str, Any] = {"stage": "detection", "split": "val", **scored_on(coco)}
    content |= {"metrics": {}, "per_class": {}}
    if folder is not None:
        record_evaluation(folder, config)
        write_results(folder / "predictions.json", results)
    if coco.annotated:
        evaluation = evaluate(coco, results, config.evaluator)
        content |= {key: getattr(evaluation, key) for key in ("metrics", "per_class", "undefined")}
        content["evaluator"] = config.evaluator
        if folder is not None:
            with evaluation_loggers(config, folder, "val", evaluation.metrics) as loggers:
                record(folder, loggers, images, coco, results, evaluation)
    else:
        log.warning("%s has no annotations: no metrics, predictions only", coco.path)
    print(json.dumps(content, indent=2))
    if folder is not None:
        finish_evaluation(folder, content)
    return content


def _check_output(config: EvaluateConfig, coco: CocoAnnotations) -> None:
    if not coco.annotated and config.output is None:
        raise ValueError(
            f"{coco.path} has no annotations, so predictions.json is all that there can be: set output=DIR"
        )


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Joins the processes that torchrun started; results are gathered through the CPU."""
    if launched_by_torchrun() is None:
        yield
        return
    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _own_device(device: str) -> str:
    """One GPU for each process of torchrun."""
    if launched_by_torchrun() is not None and resolve_device(device) == torch.device("cuda"):
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device
