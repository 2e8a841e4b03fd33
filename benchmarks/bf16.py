"""What bfloat16 brings in eager PyTorch on this processor: ratios against float32 in one process, as a table.

    python -m benchmarks.bf16 --markdown FILE     about 6 minutes on 1 core

networks: one image and eight through networks in their form for inference; `net.fuse().to(torch.bfloat16)`.
detectors: one image of 480x640 px with a pyramid, random weights; `torch.autocast` around `Detector.predict`.
children: a training step of a search's child, its size and batch as a search has them by default;
`child.precision=bf16-mixed`. All in CPU seconds. Ratios, quartiles and verdicts: `benchmarks.ratios`. A
processor without units for bfloat16 computes it far slower than float32.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from backbones import processor
from backbones.factory import create
from backbones.timing import interleaved
from backbones.zoo import ZOO
from benchmarks.peers import training_step
from benchmarks.ratios import Row, compare, parser, report
from detection.data.coco_file import CategoryEntry
from detection.data.sizing import ShortestEdge
from detection.detector import Detector
from detection.engines.config import TorchvisionFpnConfig
from search.children.config import ChildConfig
from search.children.training import child_network

NETWORKS = ("nasnet_a_mobile", "timm/resnet50")
IMAGE_SIDE, DETECTOR_SIDES = 224, (480, 640)


def timed(work: str, ways: Mapping[str, Callable[[], object]], rounds: int) -> Iterator[Row]:
    yield from compare(work, interleaved(ways, rounds, clock=time.process_time), {})


def networks(name: str, batch: int, rounds: int) -> Iterator[Row]:
    net: Any = create(name, 1000).eval()
    net = net.fuse()
    lower = copy.deepcopy(net).to(torch.bfloat16)
    images = torch.rand(batch, 3, IMAGE_SIDE, IMAGE_SIDE).contiguous(memory_format=torch.channels_last)
    halved = images.to(torch.bfloat16)

    @torch.inference_mode()
    def look(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return network(images)

    ways = {"f32": lambda: look(net, images), "bf16": lambda: look(lower, halved)}
    yield from timed(f"{name} {IMAGE_SIDE}, batch {batch}", ways, rounds)


def detectors(name: str, rounds: int) -> Iterator[Row]:
    network = create(name, 1)
    network.remove_classifier()
    config = TorchvisionFpnConfig()
    engine = config.build(network, 80)
    categories = [CategoryEntry(id=number, name=str(number)) for number in range(80)]
    detector = Detector(engine, config, categories, ShortestEdge((min(DETECTOR_SIDES),), max(DETECTOR_SIDES)))
    image = torch.randint(0, 256, (3, *DETECTOR_SIDES), dtype=torch.uint8)

    def look(enabled: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            detector.predict(image, DETECTOR_SIDES)

    ways = {"f32": lambda: look(False), "bf16": lambda: look(True)}
    yield from timed(f"detector, {name} {DETECTOR_SIDES[0]}x{DETECTOR_SIDES[1]}", ways, rounds)


def children(rounds: int) -> Iterator[Row]:
    config = ChildConfig()
    genotype = ZOO["nasnet_a_mobile"].genotype
    images = torch.rand(config.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (config.batch_size,))
    ways = {
        name: training_step(
            child_network(genotype, config, 10, torch.device("cpu")), images, labels, autocast=name == "bf16"
        )
        for name in ("f32", "bf16")
    }
    yield from timed(f"training step of a child, NASNet-A's cells, batch {config.batch_size}", ways, rounds)


def main() -> None:
    options = parser(__doc__, rounds=9)
    options.set_defaults(threads=1)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    few = max(1, args.rounds // 2)
    sections = [
        *(partial(networks, name, batch, args.rounds) for name in NETWORKS for batch in (1, 8)),
        *(partial(detectors, name, few) for name in NETWORKS),
        partial(children, few),
    ]
    report(sections, args, processor.name())


if __name__ == "__main__":
    main()
