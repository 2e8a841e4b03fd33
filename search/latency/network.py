"""The network that is timed, ready to run in an engine."""

import functools
import io
from collections.abc import Callable

import torch

from backbones.export import onnx_bytes, openvino_core
from backbones.genotype import Genotype
from backbones.network import NASNet
from backbones.spec import NetworkSpec
from search.latency.config import LatencyConfig

CHANNELS = 3


def target(genotype: Genotype, config: LatencyConfig) -> NetworkSpec:
    """The feature extractor that a detector would have of these cells."""
    return NetworkSpec(
        genotype.canonical(),
        config.cells_per_stage,
        config.filters,
        stem_filters=config.stem_filters,
        image_size=max(config.height, config.width),
    )


def runner(genotype: Genotype, config: LatencyConfig) -> Callable[[], object]:
    """Runs the network once on one random image, `[1, 3, height, width]`, up to the maps c2 to c5.

    The weights are random: they decide nothing about the time. Raises ModuleNotFoundError without the
    engine's packages."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = NASNet(target(genotype, config), 1).eval().requires_grad_(False)
        image = torch.randn(1, CHANNELS, config.height, config.width)
    if config.engine == "torch":
        kind = torch.bfloat16 if config.precision == "bf16" else torch.float32
        return functools.partial(
            _run_eagerly, network.fuse().to(kind), image.to(kind, memory_format=torch.channels_last)
        )
    core = openvino_core()
    program = onnx_bytes(network, config.height, config.width, features=True)
    model = core.read_model(io.BytesIO(program))
    model.reshape([1, CHANNELS, config.height, config.width])
    settings = {
        "INFERENCE_NUM_THREADS": config.threads,
        "INFERENCE_PRECISION_HINT": config.precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return functools.partial(request.infer, [image.numpy()])


@torch.inference_mode()
def _run_eagerly(network: NASNet, image: torch.Tensor) -> None:
    network.features(image)
