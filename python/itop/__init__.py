"""Dynamic sparse training for PyTorch with a native core.

>>> engine = SparseEngine(model, optimizer, "set-itop", sparsity=0.9, total_steps=88_000)   # doctest: +SKIP

The training loop stays as it was: the engine acts inside ``optimizer.step()``.
"""

from __future__ import annotations

from itop import _core
from itop._core import BackendUnavailableError, CudaError
from itop.engine import SparseEngine
from itop.layer_state import LayerState
from itop.training_cost import Flops
from itop.update_report import LayerUpdate, UpdateReport

# Torch's idle OpenMP threads spin; threads of our own would fight them for the cores.
_core.share_threads_with("libtorch_cpu.so")

__version__ = str(_core.build_info()["version"])


def build_info() -> dict[str, object]:
    """How this installation was built and what it finds: version, compiler, instruction set, CUDA, devices, threads."""
    info = _core.build_info()
    status = info["cuda_status"]
    devices = ["cpu"] + [f"cuda:{index}" for index in range(int(str(info["num_cuda_devices"])))]
    return {**info, "devices": devices, "threads": info["num_threads"], "cuda_status": status}


def set_num_threads(num_threads: int) -> None:
    """Threads of the native core on the CPU; the result of every operation is the same for any number.

    Raises:
        ValueError: If it is less than 1.
    """
    _core.set_num_threads(num_threads)


__all__ = [
    "BackendUnavailableError",
    "CudaError",
    "Flops",
    "LayerState",
    "LayerUpdate",
    "SparseEngine",
    "UpdateReport",
    "__version__",
    "build_info",
    "set_num_threads",
]
