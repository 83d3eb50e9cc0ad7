"""One run a store: a lock beside it, which the operating system frees when the process dies."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gmm_dask.errors import UserError
from pipeline.store.arrays import StorePath, writing


class LockedError(UserError):
    """Another run is at work on the store."""


@contextmanager
def lock(path: StorePath) -> Iterator[None]:
    """Hold a result store for this run; the operating system frees it when the process dies, however it dies.

    The lock lies beside the store itself, also if the path is a link to it.

    Raises
    ------
    LockedError
        If another run holds it.
    """
    file = _lock_file(path)
    held = FileLock(file, blocking=False)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire()
        except Timeout:
            raise LockedError(
                f"another run is at work on the result store {path} (it holds {file}). Wait for it, or choose another "
                "output.store."
            ) from None
    try:
        yield
    finally:
        if not _is_anything_beside(file):
            file.unlink(missing_ok=True)
        held.release()


def is_locked(path: StorePath) -> bool:
    """Whether a run is at work on a result store."""
    if not _lock_file(path).exists():
        return False
    try:
        with lock(path):
            return False
    except LockedError:
        return True


def _is_anything_beside(file: Path) -> bool:
    """Whether there is anything that the lock is for: a store, or what becomes one."""
    return any(path != file for path in file.parent.glob(f"{glob.escape(file.stem)}*"))


def _lock_file(path: StorePath) -> Path:
    return Path(f"{Path(path).resolve()}.lock")
