"""What children are predicted to cost against what they do cost."""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from backbones import processor
from backbones.genotype import Genotype
from classification.device_images import DeviceImages
from runtime.random import derive
from search.children.config import ChildConfig
from search.children.cost import predicted_cost, predicted_memory
from search.children.evaluators import ChildTraining
from search.children.images import ChildImages
from search.executors.config import ProcessConfig
from search.executors.protocol import Executor
from search.messages import ChildTask, Proposal, Result
from search.space import Space

SPEARMAN, SPREAD, WITHIN = 0.9, 2.0, 1.3


@dataclass(frozen=True)
class OpenNoise:
    """Opens who trains children on noise, one epoch of `steps` steps."""

    child: ChildConfig
    steps: int

    def __call__(self) -> ChildTraining:
        count = self.child.batch_size * (self.steps + 1)
        size = self.child.image_size
        pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        images = DeviceImages(pixels, torch.arange(count) % 10)
        places = np.arange(count)
        split = places[: -self.child.batch_size], places[-self.child.batch_size :]
        return ChildTraining(ChildImages(images, 10, *split, {}), self.child)


def random_cells(count: int, blocks: int = 5) -> list[Genotype]:
    space = Space(blocks=blocks)
    return [space.decode(space.sample(0, number)) for number in range(count)]


def run_all(executor: Executor, cells: Sequence[Genotype]) -> list[Result]:
    """All results, by number."""
    waiting = [
        ChildTask(Proposal(number, cell, ()), derive(0, "child", cell.key))
        for number, cell in enumerate(cells)
    ]
    results: list[Result] = []
    while len(results) < len(cells):
        while waiting and executor.capacity():
            executor.submit(waiting.pop(0))
        new = executor.poll()
        results += new
        for result in new:
            print(f"child {result.proposal.number}: {result.failure or result.reward}", file=sys.stderr)
    if failed := [result for result in results if result.failure]:
        raise RuntimeError(f"child {failed[0].proposal.number}: {failed[0].failure}: {failed[0].detail}")
    return sorted(results, key=lambda result: result.proposal.number)


def costs(cells: int, steps: int, child: ChildConfig) -> str:
    """A table of predicted against measured figures, each child in one warm worker after the other."""
    genotypes = random_cells(cells)
    with closing(ProcessConfig(workers=1).build(OpenNoise(child, steps), "costs")) as executor:
        results = run_all(executor, genotypes)
    seconds = np.array([result.cpu_seconds for result in results])
    memory = np.array([float(result.peak_bytes or 0) for result in results])
    predicted = [predicted_cost(each, child, child.batch_size * steps) for each in genotypes]
    times = seconds / np.array([1e-6 * cost.microseconds for cost in predicted])
    sizes = memory / np.array([predicted_memory(each, child) for each in genotypes])
    order = spearman(seconds, np.array([cost.microseconds for cost in predicted]))
    low, high = np.percentile(times, [5, 95])
    within = float(np.mean((sizes <= WITHIN) & (sizes >= 1 / WITHIN)))
    lines = [
        ("figure", "measured", "measured / predicted: least, median, most", "law", "found"),
        ("---",) * 5,
        ("CPU seconds", _range(seconds, "s"), _spread(times), f"Spearman >= {SPEARMAN}", f"{order:.3f}"),
        ("", "", f"p5 {low:.2f}, p95 {high:.2f}", f"p95/p5 <= {SPREAD:g}", f"{high / low:.2f}"),
        (
            *("peak memory", _range(memory / 1e9, "GB"), _spread(sizes)),
            *(f"within {WITHIN}x", f"{100 * within:.0f} %"),
        ),
    ]
    title = f"{cells} random cells, {steps} steps of {child.batch_size} images at {child.image_size} px, "
    title += f"{child.filters} filters, {child.cells_per_stage} cells per stage; {processor.name()}:"
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    first, second = (np.argsort(np.argsort(values)) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def _range(values: np.ndarray, unit: str) -> str:
    return f"{values.min():.2f} to {values.max():.2f} {unit}"


def _spread(ratios: np.ndarray) -> str:
    return f"{ratios.min():.2f}, {np.median(ratios):.2f}, {ratios.max():.2f}"
