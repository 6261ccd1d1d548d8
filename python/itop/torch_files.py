"""What can be told of a file of ``torch.save`` before torch reads it, which looks at no checksum in it."""

from __future__ import annotations

import os
import zipfile

__all__ = ["PackedFileError", "check_archive"]


class PackedFileError(ValueError):
    """The contents are compressed, which ``torch.save`` never does: what is packed may be terabytes."""


def check_archive(path: str | os.PathLike[str]) -> None:
    """Reads a file once, and makes sure that it is whole and has the bytes that were written.

    Raises:
        FileNotFoundError: If there is none.
        PackedFileError: Before anything is unpacked.
        ValueError: If it is no archive, or not whole, or a bit in it has changed: what is wrong, in a few words.
    """
    size = os.path.getsize(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not is_stored or sum(entry.file_size for entry in entries) > size:
                raise PackedFileError("its contents are packed, which torch.save never does")
            changed = archive.testzip()
    except PackedFileError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError):
        raise ValueError("it is truncated or another kind of file") from None
    if changed is not None:
        raise ValueError(f"the bytes of its part {changed} are not those that were written")
