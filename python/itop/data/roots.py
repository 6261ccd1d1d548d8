"""Where data is looked for."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from itop.data.cache import cache_dir
from itop.data.errors import DataSetError

ROOT_VARIABLE = "ITOP_DATA_ROOT"
"""The environment variable with the folder to search when none is given."""


def candidate_roots(name: str, root: Path | None, *others: Path) -> list[Path]:
    """Folders that may hold the data set ``name``, best first.

    That is ``root`` and ``root/name``; without ``root`` the same of ``$ITOP_DATA_ROOT``, then the download folder
    and ``others``.

    Raises:
        DataSetError: If ``root`` is given and no folder.
    """
    if root is not None:
        if not root.is_dir():
            raise DataSetError(f"data root '{root}' is not a folder")
        return [root, root / name]
    places: list[Path] = []
    if variable := os.environ.get(ROOT_VARIABLE):
        folder = Path(variable).expanduser()
        if not folder.is_dir():
            raise DataSetError(f"{ROOT_VARIABLE}='{folder}' is not a folder")
        places += [folder, folder / name]
    with suppress(RuntimeError):  # no home folder
        places.append(download_root())
    return [*places, *others]


def download_root() -> Path:
    """Where data sets are downloaded to when no root is given.

    Raises:
        RuntimeError: If there is no home folder.
    """
    return cache_dir() / "datasets"
