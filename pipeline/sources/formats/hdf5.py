"""HDF5 files: a dataset of shape (n_rows, n_columns), or one with a named field per column, read with h5py."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
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

_COPY = "Copy the values into the file (h5repack does), and use the copy."


def open_hdf5(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a dataset of an HDF5 file; see :func:`pipeline.sources.open_source`."""
    with _opened(location) as file:
        dataset = _dataset(file, data)
        _require_own_values(dataset, location)
        name, shape, dtype, storage = dataset.name, dataset.shape, dataset.dtype, dataset.chunks
        n_stored = dataset.id.get_storage_size() or dataset.nbytes
        fields = _fields(dataset) if dtype.names and len(shape) == 1 else None
    found = _array_columns(f"{name} of {data.shown}", shape, dtype) if fields is None else [one for one, _ in fields]
    selection = select_columns(found, data)
    positions = column_positions(selection.fields, found).tolist()
    places = tuple(positions) if fields is None else tuple(fields[i][1] for i in positions)
    reader = _Hdf5Reader(location, name, places, selection.block_dtype)
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
            raise UserError(f"data.dataset: {data.shown} has {len(found)} datasets ({listing}). Name the one to read.")
        return file[found[0]]
    name = data.dataset.strip("/")
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise UserError(f"data.dataset: {name} of {data.shown} is a link to another file. Name that file instead.")
    if name not in found:
        raise UserError(
            f"data.dataset: {data.shown} has no dataset {data.dataset!r}; it has {', '.join(found[:12]) or 'none'}."
        )
    return file[name]


def _require_own_values(dataset: Any, location: Location) -> None:
    """Raise :class:`UserError` if values of a dataset lie in files that did not come with its file.

    HDF5 reads any file that a dataset names, as external storage or as a source of a virtual dataset, and reads fill
    values for one that is missing. Sources are accepted in the folder of the file.
    """
    if dataset.external:
        files = ", ".join(repr(name) for name, _, _ in dataset.external)
        raise UserError(
            f"data.dataset: the values of {dataset.name} of {location.source} are external, in {files}, which may be "
            f"any file of this machine. {_COPY}"
        )
    for name, inside in {(one.file_name, one.dset_name) for one in _sources(dataset)}:
        if name == ".":
            _require_own_values(dataset.file[inside], location)
            continue
        folder = Path(location.path).resolve().parent
        file = (folder / name).resolve()
        if not location.is_local or file.parent != folder or not file.is_file():
            raise UserError(
                f"data.dataset: {dataset.name} of {location.source} is virtual, and its source {name!r} is not a file "
                f"in the same folder. {_COPY}"
            )
        with _library().File(file, "r") as source:
            if inside in source:
                _require_own_values(source[inside], replace(location, path=str(file)))


def _sources(dataset: Any) -> Sequence[Any]:
    return dataset.virtual_sources() if dataset.is_virtual else ()


def _array_columns(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[Column]:
    if len(shape) not in (1, 2):
        raise UserError(
            f"data.dataset: expected a dataset of shape (n_rows, n_columns), or one with named fields; the shape of "
            f"{where} is {shape}."
        )
    return numbered_columns(shape, dtype)


# -- named fields --------------------------------------------------------------------------------------------

# a field, and the position in it where it holds several numbers
_Place = tuple[str, int | None]


def _fields(dataset: Any) -> list[tuple[Column, _Place]]:
    """Return the columns of a dataset with named fields, each with its place.

    pandas writes columns of one type as one field, whose attribute ``kind`` has their names, and the index as another,
    which is only selected by name (``DataFrame.to_hdf(format="table")``).
    """
    index = set()
    if "pandas_type" in dataset.parent.attrs:
        index = {"index", *_pickled_names(dataset.parent.attrs.get("levels"))}
    found = []
    for field in dataset.dtype.names:
        kind = dataset.dtype[field]
        names, places = _columns_of_field(dataset, field)
        type_ = _pandas_type(dataset, field) or str(kind.base)
        numeric = numeric_dtype(kind.base) if kind.ndim <= 1 and not _pandas_type(dataset, field) else None
        for name, place in zip(names, places, strict=True):
            found.append((Column(name, type_, numeric, offered=name not in index), place))
    return found


def _columns_of_field(dataset: Any, field: str) -> tuple[list[str], list[_Place]]:
    """Return the names of a field's columns, and their places."""
    kind = dataset.dtype[field]
    if kind.ndim != 1:
        return [field], [(field, None)]
    places: list[_Place] = [(field, i) for i in range(kind.shape[0])]
    names = _pickled_names(dataset.attrs.get(f"{field}_kind"))
    return names if len(names) == len(places) else [f"{field}_{i}" for i in range(len(places))], places


def _pandas_type(dataset: Any, field: str) -> str:
    """Return the type that pandas wrote as other numbers, such as times; empty where numbers are numbers."""
    found = (str(_text(dataset.attrs.get(f"{field}_{key}"))) for key in ("dtype", "meta"))
    return next((text for text in found if text.startswith(("datetime", "timedelta", "category"))), "")


def _pickled_names(value: Any) -> list[str]:
    """Return the strings and numbers in a pickled list, which is read and not run."""
    try:
        steps = list(pickletools.genops(_text(value).encode()))
    except (ValueError, AttributeError):
        return []
    return [str(found) for step, found, _ in steps if step.name in ("UNICODE", "INT")]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


# -- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hdf5Reader:
    """Reads rows of a dataset; ``places`` are the columns' positions, or their fields.

    The file is opened for each piece, as an open one cannot be sent to other processes and does not notice changes.
    """

    location: Location
    name: str
    places: tuple[int | _Place, ...]
    dtype: np.dtype[Any]

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), len(self.places)), dtype=self.dtype)
        with _opened(self.location) as file:
            values = file[self.name][piece.start : piece.stop]
        if len(values) < len(piece):
            raise UserError(f"data.source: {self.location.source} was changed while it was read. Run the job again.")
        rows = values if values.dtype.names else values.reshape(len(piece), math.prod(values.shape[1:]))
        for i, place in enumerate(self.places):
            block[:, i] = _column_of(rows, place)
        return block


def _column_of(rows: Any, place: int | _Place) -> Any:
    if isinstance(place, int):
        return rows[:, place]
    field, position = place
    return rows[field] if position is None else rows[field][:, position]
