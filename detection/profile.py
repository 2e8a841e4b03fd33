"""What a detector costs, by part: parameters, multiply-adds and activations of one image. Nothing is trained.

python -m detection.profile detector.safetensors --size 600 800
python -m detection.profile --name nasnet_a_large --experiment table4_nasnet_a_large_1200
python -m detection.profile --name timm/resnet50 --detector torchvision_fpn --size 800 1333
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from backbones.arguments import one_line_errors, whole
from backbones.metadata import read_metadata
from backbones.spec import NetworkSpec
from backbones.timm_spec import TimmSpec
from backbones.words import counted
from backbones.zoo import read_spec, resolve_spec
from celltransfer import program
from detection.data.sizing import SIDES, EvaluationSize, Fixed
from detection.engines.config import ENGINES, C4Config, EngineConfig

if TYPE_CHECKING:
    from detection.engines.costs import Part


def _table(title: str, parts: Sequence["Part"]) -> Table:
    table = Table("part", "runs", title=title)
    for heading in ("parameters", "multiply-adds each", "all", "activations each", "all"):
        table.add_column(heading, justify="right")
    for part in parts:
        table.add_row(
            part.name,
            str(part.times),
            f"{part.parameters:,}",
            f"{part.multiply_adds / 1e6:,.1f} M",
            f"{part.multiply_adds * part.times / 1e9:,.2f} B",
            f"{part.activation_bytes / 1e6:,.1f} MB",
            f"{part.activation_bytes * part.times / 1e6:,.1f} MB",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        f"{sum(part.parameters for part in parts):,}",
        "",
        f"{sum(part.multiply_adds * part.times for part in parts) / 1e9:,.2f} B",
        "",
        f"{sum(part.activation_bytes * part.times for part in parts) / 1e6:,.1f} MB",
    )
    return table


def _of_regions(config: C4Config, region: "Part") -> str:
    sampled, chunk = config.box_head.batch_size_per_image, config.roi_chunk
    megabytes = region.activation_bytes / 1e6
    return (
        f"regions at once: {sampled} of each image in training, about {sampled * megabytes:,.0f} MB; "
        f"{chunk} in evaluation (detector.roi_chunk), less than {chunk * megabytes:,.0f} MB"
    )


@one_line_errors
def main(compose: Callable[[str], Any], arguments: Sequence[str] | None = None) -> int:
    """compose: an experiment's name to its `DetectionConfig`; given, as only `conf` sees Hydra."""
    parser = argparse.ArgumentParser(
        prog=program("detection.profile"), description=str(__doc__).split("\n")[0]
    )
    add = parser.add_argument
    add("weights", nargs="?", help="a detector.safetensors; or take --name")
    add("--name", metavar="NETWORK", help="a zoo name, a backbone.safetensors, or timm/<name>")
    add("--experiment", help=f"with --name: one of {program('detection')}, for detector and size")
    add("--detector", choices=list(ENGINES), help="with --name: an engine with its defaults")
    add("--classes", type=whole(1), default=80, help="with --name (default: COCO's 80)")
    add(
        "--size",
        type=whole(*SIDES),
        nargs=2,
        metavar=("H", "W"),
        help="of the image as the detector sees it, pixels",
    )
    options = parser.parse_args(arguments)
    if (options.weights is None) == (options.name is None):
        parser.error("give a detector.safetensors, or --name NETWORK")
    if options.name is not None and (options.experiment is None) == (options.detector is None):
        parser.error("--name needs --experiment or --detector")
    from detection.engines.costs import profile  # imports torch, for which --help need not wait

    config, spec, classes, size = _asked_for(options, compose)
    if (size := options.size or size) is None:
        parser.error("images of this detector have no fixed size: give --size H W")
    parts = profile(config, spec, classes, tuple(size))
    what = f"one image of {size[0]}x{size[1]} px, {counted(classes, 'class', 'classes')}"
    title = f"{options.weights or options.name}, {config.name}: {what}"
    Console(width=130).print(_table(title, parts))
    if isinstance(config, C4Config):
        print(_of_regions(config, parts[2]))
    return 0


def _asked_for(
    options: argparse.Namespace, compose: Callable[[str], Any]
) -> tuple[EngineConfig, NetworkSpec | TimmSpec, int, tuple[int, int] | None]:
    """Detector, network, classes, and (H, W) where it is fixed."""
    if options.weights is not None:
        from detection.engines.description import Description

        found = Description.read(read_metadata(options.weights, "detector"), options.weights)
        return found.config, found.spec, len(found.categories), _fixed(found.input_size)
    spec = _network(options.name)
    if options.detector is not None:
        return ENGINES[options.detector](name=options.detector), spec, options.classes, None
    config = compose(options.experiment)
    return config.detector, spec, options.classes, _fixed(config.data.evaluation_size)


def _fixed(size: EvaluationSize) -> tuple[int, int] | None:
    return size.largest() if isinstance(size, Fixed) else None


def _network(name: str) -> NetworkSpec | TimmSpec:
    if not name.endswith(".safetensors"):
        return resolve_spec(name)
    return read_spec(read_metadata(name, "backbone").get("network"), f"{name}: network")


if __name__ == "__main__":
    from conf.compose import detection_experiment

    sys.exit(main(detection_experiment))
