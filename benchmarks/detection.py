"""How fast detectors train and look, against torchvision's and a plain loop: ratios, as a table.

    python -m benchmarks.detection --markdown FILE     all sections, about 20 minutes on 2 cores
    python -m benchmarks.detection --only training --rounds 11

training: a step of `torchvision_fpn` over `timm/resnet50` against torchvision's `fasterrcnn_resnet50_fpn` at
640 px, batch 2, 90 classes; both with frozen statistics and the first two stages frozen, as torchvision's
comes, and with the same weights of backbone, pyramid and proposal network, whose maps and objectness must be
equal before anything is timed. Ours matches and samples as Detectron2 does (adaptive RoIAlign), in
training 1000 proposals an image, where torchvision's matches 2000.
inference: the same two on the same images, ours by `Engine.for_inference`.
overhead: the step that Lightning drives, as `python -m detection` builds it, against the bare module in a
plain loop; one after the other on the same batches, in the same process. The callbacks are those of a plain
training; left out are the average of the weights, evaluations, checkpoints and loggers. Both must have
changed the weights alike.
evaluation, c4, data: `benchmarks.detection_evaluation`, `detection_c4` and `detection_data`.
Ratios, quartiles and verdicts: `benchmarks.ratios`. The machine must be quiet.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from backbones import processor
from backbones.factory import create
from backbones.timing import interleaved
from benchmarks import detection_c4, detection_data, detection_evaluation
from benchmarks.calibration import calibrate
from benchmarks.peers import check_equal
from benchmarks.ratios import Row, compare, parser, report
from detection.data.images import Sample
from detection.engines.base import Engine
from detection.engines.config import TorchvisionFpnConfig
from detection.engines.torchvision import TorchvisionFpn
from detection.formats import Target
from detection.model.norms import freeze_statistics
from detection.model.stages import freeze_stages
from detection.training.module import DetectionModule, decay_groups
from detection.training.recipe import DetectionRecipe
from runtime.config import TrainerConfig
from runtime.folder import RunFolder
from runtime.loading import ResumableLoader
from runtime.progress_callback import ProgressCallback
from runtime.trainer import build_trainer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES, BATCH, SIDE = 90, 2, 640
FROZEN = 2
"""Of the backbone: all up to c2, what torchvision's default of three trained stages leaves frozen."""
RATE = 1e-5
"""So low that random weights stay nearly what they are, and every step has the same work."""
GOALS: Mapping[tuple[str, str], float] = {
    ("training step, resnet50 640, batch 2", "ours"): 1.0,
    ("inference, resnet50 640, batch 2", "ours"): 1.2,
    ("training step against a plain loop, resnet50 640, batch 2", "Lightning"): 0.97,
}


def own_detector(name: str = "timm/resnet50", side: int = SIDE) -> TorchvisionFpn:
    """Random weights, statistics of random images, as a training with loaded weights would have them."""
    torch.manual_seed(0)
    network = create(name)
    network.remove_classifier()
    calibrate(network, images=2, size=max(128, side // 2), forward=network.features)
    network.preprocessing = dataclasses.replace(network.preprocessing, mean=MEAN, std=STD)
    engine = TorchvisionFpnConfig().build(network, CLASSES)
    assert isinstance(engine, TorchvisionFpn)
    freeze_statistics(network)
    freeze_stages(network, FROZEN)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return engine


def peer_detector(own: TorchvisionFpn, side: int = SIDE) -> FasterRCNN:
    """What `fasterrcnn_resnet50_fpn` builds for loaded weights, with those of `own` where both have them."""
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 3)
    sizes = {"min_size": side, "max_size": side, "image_mean": MEAN, "image_std": STD}
    peer = FasterRCNN(backbone, CLASSES + 1, **sizes)
    weights: dict[str, Tensor] = {}
    for key, value in own.state_dict().items():
        if key.startswith("backbone.body.") and not key.endswith("num_batches_tracked"):
            weights[key] = value
        elif key.startswith("fpn."):
            weights[f"backbone.{key}"] = value
        elif key.startswith("rpn.head."):
            weights[key] = value
    missing, unexpected = peer.load_state_dict(weights, strict=False)
    if unexpected or any(not key.startswith("roi_heads.") for key in missing):
        raise AssertionError(f"the detectors have different parts: {unexpected[:3]} {missing[:3]}")
    return peer


def batch(side: int = SIDE, objects: int = 7, device: str = "cpu") -> tuple[list[Tensor], list[Target]]:
    """Noise with boxes of many sizes, the same on every device."""
    draws = torch.Generator().manual_seed(0)
    images = [torch.rand(3, side, side, generator=draws) for _ in range(BATCH)]
    targets: list[Target] = []
    for number in range(BATCH):
        sides = side * (0.05 + 0.4 * torch.rand(objects, 2, generator=draws))
        corners = torch.rand(objects, 2, generator=draws) * (side - sides)
        labels = torch.randint(CLASSES, (objects,), generator=draws)
        boxes = torch.cat([corners, corners + sides], 1)
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device), "seed": number})
    return [image.to(device) for image in images], targets


@torch.inference_mode()
def check_first_stage(work: str, own: TorchvisionFpn, peer: FasterRCNN, images: list[Tensor]) -> None:
    maps, _ = own.maps(images)
    pyramid = list(peer.backbone(peer.transform(images)[0].tensors).values())
    logits, deltas = peer.rpn.head(pyramid)
    own_logits, own_deltas = own.rpn.head(maps)
    for found, expected in ((maps, pyramid), (own_logits, logits), (own_deltas, deltas)):
        names = [f"map {level}" for level in range(len(expected))]
        ours, theirs = (dict(zip(names, tensors, strict=True)) for tensors in (found, expected))
        check_equal(work, "ours", ours, theirs)


def step(model: nn.Module, losses: Callable[[], Mapping[str, Tensor]]) -> Callable[[], None]:
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, RATE, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        sum(losses().values(), torch.zeros((), device=trained[0].device)).backward()
        optimizer.step()

    return run


def training(rounds: int, side: int = SIDE, device: str = "cpu") -> Iterator[Row]:
    own = own_detector(side=side).to(device)
    peer = peer_detector(own, side).to(device)
    images, targets = batch(side, device=device)
    work = f"training step, resnet50 {side}, batch {BATCH}"
    check_first_stage(work, own.eval(), peer.eval(), images)
    theirs = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
    ways = {
        "torchvision": step(peer, lambda: peer(images, theirs)),
        "ours": step(own, lambda: own.losses(images, targets)),
    }
    if device != "cpu":
        ways["ours, bfloat16"] = step(own, lambda: _lower(own.losses, images, targets))
    yield from timed(work, ways, rounds, device)


def _lower(run: Callable[..., Any], images: list[Tensor], *more: Any) -> Any:
    with torch.autocast(images[0].device.type, torch.bfloat16):
        return run(images, *more)


def timed(work: str, ways: Mapping[str, Callable[[], object]], rounds: int, device: str) -> Iterator[Row]:
    """The goals are those of a CPU."""
    if device.startswith("cuda"):
        yield from compare(work, interleaved(ways, rounds, wait=torch.cuda.synchronize), {})
    else:
        yield from compare(work, interleaved(ways, rounds), GOALS)


@torch.inference_mode()
def inference(rounds: int, side: int = SIDE, device: str = "cpu") -> Iterator[Row]:
    own = own_detector(side=side).to(device).eval()
    peer = peer_detector(own, side).to(device).eval()
    images, _ = batch(side, device=device)
    work = f"inference, resnet50 {side}, batch {BATCH}"
    check_first_stage(work, own, peer, images)
    fast = own.for_inference()
    ways: dict[str, Callable[[], Any]] = {
        "torchvision": lambda: peer(images),
        "as trained": lambda: own.predict(images),
        "ours": lambda: fast.predict(images),
    }
    if device != "cpu":
        ways["ours, bfloat16"] = lambda: _lower(fast.predict, images)
    yield from timed(work, ways, rounds, device)


class _Samples:
    """A data set of one batch, again and again, so that reading takes no time."""

    def __init__(self, side: int, steps: int) -> None:
        images, targets = batch(side)
        self.samples: list[Sample] = [
            {"image": (255 * image).to(torch.uint8), "target": target, "index": index}
            for index, (image, target) in enumerate(zip(images, targets, strict=True))
        ]
        self.steps = steps

    def __len__(self) -> int:
        return BATCH * self.steps

    def __getitem__(self, sample: tuple[int, int]) -> Any:
        return self.samples[sample[1] % BATCH]


class _Alternately(L.Callback):
    """Times the trainer's steps, and after each of them, aside, one of the plain loop."""

    def __init__(self, plain: Callable[[], None]) -> None:
        self.plain = plain
        self.seconds: dict[str, list[float]] = {"plain loop": [], "Lightning": []}
        self._start: float | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        if self._start is not None:
            self.seconds["Lightning"].append(now - self._start)
        self.plain()
        if self._start is not None:
            self.seconds["plain loop"].append(time.perf_counter() - now)
        self._start = time.perf_counter()


def overhead(rounds: int, side: int = SIDE, name: str = "timm/resnet50") -> Iterator[Row]:
    driven, bare = own_detector(name, side), own_detector(name, side)
    before = {key: value.detach().clone() for key, value in bare.named_parameters()}

    def change(engine: Engine) -> dict[str, Tensor]:
        parts = [(value.detach() - before[key]).flatten() for key, value in engine.named_parameters()]
        return {"the change of the weights": torch.cat(parts)}

    recipe = DetectionRecipe(batch_size=BATCH, steps=rounds + 1, lr=RATE, warmup_steps=0)
    samples = _Samples(side, rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainerConfig(device="cpu", checkpoint_seconds=None)
        alternately = _Alternately(plain_loop(bare, recipe, samples))
        trainer = build_trainer(
            config,
            RunFolder(Path(folder)),
            [],
            [ProgressCallback("detection", BATCH), alternately],
            max_steps=rounds + 1,
            gradient_clip_norm=recipe.clip_norm,
            validate_every_epochs=None,
        )
        loader = ResumableLoader(samples, BATCH, seed=0, shuffle=False, drop_last=True, collate=list)
        trainer.fit(DetectionModule(driven, recipe, rounds + 1).train(), loader)
    work = f"training step against a plain loop, resnet50 {side}, batch {BATCH}"
    # To a hundredth: in float32 a weight near 1 is rounded to some thousandths of so small a change.
    check_equal(work, "Lightning", change(driven), change(bare), tolerance=1e-2)
    yield from compare(work, alternately.seconds, GOALS)


def plain_loop(engine: Engine, recipe: DetectionRecipe, samples: _Samples) -> Callable[[], None]:
    """A step of the same recipe, written out."""
    groups = decay_groups(engine.train(), recipe.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    total = recipe.steps or 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate(step, total))

    def run() -> None:
        images = [sample["image"].float() / 255 for sample in samples.samples]
        losses = engine.losses(images, [sample["target"] for sample in samples.samples])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(engine.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()

    return run


def sections(args: argparse.Namespace) -> dict[str, list[Callable[[], Iterator[Row]]]]:
    """By the name that `--only` knows them by."""
    rounds, few = args.rounds, max(1, args.rounds // 3)
    return {
        "training": [lambda: training(rounds)],
        "inference": [lambda: inference(rounds)],
        "overhead": [lambda: overhead(2 * rounds)],
        "evaluation": [lambda: detection_evaluation.scoring(few)],
        "c4": [lambda: detection_c4.inference(few)],
        "data": [lambda: detection_data.reading(few, args.threads)],
    }


def main() -> None:
    options = parser(str(__doc__), rounds=9)
    options.add_argument("--only", choices=("training", "inference", "overhead", "evaluation", "c4", "data"))
    args = options.parse_args()
    found = sections(args)
    torch.set_num_threads(args.threads)
    chosen = [args.only] if args.only else list(found)
    report([section for part in chosen for section in found[part]], args, processor.name())


if __name__ == "__main__":
    main()
