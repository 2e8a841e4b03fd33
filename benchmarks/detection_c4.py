"""How much faster the paper's detector looks at an image in its form for inference: ratios, as a table.

    python -m benchmarks.detection_c4 --markdown FILE     about 3 minutes on 2 cores

NASNet-A mobile at 600x600 px, 300 proposals, COCO's 80 classes, random weights, statistics of random images.
The straightforward form is the detector as it is trained: plain layout, batch norm as it is, the last cells
on all crops at once. Ours is `Engine.for_inference`, with the regions in chunks; before anything is timed,
both must give the same numbers for the same proposals. Ratios, quartiles and verdicts: `benchmarks.ratios`.
The machine must be quiet.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from backbones import processor
from backbones.base import Classifier
from backbones.factory import create
from backbones.timing import interleaved
from benchmarks.ratios import Row, compare, parser, report
from detection.engines.config import TorchvisionC4Config
from detection.engines.torchvision_c4 import TorchvisionC4

WORK = "NASNet-A mobile, 600 px, 300 proposals"
CHUNKS = (16, 32, 64)
ALL_AT_ONCE = 10_000


def detector(network: Classifier, side: int) -> TorchvisionC4:
    """With statistics under which layers give values of size 1, and proposals are not all of one kind."""
    network.remove_classifier()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train().features(torch.rand(2, 3, side, side))
    engine = TorchvisionC4Config(roi_chunk=ALL_AT_ONCE).build(network, 80)
    assert isinstance(engine, TorchvisionC4)
    return engine.eval()


def check_equal(plain: TorchvisionC4, fast: TorchvisionC4, image: Tensor) -> None:
    """Raises AssertionError unless both stages give the same numbers for the same proposals.

    Detections of random weights are no test: scores are nearly tied, and rounding changes their order."""
    maps, sizes = plain.maps([image])
    fast_maps, _ = fast.maps([image])
    first, fast_first = plain.rpn(maps), fast.rpn(fast_maps)
    boxes = plain.rpn.select(first, sizes)
    expected = (first.logits, first.deltas, *plain.score(maps, boxes))
    found = (fast_first.logits, fast_first.deltas, *fast.score(fast_maps, boxes))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * one.abs().max().item())


@torch.inference_mode()
def inference(
    rounds: int, network: Classifier | None = None, side: int = 600, device: str = "cpu"
) -> Iterator[Row]:
    """An image of `side` x `side` pixels, with fresh weights. network: None is NASNet-A mobile."""
    torch.manual_seed(0)
    default = TorchvisionC4Config().roi_chunk
    image = torch.rand(3, side, side).to(device)
    plain = detector(network or create("nasnet_a_mobile"), side).to(device)
    chunked = copy.copy(plain)
    chunked.roi_chunk = default
    ways = {
        "straightforward": partial(plain.predict, [image]),
        f"as trained, chunks of {default}": partial(chunked.predict, [image]),
    }
    for chunk in CHUNKS:
        fast = cast(TorchvisionC4, plain.for_inference())
        fast.roi_chunk = chunk
        check_equal(plain, fast, image)
        ways[f"chunks of {chunk}"] = partial(fast.predict, [image])
    if device.startswith("cuda"):
        yield from compare(WORK, interleaved(ways, rounds, wait=torch.cuda.synchronize), {})
    else:
        yield from compare(WORK, interleaved(ways, rounds), {(WORK, f"chunks of {default}"): 1.5})


def main() -> None:
    args = parser(str(__doc__), rounds=5).parse_args()
    torch.set_num_threads(args.threads)
    report([lambda: inference(args.rounds)], args, processor.name())


if __name__ == "__main__":
    main()
