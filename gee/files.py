"""Files that are either whole or absent, whenever the process is killed."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader, or a resumed run, finds the old file or the new.

    The bytes go to a hidden file beside it, are flushed to the disk, and the file is renamed. A file has one
    writer at a time.

    Raises:
        OSError: the disk is full, or the folder is missing or read-only; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # the rename itself; some file systems cannot flush a folder
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
