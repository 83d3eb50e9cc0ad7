"""Files that survive a loss of power: their contents are on the disk before anything says that they are there.

A rename is atomic, but it may reach the disk before the contents of the file that it names; after a loss of power the
file is then empty. So a file is synchronized before it gets its name, and its folder after that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# file systems put synchronizations that wait at the same time into one write of their journal
THREADS = 16


def sync(path: str | Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot synchronize folders
            raise
    finally:
        os.close(descriptor)


def sync_all(paths: Iterable[str | Path]) -> None:
    """Wait until all of some files and folders are on the disk."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(sync, paths))


def sync_tree(*folders: Path) -> None:
    """Wait until folders are on the disk with all that is in them."""
    sync_all(path for folder in folders for path in (folder, *folder.rglob("*")))


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is there whole, or as it was before, whatever happens."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)
