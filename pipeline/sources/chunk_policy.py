"""Sizes of chunks: large enough to outweigh the cost of a task, small enough for the memory, equal after a resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config.data import DataConfig

# defaults where no job sets them: bytes of a chunk as float64, and of one that a storage format imposes
CHUNK_BYTES = 16 * 2**20
GROUP_BYTES = 128 * 2**20
WORTHWHILE_ROWS = 100_000
# larger chunks save nothing, and fewer chunks than this leave threads idle
MAX_ROWS = 1_000_000
MIN_CHUNKS = 16


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

    def rows(self, data: DataConfig, n_rows: int, n_fields: int) -> int:
        """Return the rows of a chunk: as configured; or worth a task, in enough chunks, within the bytes."""
        if data.chunk_rows != "auto":
            return data.chunk_rows
        wanted = max(self.worthwhile(n_fields), min(MAX_ROWS, math.ceil(n_rows / MIN_CHUNKS)))
        return max(1, min(wanted, self.chunk_bytes // (8 * n_fields)))

    def largest(self, data: DataConfig, n_rows: int, n_fields: int) -> int:
        """Return the most rows of a stored unit, such as a row group, that is read as one chunk."""
        wanted = self.rows(data, n_rows, n_fields)
        if data.chunk_rows != "auto":
            return wanted
        return max(wanted, self.group_bytes // (8 * n_fields), 1)
