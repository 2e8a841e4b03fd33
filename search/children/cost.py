"""How long a child is predicted to train, from its network alone."""

from backbones.costs import profile
from backbones.genotype import Genotype
from search.children.config import ChildConfig
from search.messages import Cost


def predicted_cost(genotype: Genotype, config: ChildConfig, images: int, num_classes: int = 10) -> Cost:
    """What the network of a child costs, and its training on `images` images on one CPU core.

    Only ratios between children matter (see `search.loop`). Fitted to one step of 64 images of 21 random
    children (8 and 16 filters, 16 and 32 px, 1 and 2 cells per stage): off by 12 % (one sigma).
    """
    costs = profile(config.spec(genotype.canonical()), num_classes=num_classes)
    seconds = costs.multiply_adds / MULTIPLY_ADDS_PER_SECOND + costs.activation_bytes / BYTES_PER_SECOND
    microseconds = max(1, round(1e6 * seconds * config.epochs * images))
    return Cost(microseconds, costs.parameters, costs.multiply_adds, costs.activation_bytes)


MULTIPLY_ADDS_PER_SECOND, BYTES_PER_SECOND = 1.15e10, 5.35e8


def predicted_memory(genotype: Genotype, config: ChildConfig) -> int:
    """Peak resident bytes of the process that trains a child on the CPU. PROVISIONAL"""
    costs = profile(config.spec(genotype.canonical()), num_classes=10)
    return round(6e8 + 1.6 * config.batch_size * costs.activation_bytes)
