"""The data set of a run, kept for the next one when that wants the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from itop.data import DataSet, load_dataset
from itop.training.config import RunConfig

__all__ = ["DataSource"]


@final
class DataSource:
    """Loads data sets and keeps the last: runs that differ in their method share one."""

    def __init__(self, progress: Callable[[int, int], None] | None = None) -> None:
        """`progress` is told how many images of how many are decoded, where a data set needs that."""
        self._progress = progress
        self._key: tuple[object, ...] | None = None
        self._data: DataSet | None = None

    def get(self, config: RunConfig) -> DataSet:
        """The data set that `config` names, with its validation split.

        Raises:
            ValueError: If it is not there, or not what it should be.
        """
        key = (
            config.data,
            config.data_root,
            config.download,
            config.image_size,
            config.validation_fraction,
            config.train_fraction,
            config.seed,
        )
        if self._data is None or key != self._key:
            self._data = None  # two data sets need not fit into memory together
            self._data = load_dataset(
                config.data,
                config.data_root,
                validation_fraction=config.validation_fraction,
                seed=config.seed,
                download=config.download,
                image_size=config.image_size,
                progress=self._progress,
                train_fraction=config.train_fraction,
            )
            self._key = key
        return self._data
