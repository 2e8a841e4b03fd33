"""What the paper (1707.07012) published: its best cells, and rows of its tables. See docs/nasnet.md."""

from collections.abc import Mapping
from dataclasses import dataclass

from backbones.genotype import Block, Cell, Genotype

# Source: TF-slim `nasnet_utils.py`. The concat lists are the released code's, not the paper's text: they hold
# h_{i-1} in the normal cell and a used block in the reduction cell (docs/nasnet.md, section 3.1 and T1).
NASNET_A = Genotype(
    normal=Cell(
        (
            Block(0, 1, "sep_conv_5x5", "sep_conv_3x3"),
            Block(1, 1, "sep_conv_5x5", "sep_conv_3x3"),
            Block(0, 1, "avg_pool_3x3", "identity"),
            Block(1, 1, "avg_pool_3x3", "avg_pool_3x3"),
            Block(0, 0, "sep_conv_3x3", "identity"),
        ),
        concat=(1, 2, 3, 4, 5, 6),
    ),
    reduction=Cell(
        (
            Block(0, 1, "sep_conv_5x5", "sep_conv_7x7"),
            Block(0, 1, "max_pool_3x3", "sep_conv_7x7"),
            Block(0, 1, "avg_pool_3x3", "sep_conv_5x5"),
            Block(3, 2, "identity", "avg_pool_3x3"),
            Block(2, 0, "sep_conv_3x3", "max_pool_3x3"),
        ),
        concat=(3, 4, 5, 6),
    ),
    origin={"name": "NASNet-A", "source": "arXiv 1707.07012"},
)


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Tables 1 to 3 (docs/nasnet.md, section 6).

    model: the paper's name, `N @ width before the classifier`. parameters, multiply_adds: in millions,
    rounded as there; None where the table has no such column. reproduced: whether a network near that
    description is known to have these costs to 3 % (docs/nasnet.md, section 4.4 and T2).
    """

    table: int
    model: str
    parameters: float
    multiply_adds: float | None
    reproduced: bool = True


PAPER_ROWS: Mapping[str, PaperRow] = {
    "nasnet_a_cifar": PaperRow(1, "6 @ 768", 3.3, None),
    "nasnet_a_cifar_large": PaperRow(1, "7 @ 2304", 27.6, None),
    "nasnet_a_5x1536": PaperRow(2, "5 @ 1538", 10.9, 2350, reproduced=False),
    "nasnet_a_7x1920": PaperRow(2, "7 @ 1920", 22.6, 4930, reproduced=False),
    "nasnet_a_large": PaperRow(2, "6 @ 4032", 88.9, 23_800),
    "nasnet_a_mobile": PaperRow(3, "4 @ 1056", 5.3, 564),
}
"""By zoo name, in the paper's order."""
