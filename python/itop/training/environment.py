"""What a result was obtained with."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["describe_environment", "total_memory"]


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Versions, processor and thread count, as plain values for ``summary.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "itop": _version("itop"),
        "torch": str(torch.__version__),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "command": shlex.join(["itop", *sys.argv[1:]]),
    }


def total_memory() -> float:
    """Bytes of main memory; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def _processor() -> str:
    """The processor's own name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
