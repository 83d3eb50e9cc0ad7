"""Errors of writing a result, in words: the user's mistake in the path, or a disk that has failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmm_dask.errors import FaultError, UserError

# the disk is the cause and not the path; libraries that raise an OSError of their own set no number
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None})


@contextmanager
def writing(path: str | Path, *, disk_only: bool = False) -> Iterator[None]:
    """Name the path and the remedy where a result cannot be written.

    Parameters
    ----------
    path : str or Path
        Where the result is written.
    disk_only : bool
        Let other errors of the operating system than those of the disk pass: they may be about other files.

    Raises
    ------
    FaultError
        If the disk failed.
    UserError
        If nothing can be written at the path.
    """
    try:
        yield
    except OSError as error:
        failed = error.errno in _DISK
        if disk_only and not (failed and error.errno):
            raise
        # libraries add to the operating system's message
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
        if failed:
            raise FaultError(
                f"cannot write {(disk_only and error.filename) or path}: {reason}. Free some space there or repair the "
                "disk, then run the same command again: it resumes from what is written."
            ) from error
        raise UserError(f"output.store: cannot write {path}: {reason}. Choose a path that can be written.") from None
