"""What a result was obtained with."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import torch

__all__ = ["describe_environment"]


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Versions, processor and thread count, as plain values for ``summary.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "itop": _version("itop"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "command": " ".join(["itop", *sys.argv[1:]]),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
