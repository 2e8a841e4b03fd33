"""`python -m backbones list | profile NETWORK | draw GENOTYPE`: a plain command line over the zoo."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backbones.draw import draw
from backbones.files import write_atomically
from backbones.genotype import Genotype
from backbones.profile import PartProfile, Profile, profile
from backbones.weights import load
from backbones.zoo import ZOO, list_models, resolve_spec


def _table(title: str) -> Table:
    table = Table("network", "image", "parameters", "with running statistics", "multiply-adds", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _row(table: Table, name: str, network, num_classes: int) -> None:
    counted = profile(network, num_classes=num_classes)
    spec = getattr(network, "spec", network)
    table.add_row(
        name,
        str(spec.image_size),
        f"{counted.parameters:,}",
        f"{counted.parameters + counted.buffers:,}",
        f"{counted.multiply_adds / 1e6:,.1f} M",
    )


def list_networks(args: argparse.Namespace) -> None:
    table = _table("Networks of the zoo (10 classes with the cifar stem, else 1000)")
    for name in list_models():
        _row(table, name, ZOO[name], 10 if ZOO[name].stem == "cifar" else 1000)
    Console(width=120).print(table)


def profile_network(args: argparse.Namespace) -> None:
    if args.network.endswith(".safetensors"):
        counted = profile(load(args.network))
    else:
        sizes = {"cells_per_stage": args.cells_per_stage, "filters": args.filters, "stem": args.stem}
        sizes["image_size"] = args.image_size
        given = {key: value for key, value in sizes.items() if value is not None}
        counted = profile(resolve_spec(args.network, **given), num_classes=args.num_classes)
    side = counted.image_size
    table = Table("part", "output", title=f"{args.network}: costs of one image of {side}x{side} px")
    for heading in ("parameters", "running statistics", "multiply-adds", "activations"):
        table.add_column(heading, justify="right")
    for part in counted.parts if args.parts else ():
        table.add_row(part.name, "x".join(map(str, part.shape)), *_costs(part))
    table.add_section()
    table.add_row("total", "", *_costs(counted))
    Console(width=120).print(table)


def _costs(counted: Profile | PartProfile) -> tuple[str, ...]:
    return (
        f"{counted.parameters:,}",
        f"{counted.buffers:,}",
        f"{counted.multiply_adds / 1e6:,.1f} M",
        f"{counted.activation_bytes / 1e6:,.1f} MB",
    )


def draw_genotype(args: argparse.Namespace) -> None:
    genotype = ZOO[args.genotype].genotype if args.genotype in ZOO else Genotype.load(args.genotype)
    write_atomically(args.output, draw(genotype))
    print(args.output)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m backbones", description="Networks and genotypes.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("list", help="the zoo with its costs").set_defaults(run=list_networks)

    command = commands.add_parser("profile", help="parameters, multiply-adds and activations of one network")
    command.add_argument("network", help="a zoo name, a genotype.json or a backbone.safetensors")
    command.add_argument("--cells-per-stage", type=int, help="normal cells in each of the three stages")
    command.add_argument("--filters", type=int, help="channels of one hidden state in the first stage")
    command.add_argument("--stem", help="imagenet or cifar")
    command.add_argument("--image-size", type=int, help="side in pixels")
    command.add_argument("--num-classes", type=int, default=1000)
    command.add_argument("--parts", action="store_true", help="also a row per cell, stem and classifier")
    command.set_defaults(run=profile_network)

    command = commands.add_parser("draw", help="draw the two cells as SVG")
    command.add_argument("genotype", help="a genotype.json or a zoo name")
    command.add_argument("--output", type=Path, default=Path("cells.svg"))
    command.set_defaults(run=draw_genotype)

    args = parser.parse_args()
    try:
        args.run(args)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
