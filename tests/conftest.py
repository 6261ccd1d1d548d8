"""What every suite shares: what is skipped without a GPU, the core's threads, Hypothesis's habits."""

from __future__ import annotations

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
        if item.get_closest_marker("gpu") is not None:  # a keyword may be the name of a folder
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """A test may change the number of the core's threads; the next one finds it as it was."""
    before = _core.num_threads()
    yield
    if _core.num_threads() != before:
        _core.set_num_threads(before)
