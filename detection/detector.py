"""A trained detector with all it needs to look at a picture: `Detector.load(path)(images)`."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import IOBase
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from backbones.pictures import as_picture
from backbones.weights import (
    check_claims,
    check_values,
    encoded,
    load_tensors,
    read_safetensors,
    write_safetensors,
)
from celltransfer import not_installed
from detection.data.annotations import CocoAnnotations
from detection.data.augment import placed_image
from detection.data.coco_file import CategoryEntry
from detection.data.coco_rules import category_difference
from detection.data.images import DetectionImages, to_tensor
from detection.data.sizing import EvaluationSize, SizeRecord
from detection.engines.base import Engine
from detection.engines.config import EngineConfig
from detection.engines.description import Description
from detection.formats import Prediction
from detection.model import boxes as box_ops
from runtime.device import resolve_device
from runtime.pictures import decode

CLASS_NAME = "class_name"
"""Where supervision's annotators look for names."""
Picture = str | os.PathLike[str] | Image.Image | Tensor | NDArray[Any]


class Detection(dict[str, Any]):
    """What is found in one image, best score first.

    boxes: `[R, 4]` float32 xyxy in pixels of the image. scores: `[R]`, 0..1. labels: `[R]` int64, place of
    the category among the detector's. names: list of R, of the categories."""

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with the names under `data["class_name"]`.

        Raises ModuleNotFoundError, with the command that installs it, where supervision is missing."""
        try:
            import supervision
        except ImportError as error:
            raise not_installed("Detection.to_supervision()", "supervision", "supervision", error) from None
        return supervision.Detections(
            xyxy=self["boxes"].numpy(),
            confidence=self["scores"].numpy(),
            class_id=self["labels"].numpy(),
            data={CLASS_NAME: np.array(self["names"], dtype=str)},
        )


class Detector:
    """An engine, its categories and the size at which it looks at images."""

    def __init__(
        self,
        engine: Engine,
        config: EngineConfig,
        categories: list[CategoryEntry],
        input_size: EvaluationSize,
        group_norm: bool = False,
    ):
        self.engine = engine
        self.config = config
        self.categories = categories
        self.input_size = input_size
        self.group_norm = group_norm
        self.to(next(engine.parameters()).device)

    def to(self, device: torch.device | str) -> "Detector":
        """Moves the engine there and puts it in evaluation mode, which a training leaves.

        To be called again when the weights have changed: a copy of them predicts (`Engine.for_inference`)."""
        self.device = torch.device(device)
        self.engine.to(self.device).eval()
        self._predictors: dict[bool, Engine] = {}
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "auto") -> "Detector":
        """Reads a `detector.safetensors`. device: see `resolve_device`.

        Raises FileNotFoundError or ValueError that names the file, the key and what was expected, and
        ImportError where the engine's package is not installed."""
        target = resolve_device(device)
        tensors, metadata = read_safetensors(path, "detector")
        said = Description.read(metadata, path)
        check_claims(said.spec, lambda: said.build(path), tensors, str(path))
        engine = said.build(path)
        load_tensors(engine, tensors, str(path))
        return cls(engine, said.config, said.categories, said.input_size, said.group_norm).to(target)

    def save(self, path: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
        """Writes a `detector.safetensors`, which needs no other file."""
        write_safetensors(path, "detector", self.engine.state_dict(), self._description(metrics))

    def check_storable(self, where: str) -> None:
        """Raises ValueError where `save` could not write the detector. where: the file, for the message."""
        encoded("detector", self._description({}), where)

    def _description(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {
            "engine": self.config.name,
            "head": self.config.head,
            "detector": dataclasses.asdict(self.config),
            "network": self.engine.backbone.spec.to_dict(),
            "categories": msgspec.to_builtins(self.categories),
            "preprocessing": dataclasses.asdict(self.engine.backbone.preprocessing),
            "input": dataclasses.asdict(SizeRecord.of(self.input_size)),
            **({"group_norm": True} if self.group_norm else {}),
            "metrics": dict(metrics),
        }

    def __call__(
        self, images: Picture | Iterable[Picture], threshold: float | None = None
    ) -> list[Detection]:
        """Finds objects in pictures of any sizes; one `Detection` for each, in their order.

        images: a picture or several of them: paths, PIL images, tensors `[3, H, W]` or arrays `[H, W, 3]` as
        `backbones.pixels.picture_of` takes them; also a batch of these in one tensor or array. threshold:
        detections with a lower score, 0..1, are left out; None: those that `score_threshold` of the
        detector's configuration leaves out.

        Raises FileNotFoundError, ValueError or TypeError for the first that is no picture."""
        if threshold is not None:
            if isinstance(threshold, str | list | complex):
                raise TypeError(f"threshold = {threshold!r}, expected a number in 0..1")
            if not 0 <= threshold <= 1:
                raise ValueError(f"threshold = {threshold}, must be in 0..1")
        return [self._detection(picture, threshold or 0.0) for picture in _pictures(images)]

    def _detection(self, picture: Image.Image, threshold: float) -> Detection:
        stored = picture.height, picture.width
        resized = placed_image(picture, self.input_size.place(stored))
        found = self.predict(to_tensor(resized), stored)
        high = found["scores"] >= threshold
        labels = found["labels"][high]
        names = [self.categories[label].name for label in labels.tolist()]
        return Detection(boxes=found["boxes"][high], scores=found["scores"][high], labels=labels, names=names)

    def predict(self, image: Tensor, size: tuple[int, int]) -> Prediction:
        """Detections in pixels of the stored image.

        image: `[3, H, W]` uint8, resized. size: (H, W) as stored. One image at a time, as Detectron2
        evaluates: within a batch, what is found in an image depends on the others' padding. Under
        `torch.autocast` maps and scores are computed in its precision.

        Raises ValueError for another image, and one that names the first weight that is not finite: the
        engines leave out what they compute from it, and would find nothing."""
        if image.dtype != torch.uint8:
            raise ValueError(f"an image of {image.dtype}, expected torch.uint8; `Detector(...)` takes others")
        predictor = self._predicting()
        with torch.inference_mode():
            (prediction,) = predictor.predict([image.to(self.device).float() / 255])
        height, width = size
        scale = prediction["boxes"].new_tensor([width / image.shape[2], height / image.shape[1]] * 2)
        boxes = box_ops.clip(prediction["boxes"] * scale, height, width)
        good = box_ops.has_area(boxes)
        return {
            "boxes": boxes[good].cpu(),
            "scores": prediction["scores"][good].cpu(),
            "labels": prediction["labels"][good].cpu(),
        }

    def _predicting(self) -> Engine:
        """The copy of the engine for the precision that is asked for, made when it is first needed."""
        fuse = not torch.is_autocast_enabled(self.device.type)
        if fuse not in self._predictors:
            check_values(self.engine, "the detector")
            with torch.autocast(self.device.type, enabled=False):
                self._predictors[fuse] = self.engine.for_inference(fuse)
        return self._predictors[fuse]

    def prepare(self, images: DetectionImages) -> DetectionImages:
        """The same images at the size that this detector looks at.

        Raises ValueError unless the data's categories are the detector's."""
        check_categories(images.coco, self.categories)
        return DetectionImages(images.coco, images.folder, self.input_size)


def check_categories(coco: CocoAnnotations, categories: Sequence[CategoryEntry]) -> None:
    """Raises ValueError that names the first category in which the data and the detector differ."""
    found = list(zip(coco.category_ids, coco.category_names, strict=True))
    wanted = [(category.id, category.name) for category in categories]
    if difference := category_difference(found, wanted, "the detector"):
        raise ValueError(f"{coco.path} {difference}")


def _pictures(images: Picture | Iterable[Picture]) -> Iterator[Image.Image]:
    """Each of them upright in 8-bit RGB. Raises ValueError or TypeError that says which is no picture."""
    if isinstance(images, str | os.PathLike):
        yield decode(images)
    elif isinstance(images, Image.Image) or (isinstance(images, Tensor | np.ndarray) and images.ndim != 4):
        yield as_picture(images)
    elif isinstance(images, Mapping | bytes | bytearray | IOBase) or not isinstance(images, Iterable):
        raise TypeError(f"expected a picture or several in a list, not {type(images).__name__}")
    else:
        for place, one in enumerate(images):
            if isinstance(one, str | os.PathLike):
                yield decode(one)
                continue
            try:
                picture = as_picture(one)
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"images[{place}]: {error}") from None
            yield picture
