"""Processes that train together, started once a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rank_pool import RankPool


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    """Two of them."""
    pool = RankPool(2)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, RankPool]]:
    """Two and four of them."""
    pools = {2: RankPool(2), 4: RankPool(4)}
    yield pools
    for pool in pools.values():
        pool.stop()
