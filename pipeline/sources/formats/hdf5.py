"""HDF5 files, which netCDF-4 files are: a dataset of shape (n_rows, n_columns), or one with a field per column.

They are read with h5py.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gmm_dask.conventions import CONVENTIONS, Encoding
from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.formats import HDF5
from pipeline.sources.base import (
    READ_BYTES,
    Block,
    ChunkPolicy,
    Column,
    Source,
    Span,
    column_positions,
    numbered_columns,
    numeric_dtype,
    select_columns,
    spans_read,
    stored_encoding,
    with_decoding_note,
)
from pipeline.sources.location import Location

# HDF5's cache of storage chunks, of each open dataset
CACHE_BYTES = 8 * 2**20
# columns of an array without storage chunks that lie closer than this many numbers are read together, with the numbers
# between them
_NEAR = 512
# what a listing of nothing says
NOTHING = "none"
_COPY = "Copy the values into the file (h5repack does), and use the copy."


def open_hdf5(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a dataset of a file, or several that are columns or on a grid; see :func:`pipeline.sources.open_source`."""
    if data.variables is not None or location.is_glob:
        return _open_variables(data, location, policy)
    from pipeline.sources.formats.hdf5_grids import columns_of, open_columns

    if data.dataset is None and (columns := columns_of(data, location)):
        return open_columns(columns, data, location, policy)
    with opened_hdf5(location) as file:
        dataset = _dataset(file, data, location)
        require_own_values(dataset, location)
        name, shape, dtype = dataset.name, dataset.shape, dataset.dtype
        storage = tuple(dataset.chunks or (1, _NEAR)[: len(shape)])
        unit_bytes = math.prod(dataset.chunks or (0,)) * dtype.itemsize
        n_stored = dataset.id.get_storage_size() or dataset.nbytes
        attributes = {key: dataset.attrs[key] for key in (*CONVENTIONS, "units") if key in dataset.attrs}
        fields = _fields(dataset) if dtype.names and len(shape) == 1 else None
    where = f"{name} of {data.shown}"
    found = [one for one, _ in fields] if fields else _array_columns(where, shape, dtype, attributes)
    selection = select_columns(found, data)
    encoding = _encoding(attributes, dtype, where, has_fields=bool(fields))
    selection = with_decoding_note(selection, [encoding] * len(selection.fields))
    positions = column_positions(selection.fields, found).tolist()
    if fields is None:
        parts = _array_parts(positions, dtype.itemsize, *storage[1:])
    else:
        parts = _field_parts([fields[i][1] for i in positions], dtype)
    unit = min(storage[0], max(1, shape[0]))
    step = policy.stored(data, shape[0], len(selection.fields), unit)
    return Source.of_rows(
        location,
        HDF5,
        selection,
        _Hdf5Reader(location, name, tuple(parts), unit, selection.block_dtype, encoding),
        n_rows=shape[0],
        step=step,
        identity=(location.source, name, location.version()),
        bytes_per_pass=n_stored,
        # a storage chunk as it is stored and decoded, and what is left of the one before; the rows that are taken of it
        read_bytes=CACHE_BYTES + 3 * unit_bytes + max(READ_BYTES, unit * max(part.row_bytes for part in parts)),
        unit=unit,
    )


def _open_variables(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    from pipeline.sources.formats.hdf5_grids import open_hdf5_grid

    if data.variables is None:
        raise UserError(
            f"data.variables: expected the names of variables for several files ({data.shown}), which are joined along "
            "a dimension of a grid; got none."
        )
    return open_hdf5_grid(data, location, policy)


def _library() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise UserError(
            'data.source: HDF5 files need the package h5py, which is not installed: pip install "gmm-dask[hdf5]".'
        ) from None
    return h5py  # type: ignore[no-any-return, unused-ignore]


@contextmanager
def opened_hdf5(location: Location) -> Iterator[Any]:
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
            remedy = "Copy or write it again"
            if location.read(0, 3) == b"CDF":
                words, remedy = "it is of netCDF's classic format", "Convert it: nccopy -k nc4 OLD NEW"
            raise UserError(f"data.source: {location.source} is not a valid HDF5 file: {words}. {remedy}.") from None


def datasets_of(file: Any) -> list[str]:
    """Return the paths of a file's datasets."""
    h5py = _library()
    found: list[str] = []
    file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
    return found


def _dataset(file: Any, data: DataConfig, location: Location) -> Any:
    """Return the dataset that the configuration names, or the only one in the file beside the scales of dimensions."""
    h5py = _library()
    found = datasets_of(file)
    if data.dataset is None:
        offered = [name for name in found if not file[name].is_scale]
        if len(offered) != 1:
            raise _not_one(offered, data, location)
        return file[offered[0]]
    name = data.dataset.strip("/")
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise UserError(f"data.dataset: {name} of {data.shown} is a link to another file. Name that file instead.")
    if name not in found:
        raise UserError(
            f"data.dataset: {data.shown} has no dataset {data.dataset!r}; it has {', '.join(found[:12]) or 'none'}."
        )
    return file[name]


def _not_one(offered: Sequence[str], data: DataConfig, location: Location) -> UserError:
    """Return the error of a file with several datasets, or none: those with named dimensions may lie on a grid."""
    from pipeline.sources.formats.hdf5_grids import describe_file

    on_grid = describe_file(data, location) if offered else NOTHING
    remedy = "Name the one to read."
    if on_grid != NOTHING:
        remedy = (
            f"Name the one to read; or, of the variables on a grid, {on_grid}, those to cluster on in data.variables, "
            "and the dimensions that are columns in data.feature_dims."
        )
    listing = ", ".join(offered[:12]) or NOTHING
    return UserError(f"data.dataset: {data.shown} has {len(offered)} datasets ({listing}). {remedy}")


def require_own_values(dataset: Any, location: Location, above: tuple[tuple[str, str], ...] = ()) -> None:
    """Raise :class:`UserError` if values of a dataset lie in files that did not come with its file.

    HDF5 reads any file that a dataset names, as external storage or as a source of a virtual dataset, and reads fill
    values for one that is missing. Sources are accepted in the folder of the file, but for datasets ``above``, which
    are made of this one.
    """
    place = str(Path(location.path).resolve()), dataset.name
    if place in above:
        raise UserError(
            f"data.dataset: {dataset.name} of {location.source} is virtual, and one of its own sources. {_COPY}"
        )
    above = (*above, place)
    if dataset.external:
        files = ", ".join(repr(name) for name, _, _ in dataset.external)
        raise UserError(
            f"data.dataset: the values of {dataset.name} of {location.source} are external, in {files}, which may be "
            f"any file of this machine. {_COPY}"
        )
    for name, inside in {(one.file_name, one.dset_name) for one in _sources(dataset)}:
        if name == ".":
            require_own_values(dataset.file[inside], location, above)
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
                require_own_values(source[inside], replace(location, path=str(file)), above)


def _sources(dataset: Any) -> Sequence[Any]:
    return dataset.virtual_sources() if dataset.is_virtual else ()


def _array_columns(
    where: str, shape: tuple[int, ...], dtype: np.dtype[Any], attributes: Mapping[str, Any]
) -> list[Column]:
    if len(shape) not in (1, 2):
        raise UserError(
            f"data.dataset: expected a dataset of shape (n_rows, n_columns), or one with named fields; the shape of "
            f"{where} is {shape}."
        )
    return numbered_columns(shape, dtype, attributes)


def _encoding(attributes: Mapping[str, Any], dtype: np.dtype[Any], where: str, *, has_fields: bool) -> Encoding:
    """Return how the numbers are stored; attributes of a dataset with named fields do not tell of which field."""
    if not has_fields:
        return stored_encoding(attributes, dtype, where)
    if found := [key for key in CONVENTIONS if key in attributes]:
        raise UserError(
            f"data.source: {where} has named fields, and the attributes {', '.join(found)}, which do not say to which "
            "field they belong. Write the values without them: unpacked, with NaN where one is missing."
        )
    return Encoding(np.dtype(np.float64))


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
class _Part:
    """Columns that are read together.

    Attributes
    ----------
    columns : slice or str
        Of an array, or the field of a dataset with named fields.
    places : list of int
        Which of these columns are taken.
    fields : list of int
        Where they go in a block.
    row_bytes : int
        Bytes of a row of these columns.
    """

    columns: slice | str
    places: list[int]
    fields: list[int]
    row_bytes: int


def _array_parts(positions: Sequence[int], itemsize: int, width: int = 1) -> list[_Part]:
    """Return the parts of an array's columns, whose storage chunks are so many columns wide."""
    stored = sorted({position // width for position in positions})
    edges = [0, *(i for i in range(1, len(stored)) if stored[i] > stored[i - 1] + 1), len(stored)]
    parts = []
    for begin, end in pairwise(edges):
        fields = [i for i, position in enumerate(positions) if stored[begin] <= position // width <= stored[end - 1]]
        first, stop = min(positions[i] for i in fields), 1 + max(positions[i] for i in fields)
        places = [positions[i] - first for i in fields]
        parts.append(_Part(slice(first, stop), places, fields, itemsize * (stop - first)))
    return parts


def _field_parts(places: Sequence[_Place], dtype: np.dtype[Any]) -> list[_Part]:
    """Return the parts of named fields: one for each of them."""
    names = dict.fromkeys(name for name, _ in places)
    members = {name: [i for i, place in enumerate(places) if place[0] == name] for name in names}
    return [
        _Part(name, [places[i][1] or 0 for i in fields], fields, dtype[name].itemsize)
        for name, fields in members.items()
    ]


@dataclass(frozen=True)
class _Hdf5Reader:
    """Reads rows of a dataset, part by part of its columns.

    The file is opened for each piece, as an open one cannot be sent to other processes and does not notice changes.

    Attributes
    ----------
    location : Location
    name : str
    parts : tuple of _Part
    unit : int
        Rows of a storage chunk.
    dtype : numpy dtype
        Of a block.
    encoding : Encoding
    """

    location: Location
    name: str
    parts: tuple[_Part, ...]
    unit: int
    dtype: np.dtype[Any]
    encoding: Encoding

    def read(self, piece: Span) -> Block:
        """Return rows ``piece``, (n_rows, n_fields)."""
        block = np.empty((len(piece), sum(len(part.fields) for part in self.parts)), dtype=self.dtype)
        with opened_hdf5(self.location) as file:
            dataset = file[self.name]
            for part in self.parts:
                for span in spans_read(piece, part.row_bytes, self.unit):
                    values = _values(dataset, part, span)
                    if len(values) < len(span):
                        raise self._changed()
                    decoded = self.encoding.decode(values[:, part.places], self.dtype)
                    block[span.start - piece.start : span.stop - piece.start, part.fields] = decoded
        return block

    def _changed(self) -> UserError:
        return UserError(f"data.source: {self.location.source} was changed while it was read. Run the job again.")


def _values(dataset: Any, part: _Part, span: Span) -> Any:
    """Return rows of a part, (n_rows, n_columns)."""
    rows = slice(span.start, span.stop)
    if isinstance(part.columns, str):
        values = dataset.fields(part.columns)[rows]
    else:
        values = dataset[rows] if dataset.ndim == 1 else dataset[rows, part.columns]
    return values.reshape(len(values), math.prod(values.shape[1:]))
