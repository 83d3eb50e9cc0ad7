"""Groups, attributes and small arrays of a store, as xarray reads them, and errors of writing them in words."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from gmm_dask.errors import FaultError, UserError
from pipeline.store.places import StorePath, place_of

# pathlib makes s3:/ of s3://; a single letter is a drive of Windows
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://?)")
# each chunk has a checksum, so that whoever reads it is told if it is damaged
COMPRESSOR = ZstdCodec(checksum=True)
# an array may be larger than its file by this factor at most; small ones are not checked
COMPRESSION, UNCHECKED_BYTES = 1000, 16 << 20
# the disk is the cause and not the path; libraries that raise an OSError of their own set no number
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None})


def open_root(path: StorePath, mode: Literal["r", "r+"] = "r") -> zarr.Group:
    """The store's root, which must exist."""
    return zarr.open_group(place_of(path).open_group(mode), mode=mode, zarr_format=3, use_consolidated=False)


@contextmanager
def new_group(path: StorePath, name: str, attributes: dict[str, Any] | None = None) -> Iterator[zarr.Group]:
    """A new group of small arrays, made in memory; all its files are written when it is whole.

    Zarr takes milliseconds, and requests one after another, for each array that it writes to its place.
    """
    files: dict[str, Any] = {}
    yield zarr.open_group(MemoryStore(files), mode="w", zarr_format=3, attributes=attributes)
    place_of(path).replace_files({f"{name}/{key}": data.to_bytes() for key, data in files.items()})


def put(group: zarr.Group, name: str, values: ArrayLike, dimensions: tuple[str, ...]) -> None:
    """Write an array in one chunk; text becomes Zarr's variable-length string type."""
    data = np.asarray(values)
    if data.dtype.kind in "UO":
        data = data.astype(np.dtypes.StringDType())
    chunks = tuple(max(1, size) for size in data.shape)
    # Zarr skips a chunk of zeros by default, and with it the sign of a zero
    config: Any = {"write_empty_chunks": True}
    group.create_array(
        name, data=data, chunks=chunks, dimension_names=dimensions, config=config, compressors=COMPRESSOR
    )


def get(group: zarr.Group, name: str, dtype: Any = None, shape: tuple[int | None, ...] | None = None) -> NDArray[Any]:
    """The values of an array that :func:`put` wrote.

    Parameters
    ----------
    group : zarr.Group
    name : str
    dtype : dtype, optional
        That it must have.
    shape : tuple of int or None, optional
        That it must have; None stands for any size.

    Raises
    ------
    KeyError, ValueError
        If there is no such array, or it is not what is expected. That is found before memory is asked for.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{name} is no array")
    if dtype is not None and array.dtype != np.dtype(dtype):
        raise ValueError(f"{name} has the dtype {array.dtype}, not {np.dtype(dtype)}")
    fits = shape is None or (
        len(shape) == array.ndim and all(size in (None, found) for size, found in zip(shape, array.shape, strict=True))
    )
    if not fits:
        raise ValueError(f"{name} has the shape {array.shape}, not {shape}")
    if array.size:
        _require_chunk(group, name, array)
    return np.asarray(array[...])


def _require_chunk(group: zarr.Group, name: str, array: zarr.Array[Any]) -> None:
    """Require the only chunk of an array, which Zarr reads as zeros if it is lost, and a size that it can have."""
    if array.chunks != array.shape:
        raise ValueError(f"{name} has chunks of {array.chunks}, not one of {array.shape}")
    stored = _stored_bytes(group.store, "/".join([array.path, "c", *("0" for _ in array.shape)]))
    if array.nbytes > max(UNCHECKED_BYTES, COMPRESSION * stored):
        raise ValueError(f"{name} has the shape {array.shape}, and a file of only {stored:,} bytes")


def _stored_bytes(store: Any, key: str) -> int:
    if isinstance(store, LocalStore):
        return Path(store.root, key).stat().st_size
    return int(store.stored_bytes(key))


def get_text(group: zarr.Group, name: str, shape: tuple[int | None, ...] | None = None) -> list[str]:
    """The values of a one-dimensional array of text."""
    return [str(value) for value in get(group, name, np.dtypes.StringDType(), shape)]


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping as JSON gives it back: tuples are lists; NaN and infinity, which JSON lacks, are an error."""
    result: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return result


def require_local(path: StorePath, key: str) -> None:
    """Raise :class:`UserError` for a URL, which would become a folder named ``s3:``; ``key`` is where it was given."""
    found = _URL.match(str(path))
    if found and not Path(found.group(1)).is_dir():
        raise UserError(
            f"{key}: expected a path of this machine; {path} is a URL. Write to a path, and copy the result to "
            f"{found.group(1)} afterwards."
        )


@contextmanager
def writing(
    path: str | Path, *, disk_only: bool = False, key: str = "output.store", resumes: bool = True
) -> Iterator[None]:
    """Name the path and the remedy where a result cannot be written.

    Parameters
    ----------
    path : str or Path
        Where the result is written.
    disk_only : bool
        Let other errors of the operating system than those of the disk pass: they may be about other files.
    key : str
        Of the configuration, that says where the result goes; empty if none does.
    resumes : bool
        Whether the same command goes on with what is written.

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
                f"disk, then run the same command again{': it resumes from what is written' if resumes else ''}."
            ) from error
        place = f"{key}: " if key else ""
        raise UserError(f"{place}cannot write {path}: {reason}. Choose a path that can be written.") from None
