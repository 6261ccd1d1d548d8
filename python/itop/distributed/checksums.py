"""Checksums of a checkpoint's files, for ``torch.distributed.checkpoint`` keeps none: what changed on a disk is seen before it is read.

Ranks share the work: each reads a part of the files, once.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch.distributed as dist

CHECKSUMS = "checksums.json"
"""The file beside those it tells of. Checkpoints of releases before it have none."""

_CHUNK = 1 << 22

Sums: TypeAlias = "dict[str, list[int]]"
"""Of each file its bytes and their CRC-32."""


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files in a folder. Every rank must call it.

    Raises:
        OSError: On every rank, if one cannot read a file.
    """
    sums = _of_all(folder, _on_all_ranks(lambda: [_names(folder)] if _rank() == 0 else [])[0])
    if _rank() == 0:
        (folder / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, the same on every rank, which must all call it; None if nothing is."""
    found = _on_all_ranks(lambda: [_expected(folder)] if _rank() == 0 else [])[0]
    if isinstance(found, str):
        return found
    wanted = sorted({".metadata", *found})
    missing = _on_all_ranks(lambda: [name for name in wanted if not (folder / name).is_file()])
    if missing:
        return f"its file {min(missing)} is missing"
    try:
        sums = _of_all(folder, sorted(found))
    except OSError as error:
        return str(error)
    for name, (size, checksum) in sorted(found.items()):
        if sums[name][0] != size:
            return f"its file {name} has {sums[name][0]} of {size} bytes"
        if sums[name][1] != checksum:
            return f"the bytes of its file {name} are not those that were written"
    return None


def _expected(folder: Path) -> Sums | str:
    """What was written, nothing for checkpoints without checksums; in words why that is not known."""
    if not (folder / CHECKSUMS).is_file():
        return {}
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return {str(name): [int(size), int(checksum)] for name, (size, checksum) in sums.items()}
    except (ValueError, TypeError, AttributeError, OSError):
        return f"its file {CHECKSUMS} cannot be read"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != CHECKSUMS)


def _of_all(folder: Path, names: Sequence[str]) -> Sums:
    mine = names[_rank() :: _world()]
    return dict(_on_all_ranks(lambda: [(name, _checksum(folder / name)) for name in mine]))


def _checksum(path: Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return [size, checksum]


def _on_all_ranks(make: Callable[[], list[Any]]) -> list[Any]:
    """What all ranks made, one after the other; an OSError of one is everybody's."""
    try:
        mine: tuple[list[Any], str | None] = (make(), None)
    except OSError as error:
        mine = ([], str(error))
    everyone = [mine]
    if _world() > 1:
        everyone = [mine] * _world()
        dist.all_gather_object(everyone, mine)
    for _, problem in everyone:
        if problem is not None:
            raise OSError(problem)
    return [entry for made, _ in everyone for entry in made]


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
