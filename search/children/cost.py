"""How long a child is predicted to train, from its network alone."""

from backbones.costs import profile
from backbones.genotype import Genotype
from search.children.config import ChildConfig
from search.messages import Cost


def predicted_cost(genotype: Genotype, config: ChildConfig, images: int, num_classes: int = 10) -> Cost:
    """What the network of a child costs, and its training on `images` images on one CPU core.

    Only ratios between children matter (see `search.loop`). Fitted to steps of 50 random cells at the paper's
    size (24 filters, 2 cells per stage, 64 images of 32 px): docs/performance.md has the table.
    """
    costs = profile(config.spec(genotype.canonical()), num_classes=num_classes)
    seconds = costs.multiply_adds / MULTIPLY_ADDS_PER_SECOND + costs.activation_bytes / BYTES_PER_SECOND
    microseconds = max(1, round(1e6 * seconds * config.epochs * images))
    return Cost(microseconds, costs.parameters, costs.multiply_adds, costs.activation_bytes)


MULTIPLY_ADDS_PER_SECOND, BYTES_PER_SECOND = 1.40e10, 8.14e8


def predicted_memory(genotype: Genotype, config: ChildConfig) -> int:
    """Peak of the resident bytes, mapped files left out, of a process that trains a child on the CPU.

    Fitted to 90 random cells (8, 16 and 24 filters, batches of 32 and 64): within a factor of 1.15. What
    autograd keeps is 1.1 to 1.5 times the profile's `activation_bytes`, since max pooling keeps indices of 8
    bytes; the rest is scratch memory of the convolutions and what the heap cannot reuse of the step before.
    """
    costs = profile(config.spec(genotype.canonical()))
    return PROCESS_BYTES + round(RESIDENT_PER_ACTIVATION * config.batch_size * costs.activation_bytes)


PROCESS_BYTES, RESIDENT_PER_ACTIVATION = 350_000_000, 1.68
"""Of Python with PyTorch alone; resident bytes for each byte of the profile."""
WORKER_BYTES = 300_000_000
"""Of the former, what a worker process takes before its first child."""
