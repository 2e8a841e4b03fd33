"""`python -m backbones list | profile | draw | convert | export`: a command line over the zoo.

What needs torch is imported by the command that uses it: --help need not wait.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from backbones.arguments import whole
from backbones.draw import draw
from backbones.files import STDOUT, check_output, write_output
from backbones.formats import SUFFIXES
from backbones.genotype import Genotype
from backbones.published import PAPER_ROWS
from backbones.words import printable_lines, told
from backbones.zoo import FOREIGN_NETWORKS, ZOO, resolve_spec
from celltransfer import program

if TYPE_CHECKING:
    from backbones.costs import PartProfile, Profile

LIST_NOTES = """\
N: normal cells in each of the three stages. 10 classes with the cifar stem, 1000 with the imagenet stem.
+ statistics: with batch norm's running means and variances, which the paper's 88.9 M counts.
* not reproduced: no network of that description is known to have the paper's figures; ours is not tuned to
them. The width is 24 times the filters, which 1538 is not, so 5 @ 1538 is built as 5 @ 1536.
7 @ 2304 is built with N = 6: the paper's text names 4 and 6, and N = 7 would have 32.6 M parameters.
NASNet-B (4 @ 1152, 4 @ 1536) and NASNet-C (4 @ 640, 3 @ 960) are missing: no public code or text gives their
wiring.\
"""


def list_networks(args: argparse.Namespace) -> None:
    from backbones.costs import profile

    table = Table("network", "in the paper", title="The zoo beside Tables 1 to 3 of arXiv 1707.07012")
    for heading in ("N", "image", "parameters", "+ statistics", "paper", "multiply-adds", "paper"):
        table.add_column(heading, justify="right")
    for name in sorted(ZOO, key=list(PAPER_ROWS).index):
        spec, row = ZOO[name], PAPER_ROWS[name]
        counted = profile(spec)
        table.add_row(
            name,
            row.model if row.reproduced else f"{row.model} *",
            str(spec.cells_per_stage),
            str(spec.image_size),
            f"{counted.parameters:,}",
            f"{counted.parameters + counted.buffers:,}",
            f"{row.parameters} M",
            f"{counted.multiply_adds / 1e6:,.1f} M",
            "-" if row.multiply_adds is None else f"{row.multiply_adds:,.0f} M",
        )
    console = Console(width=120)
    console.print(table)
    console.print(LIST_NOTES, highlight=False)


def profile_network(args: argparse.Namespace) -> None:
    from backbones.costs import profile
    from backbones.weights import load

    sizes = {key: getattr(args, key) for key in ("cells_per_stage", "filters", "stem")}
    given = {key: value for key, value in sizes.items() if value is not None}
    if args.network.endswith(".safetensors"):
        fixed = given if args.num_classes is None else {**given, "num_classes": args.num_classes}
        if fixed:
            options = ", ".join(f"--{key.replace('_', '-')}" for key in fixed)
            raise ValueError(f"{args.network}: the weights fit one network, so {options} cannot be given")
        counted = profile(load(args.network), args.image_size)
    else:
        spec = resolve_spec(args.network, **given)
        counted = profile(spec, args.image_size, args.num_classes)
    side = counted.image_size
    table = Table("part", "output", title=f"{args.network}: costs of one image of {side}x{side} px")
    for heading in ("parameters", "running statistics", "multiply-adds", "activations"):
        table.add_column(heading, justify="right")
    for part in counted.parts if args.parts else ():
        table.add_row(part.name, "x".join(map(str, part.shape)), *_costs(part))
    table.add_section()
    table.add_row("total", "", *_costs(counted))
    Console(width=120).print(table)


def _costs(counted: "Profile | PartProfile") -> tuple[str, ...]:
    return (
        f"{counted.parameters:,}",
        f"{counted.buffers:,}",
        f"{counted.multiply_adds / 1e6:,.1f} M",
        f"{counted.activation_bytes / 1e6:,.1f} MB",
    )


def draw_genotype(args: argparse.Namespace) -> None:
    if str(args.output) != STDOUT and args.output.suffix != ".svg":
        raise ValueError(f"{args.output}: expected the name of an .svg file to write")
    check_output(args.output, text=True)
    genotype = ZOO[args.genotype].genotype if args.genotype in ZOO else Genotype.load(args.genotype)
    write_output(args.output, draw(genotype))


def convert_weights(args: argparse.Namespace) -> None:
    from backbones.foreign_weights import read_state_dict
    from backbones.weights import convert, save

    check_output(args.output)
    if args.checkpoint is not None:
        state_dict = read_state_dict(args.checkpoint)
    elif args.source == "timm":
        from backbones.timm_backbone import pretrained_state_dict

        state_dict = pretrained_state_dict("nasnetalarge", "give them by --checkpoint FILE")
    else:
        raise ValueError(
            f"--source {args.source} downloads nothing: give its state dict with --checkpoint FILE"
        )
    save(convert(state_dict, args.source), args.output)
    print(args.output)


def export_weights(args: argparse.Namespace) -> None:
    from backbones.export import export

    output = args.output or args.weights.with_suffix(SUFFIXES[args.format])
    export(args.weights, output, args.format, image_size=args.image_size, features=args.features)
    print(output)


def main() -> None:
    parser = argparse.ArgumentParser(prog=program("backbones"), description="Networks and genotypes.")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("list", help="the zoo with its costs").set_defaults(run=list_networks)

    command = commands.add_parser("profile", help="parameters, multiply-adds and activations of one network")
    add = command.add_argument
    add("network", help="a zoo name, a genotype.json, a backbone.safetensors, or timm/<name>")
    add(
        "--cells-per-stage",
        type=whole(1),
        help="normal cells in each of the three stages (default: the zoo's)",
    )
    add("--filters", type=whole(1), help="channels of one state in the first stage (default: the zoo's)")
    add("--stem", help="imagenet or cifar (default: the zoo's, imagenet for a genotype)")
    add("--image-size", type=whole(1), help="side in pixels (default: what the network is meant for)")
    add("--num-classes", type=whole(1), help="(default: 10 with the cifar stem, else 1000)")
    add("--parts", action="store_true", help="also a row per cell, stem and classifier (default: the total)")
    command.set_defaults(run=profile_network)

    command = commands.add_parser("draw", help="draw the two cells as SVG")
    add = command.add_argument
    add("genotype", help="a genotype.json or a zoo name")
    add(
        "--output",
        type=Path,
        default=Path("cells.svg"),
        help="the .svg to write (default: cells.svg); -: standard output",
    )
    command.set_defaults(run=draw_genotype)

    command = commands.add_parser("convert", help="make a backbone.safetensors of another package's weights")
    add = command.add_argument
    add("--source", choices=list(FOREIGN_NETWORKS), required=True, help="whose weights")
    add("--checkpoint", type=Path, help="state dict, .pth or .safetensors (default: timm downloads its own)")
    add("--output", type=Path, required=True, help="the backbone.safetensors to write")
    command.set_defaults(run=convert_weights)

    command = commands.add_parser("export", help="write a network for ONNX Runtime, OpenVINO or torch.export")
    add = command.add_argument
    add("weights", type=Path, help="a backbone.safetensors")
    add("--format", choices=list(SUFFIXES), required=True, help="whose; torch is torch.export")
    add(
        "--output",
        type=Path,
        help=".onnx, .xml (and .bin), .pt2 (default: beside the weights, by their name)",
    )
    add("--image-size", type=whole(1), help="side in pixels (default: that of the weights file)")
    add("--features", action="store_true", help="give the maps c2 to c5 (default: the logits)")
    command.set_defaults(run=export_weights)

    args = parser.parse_args()
    try:
        args.run(args)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(printable_lines(told(error)))


if __name__ == "__main__":
    main()
