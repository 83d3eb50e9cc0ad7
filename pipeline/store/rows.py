"""Values of the rows: labels, log densities and responsibilities, written chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import dask.array as da
import numpy as np
import zarr

from pipeline.store.groups import StorePath, open_root

# array -> dtype and dimensions
_ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "label": (np.int32, ("row",)),
    "log_density": (np.float64, ("row",)),
    "responsibility": (np.float64, ("row", "component")),
}


def write_rows(path: StorePath, arrays: Mapping[str, da.Array]) -> None:
    """Compute values of the rows and write them, in one pass over the chunks.

    Each Zarr chunk is written by one task, as a whole.

    Parameters
    ----------
    path : str or Path
        The result store.
    arrays : mapping of str to dask.array.Array
        ``label`` (n_rows,), ``log_density`` (n_rows,), ``responsibility`` (n_rows, n_components), or some of them,
        chunked alike along the rows, with known lengths. Their components are those of the model in the store.
    """
    group = open_root(path, "r+").create_group("rows", overwrite=True)
    sources = [_regular(array.astype(_ROWS[name][0])) for name, array in arrays.items()]
    targets = [_create(group, name, source) for name, source in zip(arrays, sources, strict=True)]
    for source, target in zip(sources, targets, strict=True):
        require_aligned(source.chunks, target.chunks)
    da.store(sources, targets, lock=False)


def row_shapes(path: StorePath) -> dict[str, tuple[int, ...]]:
    """Shape of each array that the store holds about the rows."""
    root = open_root(path)
    if "rows" not in root:
        return {}
    group = cast(zarr.Group, root["rows"])
    return {name: cast(zarr.Array[Any], group[name]).shape for name in _ROWS if name in group}


def _regular(array: da.Array) -> da.Array:
    """The array in chunks of equal length but for the last, as Zarr has them; whole in its other dimensions."""
    lengths = array.chunks[0]
    if any(np.isnan(length) for length in lengths):
        raise ValueError("write_rows expects chunks of known length; got unknown ones. Set them from the profile.")
    return array.rechunk((max(lengths), *array.shape[1:]))


def _create(group: zarr.Group, name: str, source: da.Array) -> zarr.Array[Any]:
    dtype, dimensions = _ROWS[name]
    return group.create_array(
        name, shape=source.shape, dtype=dtype, chunks=source.chunksize, dimension_names=dimensions
    )


def require_aligned(chunks: Sequence[Sequence[int]], zarr_chunks: Sequence[int]) -> None:
    """Raise unless every Zarr chunk lies in one Dask chunk: two tasks that write parts of one would lose data."""
    for lengths, step in zip(chunks, zarr_chunks, strict=True):
        ends = np.cumsum(lengths)[:-1]
        if np.any(ends % step):
            raise AssertionError(f"Dask chunks {tuple(lengths)} do not end where Zarr's of {step} end")
