"""Measurements against other implementations."""

from celltransfer import refuse_module

COMMANDS = (
    "benchmarks.backbones",
    "benchmarks.bf16",
    "benchmarks.classification",
    "benchmarks.detection",
    "benchmarks.detection_c4",
    "benchmarks.detection_data",
    "benchmarks.detection_evaluation",
    "benchmarks.driver",
    "benchmarks.gpu_check",
    "benchmarks.latency",
    "benchmarks.learning",
    "benchmarks.memory",
    "benchmarks.search",
    "benchmarks.startup",
)

refuse_module(__name__, COMMANDS)
