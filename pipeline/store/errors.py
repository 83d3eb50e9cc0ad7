"""What cannot be written, in words: the user's mistake in the path, or a disk that has failed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmm_dask.errors import FaultError, UserError

# what is wrong with the disk and not with the path
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def cannot_write(path: str | Path, error: OSError) -> UserError | FaultError:
    """The error to raise where a result cannot be written at a path."""
    reason = error.strerror or str(error)
    if error.errno in _DISK:
        return FaultError(
            f"output.store: cannot write {path}: {reason}. Free some space there, then run the same command again: it "
            "goes on from the last checkpoint."
        )
    return UserError(f"output.store: cannot write {path}: {reason}. Choose a path that can be written.")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Put in words that the disk failed while a result was written at a path; raises :class:`FaultError` then."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise cannot_write(error.filename or path, error) from error
