"""The rows of a source by group, from one read: in memory, or in files of a folder where they are too many.

The rows of a chunk are sorted by group and stay together, in memory or in one file. A group is a piece of each chunk
that has rows of it, in the order of the data.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import FaultError, UserError
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.map_reduce import map_on_threads
from pipeline.sources.base import Block, Chunks, Selection, Source
from pipeline.sources.group_keys import NO_GROUP, Key, KeyColumn, in_order
from pipeline.sources.retries import read_with_retries

# of a file, or in memory; Path where the rows of a chunk are in a file
Stored = Block | Path
Array = NDArray[np.float64]
# bytes of a piece in the table of pieces: its group, its chunk, where it begins and ends; twice while it is sorted
PIECE_BYTES = 2 * 4 * 8


@dataclass(frozen=True, eq=False)
class _Chunk:
    """The rows of a chunk, sorted by group: ``stops`` are where the rows of each key end; those without are left out.

    ``unusable`` (n_fields,) counts the values of each field that are not finite.
    """

    keys: tuple[Key, ...]
    stops: NDArray[np.int64]
    rows: Stored
    n_rows: int
    unusable: NDArray[np.int64]
    digest: bytes


@dataclass(frozen=True, eq=False)
class Segment:
    """Some rows of one group: consecutive ones of the sorted rows of a chunk."""

    stored: Stored
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class SegmentReader:
    """Reads rows of a group, given as segments of it, as a source reads a piece."""

    selection: Selection

    def read(self, piece: Sequence[Segment]) -> Block:
        """Return the rows of some segments, (n_rows, n_fields)."""
        parts = [self._block(segment) for segment in piece]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _block(self, segment: Segment) -> Block:
        if isinstance(segment.stored, np.ndarray):
            return segment.stored[segment.start : segment.stop]
        dtype, width = self.selection.block_dtype, len(self.selection.fields)
        count = len(segment) * width
        # not as a memory map, whose pages would count as this process's memory
        found = np.fromfile(segment.stored, dtype, count, offset=segment.start * width * dtype.itemsize)
        if len(found) < count:
            raise FaultError(f"data.cache: {segment.stored} was cut short by another program. Run the job again.")
        return found.reshape(-1, width)


@dataclass(frozen=True, eq=False)
class Partition:
    """The rows of a source by group.

    Attributes
    ----------
    keys : tuple of int or str
        Of the groups, in their order.
    n_rows : ndarray of shape (n_groups,)
        Rows of each group.
    n_without : int
        Rows without a group.
    chunk_rows : tuple of int
        Rows of each chunk of the data.
    unusable : ndarray of shape (n_fields,)
        How many values of each field are not finite, over all rows with a group.
    digest : str
        A hash of all rows and their groups.
    """

    keys: tuple[Key, ...]
    n_rows: NDArray[np.int64]
    n_without: int
    chunk_rows: tuple[int, ...]
    unusable: NDArray[np.int64]
    digest: str
    selection: Selection
    _chunks: Sequence[_Chunk]
    # by group: where its pieces begin in the table (chunk, start, stop), in the order of chunks
    _first: NDArray[np.int64]
    _pieces: NDArray[np.int64]

    @property
    def n_pieces(self) -> int:
        """How many pieces the rows of all groups are in."""
        return len(self._pieces)

    def chunks(self, group: int, n_bytes: int) -> Chunks:
        """Return the rows of a group, by its position, in chunks of at least so many bytes but for the last one."""
        mine = self._pieces[self._first[group] : self._first[group + 1]].tolist()
        wanted = max(1, n_bytes // (self.selection.block_dtype.itemsize * len(self.selection.fields)))
        pieces: list[list[Segment]] = [[]]
        for number, start, stop in mine:
            if sum(map(len, pieces[-1])) >= wanted:
                pieces.append([])
            pieces[-1].append(Segment(self._chunks[number].rows, start, stop))
        lengths = [sum(map(len, piece)) for piece in pieces]
        return Chunks(SegmentReader(self.selection), pieces, lengths, (self.digest, group, n_bytes))

    def rows(self, group: int) -> tuple[NDArray[np.floating[Any]], Array | None]:
        """Return the rows of a group (n_rows, n_features), in the order of the data, and their weights or None."""
        chunks = self.chunks(group, sys.maxsize)
        block = chunks.reader.read(chunks.pieces[0])
        if self.selection.weights is None:
            return block, None
        return np.ascontiguousarray(block[:, :-1], dtype=self.selection.dtype), np.ascontiguousarray(block[:, -1])


def partition_rows(
    source: Source,
    keys: KeyColumn,
    folder: Path | None = None,
    on_chunk: Callable[[int], None] = lambda n_rows: None,
    *,
    keep: bool = True,
) -> Partition:
    """Read a source once, and take its rows apart by group.

    Parameters
    ----------
    source : Source
    keys : KeyColumn
    folder : Path, optional
        Where the rows go; without it they stay in memory.
    on_chunk : callable
        Is called with the number of rows after each chunk.
    keep : bool
        Whether the rows are kept; without, only what is told of them is found out.

    Raises
    ------
    UserError
        If the rows and the column of groups are not of the same number, or the column is not of groups.
    FaultError
        If the disk fails.
    """

    def read(number: int) -> _Chunk:
        found = _sorted_chunk(source, keys, number)
        if not keep:
            return _with_rows(found, np.empty((0, len(source.selection.fields)), source.selection.block_dtype))
        return found if folder is None else _with_rows(found, _written(folder / f"{number}.rows", found.rows))

    source.reads.add(len(source.chunks.pieces))
    chunks = []
    for chunk in map_on_threads(read, range(len(source.chunks.pieces))):
        chunks.append(chunk)
        on_chunk(chunk.n_rows)
    return _joined(chunks, source.selection)


def _sorted_chunk(source: Source, keys: KeyColumn, number: int) -> _Chunk:
    block, found = read_with_retries(source.chunks.reader.read, source.chunks.pieces[number]), keys(number)
    if len(block) != len(found.codes):
        raise UserError(
            f"data.source: {source.path} was changed while it was read: a chunk has {len(block):,} rows, and "
            f"{len(found.codes):,} in the column {keys.by!r}. Run the job again when nobody writes to the data."
        )
    digest = hashlib.sha256(np.ascontiguousarray(block))
    digest.update(np.ascontiguousarray(found.codes))
    digest.update(repr(found.keys).encode())
    order = np.argsort(found.codes, kind="stable")
    n_without = int(np.count_nonzero(found.codes == NO_GROUP))
    rows = np.ascontiguousarray(block[order[n_without:]])
    stops = np.cumsum(np.bincount(found.codes[found.codes != NO_GROUP], minlength=len(found.keys)))
    unusable = np.count_nonzero(~np.isfinite(rows), axis=0) if not usable_rows(rows, None).all() else 0
    counts = np.broadcast_to(np.asarray(unusable, np.int64), rows.shape[1])
    return _Chunk(found.keys, stops.astype(np.int64), rows, len(block), counts, digest.digest())


def _with_rows(chunk: _Chunk, rows: Stored) -> _Chunk:
    return _Chunk(chunk.keys, chunk.stops, rows, chunk.n_rows, chunk.unusable, chunk.digest)


def _written(path: Path, rows: Stored) -> Path:
    assert isinstance(rows, np.ndarray)
    try:
        rows.tofile(path)
    except OSError as error:
        raise FaultError(
            f"data.cache: cannot write the rows by group to {path}: {error.strerror}. Free some space there, or "
            "set data.cache to a folder on a larger disk, and run the job again: it resumes with the groups that are "
            "missing."
        ) from error
    return path


def _joined(chunks: Sequence[_Chunk], selection: Selection) -> Partition:
    keys = in_order({key for chunk in chunks for key in chunk.keys})
    position = {key: i for i, key in enumerate(keys)}
    table = np.concatenate([_pieces_of(i, chunk, position) for i, chunk in enumerate(chunks)])
    table = table[np.argsort(table[:, 0], kind="stable")]
    first = np.searchsorted(table[:, 0], np.arange(len(keys) + 1))
    n_rows = np.bincount(table[:, 0], weights=table[:, 3] - table[:, 2], minlength=len(keys)).astype(np.int64)
    total = sum(chunk.n_rows for chunk in chunks)
    return Partition(
        keys=tuple(keys),
        n_rows=n_rows,
        n_without=total - int(n_rows.sum()),
        chunk_rows=tuple(chunk.n_rows for chunk in chunks),
        unusable=np.sum([chunk.unusable for chunk in chunks], axis=0),
        digest=_hash_of(chunk.digest for chunk in chunks),
        selection=selection,
        _chunks=chunks,
        _first=first,
        _pieces=np.ascontiguousarray(table[:, 1:]),
    )


def _pieces_of(number: int, chunk: _Chunk, position: dict[Key, int]) -> NDArray[np.int64]:
    """Return a line for each group of a chunk: the group, the chunk, where its rows begin and end."""
    groups = np.array([position[key] for key in chunk.keys], dtype=np.int64)
    starts = np.concatenate([[0], chunk.stops[:-1]]).astype(np.int64) if len(groups) else chunk.stops
    table = np.stack([groups, np.full(len(groups), number), starts, chunk.stops], axis=1)
    return table[table[:, 3] > table[:, 2]]


def _hash_of(digests: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for digest in digests:
        found.update(digest)
    return found.hexdigest()
