"""HDF5 files: a dataset of shape (n_rows, n_columns), or one with a named field per column, read with h5py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import HDF5
from pipeline.sources.base import (
    Block,
    ChunkPolicy,
    Column,
    Source,
    Span,
    column_positions,
    numbered_columns,
    numeric_dtype,
    select_columns,
)
from pipeline.sources.location import Location


def open_hdf5(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a dataset of an HDF5 file; see :func:`pipeline.sources.open_source`."""
    with _opened(location) as file:
        dataset = _dataset(file, data)
        name, shape, dtype, storage = dataset.name, dataset.shape, dataset.dtype, dataset.chunks
        n_stored = dataset.id.get_storage_size() or dataset.nbytes
    found = _columns(f"{name} of {data.source}", shape, dtype)
    selection = select_columns(found, data)
    positions = None if dtype.names else tuple(column_positions(selection.fields, found).tolist())
    reader = _Hdf5Reader(location, name, selection.fields, positions, selection.block_dtype)
    unit = storage[0] if storage else 1
    wanted = policy.rows(data, shape[0], len(selection.fields))
    return Source.of_rows(
        location,
        HDF5,
        selection,
        reader,
        n_rows=shape[0],
        step=max(1, wanted // unit) * unit,
        identity=(location.source, name, location.version()),
        bytes_per_pass=n_stored,
    )


def _library() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise UserError(
            'data.source: HDF5 files need the package h5py, which is not installed: pip install "gmm-dask[hdf5]".'
        ) from None
    return h5py  # type: ignore[no-any-return, unused-ignore]


@contextmanager
def _opened(location: Location) -> Iterator[Any]:
    """The open file; raises :class:`UserError` if it is not whole."""
    h5py = _library()
    with location.reading():
        try:
            if location.is_local:
                with h5py.File(location.path, "r") as file:
                    yield file
            else:
                with location.fs.open(location.path, "rb") as opened, h5py.File(opened, "r") as file:
                    yield file
        except (OSError, RuntimeError) as error:
            # h5py raises these very types, without an errno, for contents that are not valid
            if type(error) not in (OSError, RuntimeError) or getattr(error, "errno", None) is not None:
                raise
            words = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"data.source: {location.source} is not a valid HDF5 file: {words}. Copy or write it again."
            ) from None


def _dataset(file: Any, data: DataConfig) -> Any:
    """Return the dataset that the configuration names, or the only one in the file."""
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


def _columns(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Column]:
    if dtype.names and len(shape) == 1:
        fields = [(name, dtype[name]) for name in dtype.names]
        return [Column(name, str(kind), numeric_dtype(kind)) for name, kind in fields]
    if len(shape) not in (1, 2):
        raise UserError(
            f"data.dataset: expected a dataset of shape (n_rows, n_columns), or one with named fields; the shape of "
            f"{where} is {shape}."
        )
    return numbered_columns(shape, dtype)


@dataclass(frozen=True)
class _Hdf5Reader:
    """Reads rows of a dataset; ``positions`` are its columns, None where they are fields.

    The file is opened for each piece, as an open one cannot be sent to other processes and does not notice changes.
    """

    location: Location
    name: str
    fields: tuple[str, ...]
    positions: tuple[int, ...] | None
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.fields)), dtype=self.dtype)
        with _opened(self.location) as file:
            values = file[self.name][piece.start : piece.stop]
        if len(values) < len(piece):
            raise UserError(f"data.source: {self.location.source} was changed while it was read. Run the job again.")
        if self.positions is None:
            for i, name in enumerate(self.fields):
                block[:, i] = values[name]
        else:
            block[:] = values.reshape(len(piece), -1)[:, list(self.positions)]
        return block
