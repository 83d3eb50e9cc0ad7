"""Sizes of chunks: large enough to be worth a task, small enough for the memory, the same when a job goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config.data import DataConfig

# without a job that tells more: a chunk of so many bytes as float64, and what fits a task at most
CHUNK_BYTES = 16 * 2**20
GROUP_BYTES = 128 * 2**20
WORTHWHILE_ROWS = 100_000
# more rows bring nothing, and fewer chunks than this leave threads idle
MOST_ROWS = 1_000_000
CHUNKS_WANTED = 16


def _worthwhile(n_fields: int) -> int:
    return WORTHWHILE_ROWS


@dataclass(frozen=True)
class ChunkPolicy:
    """How large automatic chunks are.

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
    worthwhile: Callable[[int], int] = _worthwhile

    def rows(self, data: DataConfig, n_rows: int, n_fields: int) -> int:
        """Rows that a chunk should have: as configured; or worth a task, not too few to share, and within the bytes."""
        if data.chunk_rows != "auto":
            return data.chunk_rows
        wanted = max(self.worthwhile(n_fields), min(MOST_ROWS, math.ceil(n_rows / CHUNKS_WANTED)))
        return max(1, min(wanted, self.chunk_bytes // (8 * n_fields)))

    def largest(self, data: DataConfig, n_rows: int, n_fields: int) -> int:
        """Rows from which on what is stored as one is read in parts."""
        wanted = self.rows(data, n_rows, n_fields)
        if data.chunk_rows != "auto":
            return wanted
        return max(wanted, self.group_bytes // (8 * n_fields), 1)
