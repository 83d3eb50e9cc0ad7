"""Groups, attributes and small arrays of a store, as xarray reads them, and errors of writing them in words."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from gmm_dask.errors import FaultError, UserError

StorePath = str | Path
# Zarr writes a file under such a name first; one that stays was left by a process that was killed
HALF_WRITTEN = "*.partial"
# the disk is the cause and not the path; libraries that raise an OSError of their own set no number
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None})


def open_root(path: StorePath, mode: Literal["r", "r+"] = "r") -> zarr.Group:
    """The store's root, which must exist."""
    return zarr.open_group(str(path), mode=mode, zarr_format=3, use_consolidated=False)


def attributes_at(path: StorePath) -> dict[str, Any] | None:
    """Return the attributes of the group at a path: None where nothing lies, none where something else lies."""
    place = Path(path)
    if not place.exists() or (place.is_dir() and all(file.match(HALF_WRITTEN) for file in place.iterdir())):
        return None
    try:
        return dict(open_root(path).attrs.asdict())
    except (OSError, ValueError, KeyError):
        return {}


def put(group: zarr.Group, name: str, values: ArrayLike, dimensions: tuple[str, ...]) -> None:
    """Write an array in one chunk; text becomes Zarr's variable-length string type."""
    data = np.asarray(values)
    if data.dtype.kind in "UO":
        data = data.astype(np.dtypes.StringDType())
    chunks = tuple(max(1, size) for size in data.shape)
    # Zarr skips a chunk of zeros by default, and with it the sign of a zero
    config: Any = {"write_empty_chunks": True}
    group.create_array(name, data=data, chunks=chunks, dimension_names=dimensions, config=config)


def get(group: zarr.Group, name: str) -> NDArray[Any]:
    """The values of an array."""
    return np.asarray(cast(zarr.Array[Any], group[name])[...])


def get_text(group: zarr.Group, name: str) -> list[str]:
    """The values of a one-dimensional array of text."""
    return [str(value) for value in get(group, name)]


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping as JSON gives it back: tuples are lists; NaN and infinity, which JSON lacks, are an error."""
    result: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return result


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
