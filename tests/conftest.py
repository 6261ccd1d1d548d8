"""What every suite shares: the device under test, the core's threads, Hypothesis's habits.

``ITOP_TEST_DEVICE=cuda`` runs the suites that take a ``device`` on a GPU; without it they run on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from itop import _core

# Examples share one machine with builds and other suites: what is slow here says nothing about the code.
settings.register_profile("itop", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("itop")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, torch sees none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that suites run on, from ITOP_TEST_DEVICE."""
    return torch.device(os.environ.get("ITOP_TEST_DEVICE", "cpu"))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """A test may change the number of the core's threads; the next one finds it as it was."""
    before = _core.num_threads()
    yield
    if _core.num_threads() != before:
        _core.set_num_threads(before)
