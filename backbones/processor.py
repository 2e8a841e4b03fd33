"""What the processor is and offers to a neural network."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

INFORMATION = Path("/proc/cpuinfo")
FEATURES: Mapping[str, frozenset[str]] = {
    "AVX2": frozenset({"avx2"}),
    "AVX-512": frozenset({"avx512f"}),
    "VNNI": frozenset({"avx512_vnni", "avx_vnni", "asimddp"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "AMX": frozenset({"amx_tile"}),
}
"""Each has one of Linux's flags. VNNI multiplies bytes, for int8 networks; on ARM that is `asimddp`."""


def name() -> str:
    """What the processor calls itself."""
    for line in _lines("model name"):
        return line
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def features() -> dict[str, bool] | None:
    """Which of FEATURES the processor has; None where the system does not say, which is not Linux."""
    for line in [*_lines("flags"), *_lines("Features")]:
        flags = set(line.split())
        return {feature: bool(flags & known) for feature, known in FEATURES.items()}
    return None


def _lines(key: str) -> list[str]:
    if not INFORMATION.is_file():
        return []
    pairs = (line.partition(":") for line in INFORMATION.read_text().splitlines())
    return [value.strip() for found, _, value in pairs if found.strip() == key]
