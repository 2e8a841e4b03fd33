"""COCO's numbers of a detector, or of a predictions file.

python -m detection.evaluate weights=detector.safetensors data=coco data.root=…
python -m detection.evaluate predictions=predictions.json data=coco data.root=…

Under torchrun each process looks at its share of the images.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from backbones.files import write_json
from detection.coco import CocoAnnotations
from detection.curves import log_curves, write_curves
from detection.data import CocoDataConfig, DetectionImages, collate
from detection.detector import Detector
from detection.examples import log_examples
from detection.results_file import Result, read_results, to_results, write_results
from detection.scoring import METRICS, Evaluation, check_evaluator, evaluate
from runtime import tracking
from runtime.device import resolve_device
from runtime.distributed import gather, launched_by_torchrun, launched_rank, rank, world
from runtime.folder import plain
from runtime.loading import ResumableLoader
from runtime.progress import track
from runtime.tracking import LoggerConfig, log_table

log = logging.getLogger(__name__)


def predict_all(detector: Detector, images: DetectionImages, workers: int) -> list[Result]:
    """Detections on every image of the set, in its order.

    Of several processes, all of which must call it, each looks at its share and returns all detections.
    Raises RuntimeError unless every image was looked at once."""
    coco = images.coco
    loader = ResumableLoader(images, 1, seed=0, shuffle=False, workers=workers, collate=collate)
    own = loader.share(rank(), world())
    found: list[tuple[int, list[Result]]] = []
    with contextlib.ExitStack() as stack:
        progress = (
            stack.enter_context(track(len(own), "detecting", images_per_unit=1)) if not rank() else None
        )
        for (sample,) in own:
            height, width = coco.sizes[sample["index"]].tolist()
            prediction = detector.predict(sample["image"], (height, width))
            results = to_results(int(coco.image_ids[sample["index"]]), prediction, coco.category_ids)
            found.append((sample["index"], results))
            if progress is not None:
                progress.advance()
    everything = sorted((pair for part in gather(found) for pair in part), key=lambda pair: pair[0])
    if [index for index, _ in everything] != list(range(len(coco))):
        seen = len({index for index, _ in everything})
        raise RuntimeError(
            f"{seen} of the {len(coco)} images of {coco.path} were looked at, {len(everything)} times in all"
        )
    return [result for _, results in everything for result in results]


def scored_on(coco: CocoAnnotations) -> dict[str, Any]:
    """What `metrics.json` says of the images: whose annotations, and how many there are."""
    return {"annotations": coco.path.name, "images": len(coco)}


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


@dataclass(kw_only=True)
class EvaluateConfig:
    """What is scored, on which data: a detector, or a predictions file without a model."""

    weights: str | None = None
    """A detector.safetensors."""
    predictions: str | None = None
    """A file in COCO's results format."""
    data: CocoDataConfig
    """Group `data`; its `val` split is scored."""
    evaluator: str = "pycocotools"
    """`pycocotools`, whose numbers are the official ones, or `fast`: faster-coco-eval's, which are equal."""
    device: str = "auto"
    """PyTorch's name of the device; `auto`: the GPU where there is one."""
    threads: int | None = None
    """Threads of PyTorch on CPU; None: PyTorch's choice."""
    output: str | None = None
    """Folder for predictions.json, metrics.json and curves.json; None: the metrics are only printed."""
    logger: LoggerConfig = field(default_factory=lambda: LoggerConfig(name="none"))
    """Where the figures, curves and example images go besides; needs `output`."""

    def __post_init__(self) -> None:
        check_evaluator(self.evaluator)
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads = {self.threads}, must be at least 1, or null for PyTorch's choice")
        if (self.weights is None) == (self.predictions is None):
            raise ValueError(
                f"weights = {self.weights}, predictions = {self.predictions}: give one of them, "
                "a detector.safetensors or a file in COCO's results format"
            )
        if self.logger.name != "none" and self.output is None:
            raise ValueError(f"logger = {self.logger.name}, but there is no output folder; set output=DIR")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Prints and returns the content of a `metrics.json`, without metrics where nothing is annotated.

    Of several processes the first one does, the others return nothing."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.output is not None and (Path(config.output) / "config.yaml").exists():
        raise ValueError(
            f"output = {config.output} holds a run with figures of its own; choose another folder"
        )
    images: DetectionImages | None = None
    if config.weights is not None:
        with _process_group():
            detector = Detector.load(config.weights, _own_device(config.device))
            images = detector.prepare(config.data.open("val"))
            coco = images.coco
            _check_output(config, coco)
            results = predict_all(detector, images, config.data.workers)
            if rank():
                return {}
    elif launched_by_torchrun() is not None and launched_rank():
        return {}  # nothing to share out
    else:
        coco, _ = config.data.read("val")
        results = read_results(str(config.predictions), coco)
    content: dict[str, Any] = {"stage": "detection", "split": "val", **scored_on(coco)}
    content |= {"metrics": {}, "per_class": {}}
    folder = Path(config.output) if config.output is not None else None
    if folder is not None and images is not None:
        write_results(folder / "predictions.json", results)
    if coco.annotated:
        evaluation = evaluate(coco, results, config.evaluator)
        content |= {key: getattr(evaluation, key) for key in ("metrics", "per_class", "undefined")}
        content["evaluator"] = config.evaluator
        if folder is not None:
            loggers = config.logger.build(folder, "evaluation", plain(config))
            for logger in loggers:
                logger.log_metrics({f"val/{key}": value for key, value in evaluation.metrics.items()}, 0)
            record(folder, loggers, images, coco, results, evaluation)
            tracking.finish(loggers)
    else:
        log.warning("%s has no annotations: no metrics, predictions only", coco.path)
    print(json.dumps(content, indent=2))
    if folder is not None:
        write_json(folder / "metrics.json", content)
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


if __name__ == "__main__":
    from conf.app import main

    # Imported again under its own name: the class that the configuration registers must be the one used here.
    from detection.evaluate import run as run_imported

    main("detection_evaluate", run_imported)
