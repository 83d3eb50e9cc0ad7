"""HDF5 files: a dataset of shape (n_rows, n_columns), or one with a named field a column, read with h5py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from pipeline.config.job import DataConfig
from pipeline.sources.base import (
    Block,
    Chunks,
    Column,
    Source,
    Span,
    column_positions,
    cut,
    numbered_columns,
    numeric_dtype,
    refuse_empty,
    select_columns,
)
from pipeline.sources.chunk_policy import ChunkPolicy
from pipeline.sources.location import Place


def open_hdf5(data: DataConfig, place: Place, policy: ChunkPolicy) -> Source:
    """Open a dataset of an HDF5 file; see :func:`pipeline.sources.open_source`."""
    with _opened(place) as file:
        dataset = _dataset(file, data)
        name, shape, dtype, storage = dataset.name, dataset.shape, dataset.dtype, dataset.chunks
        n_stored = dataset.id.get_storage_size() or dataset.nbytes
    found = _columns(shape, dtype)
    selection = select_columns(found, data)
    if not shape[0]:
        refuse_empty(data.source)
    positions = None if dtype.names else tuple(column_positions(selection.fields, found).tolist())
    reader = _Hdf5Reader(place, name, selection.fields, positions, selection.block_dtype)
    unit = storage[0] if storage else 1
    wanted = policy.rows(data, shape[0], len(selection.fields))
    pieces = list(cut(shape[0], max(1, wanted // unit) * unit))
    chunks = Chunks(reader, pieces, list(map(len, pieces)), (place.source, name, place.version()))
    return Source(place, "hdf5", selection, chunks, shape[0], max(map(len, pieces)), n_stored)


def _library() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise UserError(
            'data.source: HDF5 files need the package h5py, which is not installed: pip install "gmm-dask[hdf5]".'
        ) from None
    return h5py  # type: ignore[no-any-return, unused-ignore]


@contextmanager
def _opened(place: Place) -> Iterator[Any]:
    """The open file; raises :class:`UserError` if it is not whole."""
    h5py = _library()
    with place.reading():
        try:
            if place.is_local:
                with h5py.File(place.path, "r") as file:
                    yield file
            else:
                with place.fs.open(place.path, "rb") as opened, h5py.File(opened, "r") as file:
                    yield file
        except (OSError, RuntimeError) as error:
            # h5py's own, about the contents, has no number of the operating system's
            if type(error) not in (OSError, RuntimeError) or getattr(error, "errno", None) is not None:
                raise
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"data.source: {place.source} is not a valid HDF5 file: {words}. Copy or write it again."
            ) from None


def _dataset(file: Any, data: DataConfig) -> Any:
    """The dataset that the configuration names, or the only one there is."""
    h5py = _library()
    found: list[str] = []
    file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
    if data.dataset is None:
        if len(found) != 1:
            listing = ", ".join(found[:12]) or "none"
            raise UserError(f"data.dataset: {data.source} has {len(found)} datasets ({listing}). Name the one to read.")
        return file[found[0]]
    name = data.dataset.strip("/")
    if name not in found:
        raise UserError(
            f"data.dataset: {data.source} has no dataset {data.dataset!r}; it has {', '.join(found[:12]) or 'none'}."
        )
    return file[name]


def _columns(shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Column]:
    if dtype.names and len(shape) == 1:
        fields = [(name, dtype[name]) for name in dtype.names]
        return [Column(name, str(kind), numeric_dtype(kind)) for name, kind in fields]
    if len(shape) not in (1, 2):
        raise UserError(
            f"data.dataset: expected a dataset of shape (n_rows, n_columns), or one with named fields; its shape is "
            f"{shape}."
        )
    return numbered_columns(shape, dtype)


@dataclass(frozen=True)
class _Hdf5Reader:
    """Reads rows of a dataset; ``positions`` are its columns, None where they are fields.

    The file is opened for each piece: an open one can neither be copied to other processes nor survives a change.
    """

    place: Place
    name: str
    fields: tuple[str, ...]
    positions: tuple[int, ...] | None
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.fields)), dtype=self.dtype)
        with _opened(self.place) as file:
            values = file[self.name][piece.start : piece.stop]
        if len(values) < len(piece):
            raise UserError(f"data.source: {self.place.source} was changed while it was read. Run the job again.")
        if self.positions is None:
            for i, name in enumerate(self.fields):
                block[:, i] = values[name]
        else:
            block[:] = values.reshape(len(piece), -1)[:, list(self.positions)]
        return block
