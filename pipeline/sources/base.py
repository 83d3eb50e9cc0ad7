"""What all formats share: the source, the choice of its columns, its chunks, and the lazy array over them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from gmm_dask.conventions import Encoding, date_units, decoded_dtype, read_encoding
from gmm_dask.errors import UserError
from gmm_dask.formatting import did_you_mean
from gmm_dask.memory import CHUNK_COPIES, reading_bytes
from pipeline.config.data import DataConfig
from pipeline.config.formats import Format
from pipeline.sources.location import Location
from pipeline.sources.preparation import Preparation
from pipeline.sources.retries import read_with_retries

if TYPE_CHECKING:
    import dask.array as da

    from pipeline.sources.grids.boxes import Grid

Block = NDArray[np.floating[Any]]
PieceIn = TypeVar("PieceIn", contravariant=True)

# columns that a note lists by name
LISTED = 12
# defaults where no job sets them: bytes of a chunk as float64, and of one that a storage format imposes
CHUNK_BYTES = 16 * 2**20
GROUP_BYTES = 128 * 2**20
WORTHWHILE_ROWS = 100_000
# where whole rows are read for some of their columns, so many bytes of them are held at a time
READ_BYTES = 8 * 2**20
# larger chunks save nothing, and fewer chunks than this leave threads idle
MAX_ROWS = 1_000_000
MIN_CHUNKS = 16
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


@dataclass
class ReadCount:
    """Chunks of a source that were read since the count was last taken."""

    chunks: int = 0

    def add(self, n_chunks: int) -> None:
        """Count chunks that are read."""
        self.chunks += n_chunks

    def take(self) -> int:
        """Return the count, and begin a new one."""
        taken, self.chunks = self.chunks, 0
        return taken


@dataclass(frozen=True, eq=False)
class Source:
    """Rows that are read when they are computed.

    Attributes
    ----------
    location : Location
    format : Format
    selection : Selection
        The columns that are read.
    chunks : Chunks
    n_rows : int or None
        None where only a read of the data can tell (CSV, and rows that a filter chooses).
    chunk_rows : int
        Rows of the largest chunk; where a read must tell, an estimate on the large side: of filtered rows the number
        before the filter.
    bytes_per_pass : int
        Bytes of the columns that one pass reads; of Zarr arrays before compression.
    read_bytes : int
        What the read of the largest chunk holds beside the chunk, such as lines of text or compressed columns.
    decodes : int
        How often a pass decodes a storage chunk or row group: more than once if it is too large to be one chunk.
    reads : ReadCount
        Counts what is read, in memory or by a pass, at the place that starts the read.
    file_chunks : tuple of (str, int)
        Path of each of several files, and the number of its first chunk; empty where the data are one file or store.
    version : int or None
        Of a table, the one that is read; None where the data have no versions.
    grid : Grid or None
        The one that the rows lie on, if they do.
    """

    location: Location
    format: Format
    selection: Selection
    chunks: Chunks
    n_rows: int | None
    chunk_rows: int
    bytes_per_pass: int
    read_bytes: int
    decodes: int = 1
    reads: ReadCount = field(default_factory=ReadCount)
    file_chunks: tuple[tuple[str, int], ...] = ()
    version: int | None = None
    grid: Grid | None = None

    @classmethod
    def of_rows(
        cls,
        location: Location,
        format: Format,
        selection: Selection,
        reader: Reader[Span],
        *,
        n_rows: int,
        step: int,
        identity: tuple[Any, ...],
        bytes_per_pass: int,
        read_bytes: int,
        unit: int = 1,
    ) -> Source:
        """Return a source of a known number of rows, in chunks of ``step`` rows, which are stored in units of rows."""
        pieces = list(cut(n_rows, step))
        chunks = Chunks(reader, pieces, list(map(len, pieces)), identity)
        sizes = n_rows, len(pieces[0]), bytes_per_pass, read_bytes
        return cls(location, format, selection, chunks, *sizes, decodes=math.ceil(unit / step))

    @property
    def path(self) -> str:
        """Path or URL of the data, as in the configuration."""
        return self.location.source

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the array's columns."""
        return self.selection.columns

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user about columns that were left out, and about reads that take long."""
        if self.decodes == 1:
            return self.selection.notes
        note = (
            f"row groups or storage chunks are decoded up to {self.decodes} times a pass, since they are larger than a "
            "chunk: those of fewer rows are faster"
        )
        return (*self.selection.notes, note)

    @property
    def array(self) -> da.Array:
        """Rows (n_rows, n_columns), one task per chunk, float32 if every column is; a chunk's length may be unknown."""
        return self._arrays[0]

    @property
    def weights(self) -> da.Array | None:
        """Weights (n_rows,), float64, chunked like the rows; None if the job has none."""
        return self._arrays[1]

    @cached_property
    def _arrays(self) -> tuple[da.Array, da.Array | None]:
        return lazy_rows(self.chunks, self.selection)

    def prepared(
        self, preparation: Preparation, lengths: Sequence[float] | None = None
    ) -> tuple[da.Array, da.Array | None]:
        """Rows and weights as they are fitted, prepared as they are read.

        Parameters
        ----------
        preparation : Preparation
        lengths : sequence of float
            Rows that are left of each chunk, None where they are not known. Chunks of which none is left are not
            read.
        """
        if lengths is None:
            lengths = [math.nan] * len(self.chunks.pieces) if preparation.drop else self.chunks.lengths
        kept = [(piece, n) for piece, n in zip(self.chunks.pieces, lengths, strict=True) if n]
        pieces, lengths = zip(*kept, strict=True)
        return lazy_rows(replace(self.chunks, pieces=pieces, lengths=lengths), self.selection, preparation)

    def file_starts(self, lengths: Sequence[float]) -> tuple[tuple[str, int], ...]:
        """Return the path of each file, and the number of its first row, where chunks have so many rows."""
        starts = first_rows([*map(int, lengths), 0])
        return tuple((path, starts[chunk]) for path, chunk in self.file_chunks or ((self.path, 0),))

    def counted(self) -> Source:
        """Return the source with the rows of each chunk, which are read to count them if they are not known."""
        if self.n_rows is not None:
            return self
        self.reads.add(len(self.chunks.pieces))
        counts = [read_with_retries(self.chunks.reader.count_rows, piece) for piece in self.chunks.pieces]
        return replace(self, n_rows=sum(counts), chunks=replace(self.chunks, lengths=counts))

    def take_bytes_read(self) -> int:
        """Return the bytes that were read since the last call."""
        return round(self.bytes_per_pass * self.reads.take() / len(self.chunks.pieces))

    def first_rows(self) -> tuple[int, ...]:
        """Return the number of each chunk's first row; where lengths are unknown, this takes a read."""
        return first_rows([int(length) for length in self.counted().chunks.lengths])


@dataclass(frozen=True)
class Column:
    """A column that a source has.

    Attributes
    ----------
    name : str
    type : str
        Name of the type in the format, for messages.
    dtype : numpy dtype or None
        None if the column is not numeric.
    offered : bool
        Whether it is selected when the configuration names no columns.
    role : str
        What a column is that is not offered, for messages.
    """

    name: str
    type: str
    dtype: np.dtype[Any] | None
    offered: bool = True
    role: str = "an index"


class MissingColumnsError(UserError):
    """Columns that the configuration names and the data lack.

    Attributes
    ----------
    columns : tuple of str
    """

    def __init__(self, message: str, columns: Sequence[str]) -> None:
        super().__init__(message)
        self.columns = tuple(columns)


@dataclass(frozen=True)
class Selection:
    """The columns that a job reads.

    Attributes
    ----------
    columns : tuple of str
        To cluster on.
    weights : str or None
    dtype : numpy dtype
        Of the rows: float32 if every column is, else float64.
    notes : tuple of str
        Messages for the user about columns that were left out.
    """

    columns: tuple[str, ...]
    weights: str | None
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all columns that are read: those to cluster on, then the weights."""
        return self.columns if self.weights is None else (*self.columns, self.weights)

    @property
    def block_dtype(self) -> np.dtype[Any]:
        """Dtype of a block as read: float64 with weights, which may need it."""
        return self.dtype if self.weights is None else np.dtype(np.float64)


@dataclass(frozen=True)
class Span:
    """A range of rows, or of bytes: from ``start`` to ``stop``, which is excluded."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Reader(Protocol[PieceIn]):
    """Reads one piece of a source; each task of the graph holds it."""

    def read(self, piece: PieceIn) -> Block:
        """Return the piece's rows, (n_rows, n_fields), with the selection's fields in order."""


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of a source, each read by one task.

    Attributes
    ----------
    reader : Reader
        Reads a piece; where lengths are unknown it has a method ``count_rows``, too.
    pieces : sequence
        One for each chunk.
    lengths : sequence of float
        Rows of each piece; NaN where unknown.
    identity : tuple
        What distinguishes these data from others: files with their sizes and times, and what their headers say.
    """

    reader: Any
    pieces: Sequence[Any]
    lengths: Sequence[float]
    identity: tuple[Any, ...]


# -- columns -------------------------------------------------------------------------------------------------


def select_columns(found: Sequence[Column], data: DataConfig) -> Selection:
    """Select the columns that the configuration names, or all numeric ones.

    Raises
    ------
    MissingColumnsError
        If a named column does not exist.
    UserError
        If one is not numeric, or if none is.
    """
    by_name = {column.name: column for column in found}
    if data.weights is not None:
        _require_numeric((data.weights,), by_name, "data.weights", data.source)
    if data.columns is None:
        others = data.weights, data.by
        chosen = [c for c in found if c.dtype is not None and c.offered and c.name not in others]
    else:
        chosen = _require_numeric(data.columns, by_name, "data.columns", data.source)
    if not chosen:
        listing = ", ".join(f"{column.name} ({column.type})" for column in found) or "no columns at all"
        raise UserError(f"data.source: {data.shown} has no numeric columns to cluster on; it has {listing}.")
    _refuse_repeated(found, [*(column.name for column in chosen), data.weights], data.source)
    single = all(c.dtype is not None and c.dtype.newbyteorder("=") == np.float32 for c in chosen)
    dtype = np.dtype(np.float32 if single else np.float64)
    notes = _left_out(found, data) if data.columns is None else ()
    return Selection(tuple(column.name for column in chosen), data.weights, dtype, notes)


def _refuse_repeated(found: Sequence[Column], chosen: Sequence[str | None], path: str) -> None:
    counts = Counter(column.name for column in found)
    repeated = [name for name in chosen if name is not None and counts[name] > 1]
    if repeated:
        raise UserError(
            f"data.source: {path} has {counts[repeated[0]]} columns {repeated[0]!r}. Rename them, or list others in "
            "data.columns."
        )


def _left_out(found: Sequence[Column], data: DataConfig) -> tuple[str, ...]:
    """Return the messages about columns that are only selected by name."""
    others = [column for column in found if column.name not in (data.weights, data.by)]
    reasons = {"not numeric": [f"{column.name} ({column.type})" for column in others if column.dtype is None]}
    for column in others:
        if column.dtype is not None and not column.offered:
            reasons.setdefault(column.role, []).append(column.name or "a column without a name")
    return tuple(
        f"left out, {reason}: {_first_few(names)}; data.columns lists those to cluster on"
        for reason, names in reasons.items()
        if names
    )


def _first_few(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _require_numeric(names: Sequence[str], by_name: dict[str, Column], key: str, path: str) -> list[Column]:
    missing = [name for name in names if name not in by_name]
    if missing:
        hint = did_you_mean(missing[0], by_name)
        what = f"column {missing[0]!r}{hint}" if len(missing) == 1 else f"columns {', '.join(map(repr, missing))}"
        raise MissingColumnsError(f"{key}: {path} has no {what}; its columns are {', '.join(by_name)}.", missing)
    for name in names:
        if by_name[name].dtype is None:
            numeric = ", ".join(c.name for c in by_name.values() if c.dtype is not None) or "none"
            raise UserError(
                f"{key}: the column {name!r} of {path} is not numeric ({by_name[name].type}); the numeric columns are "
                f"{numeric}."
            )
    return [by_name[name] for name in names]


def numeric_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype if its values are real numbers or booleans, else None."""
    return dtype if dtype.kind in "fiub" else None


def stored_column(name: str, dtype: np.dtype[Any], attributes: Mapping[str, Any]) -> Column:
    """Return a column whose numbers are stored with attributes; dates are no numbers."""
    if units := date_units(attributes):
        return Column(name, units, None)
    return Column(name, str(dtype), decoded_dtype(attributes, dtype) if numeric_dtype(dtype) else None)


def stored_encoding(attributes: Mapping[str, Any], dtype: np.dtype[Any], where: str) -> Encoding:
    """Return how the numbers of a column, or of all, are stored; raises :class:`UserError` if that is not clear."""
    try:
        return read_encoding(attributes, dtype, where)
    except UserError as error:
        raise UserError(f"data.source: {error}") from None


def with_decoding_note(selection: Selection, encodings: Sequence[Encoding]) -> Selection:
    """Return a selection whose notes name the columns, of these encodings, that are not read as they are stored."""
    decoded = [name for name, encoding in zip(selection.fields, encodings, strict=True) if not encoding.is_plain]
    return with_decoded(selection, decoded)


def with_decoded(selection: Selection, decoded: Sequence[str]) -> Selection:
    """Return a selection whose notes name columns or variables that are not read as they are stored, if there are."""
    if not decoded:
        return selection
    note = f"decoded by attributes such as scale_factor, _FillValue and valid_range: {_first_few(decoded)}"
    return replace(selection, notes=(*selection.notes, note))


def numbered_columns(
    shape: tuple[int, ...], dtype: np.dtype[Any], attributes: Mapping[str, Any] = NO_ATTRIBUTES
) -> list[Column]:
    """Return the columns of an array of shape (n_rows, n_columns) or (n_rows,): ``x0, x1, ...``."""
    n_columns = shape[1] if len(shape) == 2 else 1
    column = stored_column("", dtype, attributes)
    return [replace(column, name=f"x{i}") for i in range(n_columns)]


def column_positions(names: Sequence[str], found: Sequence[Column]) -> NDArray[np.intp]:
    """Return the positions of the named columns among those found."""
    position = {column.name: i for i, column in enumerate(found)}
    return np.array([position[name] for name in names], dtype=np.intp)


def require_any_row(source: Source, condition: str | None = None) -> None:
    """Raise :class:`UserError` for a source without rows: they can be scored, and no mixture is fitted to them."""
    if source.n_rows == 0:
        raise no_rows(source, condition)


def no_rows(source: Source, condition: str | None) -> UserError:
    """Return the error of a fit to no rows; ``condition`` is the filter that none passes, if there is one."""
    if condition is None:
        return UserError(f"data.source: {source.path} has no rows; a mixture needs at least two.")
    return UserError(
        f"data.filter: {source.path} has no rows that pass ({condition}); a mixture needs at least two. Change the "
        "filter, or set it to null."
    )


# -- chunks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkPolicy:
    """The sizes of automatic chunks.

    Attributes
    ----------
    chunk_bytes : int
        The largest chunk, as float64.
    group_bytes : int
        The largest chunk that a storage format may impose, such as a row group; larger ones are read in parts.
    worthwhile : callable
        ``worthwhile(n_fields)`` is the number of rows whose work outweighs what a task costs.
    """

    chunk_bytes: int = CHUNK_BYTES
    group_bytes: int = GROUP_BYTES
    worthwhile: Callable[[int], int] = lambda n_fields: WORTHWHILE_ROWS

    def rows(self, data: DataConfig, n_rows: int, n_fields: int, read_bytes: float = 0.0) -> int:
        """Return the rows of a chunk: as configured; or worth a task, in enough chunks, within the bytes.

        ``read_bytes`` are those that a read holds beside the chunk, for each row.
        """
        if data.chunk_rows != "auto":
            return data.chunk_rows
        wanted = max(self.worthwhile(n_fields), min(MAX_ROWS, math.ceil(n_rows / MIN_CHUNKS)))
        row_bytes = reading_bytes(8 * n_fields, math.ceil(read_bytes)) / CHUNK_COPIES
        return max(1, min(wanted, int(self.chunk_bytes // row_bytes)))

    def largest(self, data: DataConfig, n_rows: int, n_fields: int) -> int:
        """Return the most rows of a stored unit, such as a row group, that is read as one chunk."""
        wanted = self.rows(data, n_rows, n_fields)
        if data.chunk_rows != "auto":
            return wanted
        return max(wanted, self.group_bytes // (8 * n_fields), 1)

    def stored(self, data: DataConfig, n_rows: int, n_fields: int, unit: int) -> int:
        """Return the rows of a chunk where ``unit`` rows are stored together: whole units, or a part of a large one."""
        wanted = self.rows(data, n_rows, n_fields)
        if unit <= wanted:
            return wanted // unit * unit
        parts = math.ceil(unit / max(wanted, self.group_bytes // (8 * n_fields)))
        return math.ceil(unit / parts)


def spans_read(piece: Span, row_bytes: int, unit: int = 1) -> Iterator[Span]:
    """Yield the spans of a piece in which it is read: whole storage units, in about :data:`READ_BYTES`."""
    step = max(1, READ_BYTES // (row_bytes * unit)) * unit
    starts = [piece.start, *range(piece.start // step * step + step, piece.stop, step)]
    yield from itertools.starmap(Span, itertools.pairwise([*starts, piece.stop]))


def first_rows(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the number of the first row of each of consecutive parts, which have so many rows."""
    return 0, *itertools.accumulate(counts[:-1])


def cut(length: int, step: int) -> Iterator[Span]:
    """Yield consecutive spans of ``step``, the last one shorter; an empty one where there is nothing to cut."""
    for start in range(0, max(1, length), step):
        yield Span(start, min(start + step, length))


# -- the lazy array ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _ReadRows:
    """The task that reads one chunk; named so that a dashboard shows ``read-chunk``."""

    reader: Any
    selection: Selection
    preparation: Preparation

    def __call__(self, piece: Any) -> Any:
        block = read_with_retries(self.reader.read, piece)
        if self.selection.weights is None:
            return self.preparation.chunk(block)[0]
        # a copy: the rows must not keep the column of weights alive in their stride
        rows = np.ascontiguousarray(block[:, :-1], dtype=self.selection.dtype)
        return self.preparation.chunk(rows, np.ascontiguousarray(block[:, -1]))


def lazy_rows(
    chunks: Chunks, selection: Selection, preparation: Preparation | None = None
) -> tuple[da.Array, da.Array | None]:
    """The rows of a source, and their weights, as Dask arrays of one task a chunk."""
    import dask.array as da

    preparation = preparation or Preparation()
    transform = preparation.transform
    how = [step.kind for step in transform.steps], transform.arrays(), preparation.drop, preparation.gaps
    token = tokenize(chunks.pieces, selection, *chunks.identity, *how)
    name = f"read-chunk-{token}"
    read = _ReadRows(chunks.reader, selection, preparation)
    lengths = tuple(chunks.lengths), (len(preparation.transform.names(selection.columns)),)
    pieces = list(enumerate(chunks.pieces))
    if selection.weights is None:
        tasks: dict[Hashable, Any] = {(name, i, 0): (read, piece) for i, piece in pieces}
        graph = HighLevelGraph.from_collections(name, tasks)
        return da.Array(graph, name, chunks=lengths, dtype=selection.dtype), None
    layers: dict[str, dict[Hashable, Any]] = {name: {(name, i): (read, piece) for i, piece in pieces}}
    rows, weights = f"rows-{token}", f"weights-{token}"
    layers[rows] = {(rows, i, 0): (itemgetter(0), (name, i)) for i, _ in pieces}
    layers[weights] = {(weights, i): (itemgetter(1), (name, i)) for i, _ in pieces}
    graph = HighLevelGraph(layers, {name: set(), rows: {name}, weights: {name}})
    return (
        da.Array(graph, rows, chunks=lengths, dtype=selection.dtype),
        da.Array(graph, weights, chunks=lengths[:1], dtype=np.dtype(np.float64)),
    )
