"""Where and in which precision a run executes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import final

import torch

import itop

__all__ = ["Precision", "limited_threads", "resolve_device", "resolve_precision"]


def resolve_device(name: str) -> torch.device:
    """The device `name` stands for; ``"auto"`` is the first CUDA device, else the CPU.

    Raises:
        ValueError: If torch knows no such device, or it is not present.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be a name like 'auto', 'cpu' or 'cuda:0', got {name!r}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {name!r} was asked for, but torch finds no CUDA device here")
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        if device.index >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ValueError(
                f"device {name!r} was asked for, but this machine has {count} CUDA device{'' if count == 1 else 's'}"
            )
    elif device.type != "cpu":
        raise ValueError(f"device must be the CPU or a CUDA device, got {name!r}")
    return device


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Runs torch and the core with so many threads on the CPU; None changes nothing."""
    if threads is None:
        yield
        return
    of_torch, of_core = torch.get_num_threads(), int(str(itop.build_info()["threads"]))
    torch.set_num_threads(threads)
    itop.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        itop.set_num_threads(of_core)


@final
@dataclass(frozen=True, slots=True)
class Precision:
    """Mixed precision of the forward pass.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: What autocast computes in; None leaves everything in float32.
    """

    device_type: str
    dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Scales the loss where gradients would underflow (float16); elsewhere it passes everything through."""
        return torch.amp.GradScaler(self.device_type, enabled=self.dtype == torch.float16)


def resolve_precision(mode: str, device: torch.device) -> Precision:
    """The precision that `mode` of ``config.AMP_MODES`` means on `device`.

    Raises:
        ValueError: If the device has no such arithmetic.
    """
    if mode == "off":
        return Precision(device.type, None)
    has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
    if mode == "auto":
        return Precision(device.type, torch.bfloat16 if has_bfloat16 else torch.float16)
    if mode == "bfloat16" and not has_bfloat16:
        raise ValueError(f"amp 'bfloat16' was asked for, but {device} has no bfloat16 arithmetic; take 'float16'")
    return Precision(device.type, torch.bfloat16 if mode == "bfloat16" else torch.float16)
