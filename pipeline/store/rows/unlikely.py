"""The least likely rows of a store, from the log densities that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.passes.row_outputs import LABEL, LOG_DENSITY
from pipeline.sources.grids.boxes import Grid, choose_box
from pipeline.sources.grids.variables import slices
from pipeline.store.arrays import open_root
from pipeline.store.integrity import reading
from pipeline.store.places import StorePath, place_of
from pipeline.store.rows.grid import read_grid
from pipeline.store.rows.zarr import rows_folder

if TYPE_CHECKING:
    import pyarrow as pa

# rows of a block that is read at once
BLOCK_ROWS = 1 << 20


@dataclass(frozen=True)
class UnlikelyRow:
    """A row of the data that the model finds unlikely.

    Attributes
    ----------
    position : int
        Among all rows of the data, from 0; of a grid, in C order.
    log_density : float
    label : int or None
        Number of its most probable component; None if labels are not stored.
    keys : dict
        Its values in the key columns; of a grid, its coordinates.
    """

    position: int
    log_density: float
    label: int | None
    keys: dict[str, Any] = field(default_factory=dict)


def least_likely_rows(path: StorePath, count: int, keys: Sequence[str] | None = None) -> list[UnlikelyRow]:
    """Return the rows with the lowest log densities, the lowest first; none if log densities are not stored.

    All log densities are read, a block at a time.

    Parameters
    ----------
    path : str or Path
        The result store.
    count : int
        Number of rows.
    keys : sequence of str, optional
        Key columns, where the values of rows lie in Parquet files beside the store; None if they lie in the store.

    Raises
    ------
    DamagedError
        If what is stored of the rows cannot be read.
    """
    found: list[UnlikelyRow] = []
    with reading(path, "rows"):
        for block in _zarr_blocks(path) if keys is None else _parquet_blocks(path, keys):
            found = sorted([*found, *block.least(count)], key=lambda row: (row.log_density, row.position))[:count]
        return found if keys is not None else _with_coordinates(path, found)


def _with_coordinates(path: StorePath, rows: list[UnlikelyRow]) -> list[UnlikelyRow]:
    """Return rows that lie on a grid with their coordinates; others as they are."""
    grid = read_grid(path)
    if grid is None:
        return rows
    return [replace(row, keys=grid.coordinates_of(row.position)) for row in rows]


@dataclass(frozen=True, eq=False)
class _Block:
    """Consecutive rows from a position on."""

    start: int
    log_density: NDArray[np.float64]
    label: NDArray[np.integer[Any]] | None
    keys: dict[str, pa.Array] = field(default_factory=dict)

    def least(self, count: int) -> Iterator[UnlikelyRow]:
        usable = np.flatnonzero(~np.isnan(self.log_density))
        for i in usable[np.argsort(self.log_density[usable], kind="stable")[:count]].tolist():
            keys = {name: column[i].as_py() for name, column in self.keys.items()}
            label = None if self.label is None else int(self.label[i])
            yield UnlikelyRow(self.start + i, float(self.log_density[i]), label, keys)


def _zarr_blocks(path: StorePath) -> Iterator[_Block]:
    group = cast(zarr.Group, open_root(path)["rows"])
    if LOG_DENSITY.name not in group:
        return
    densities = cast(zarr.Array[Any], group[LOG_DENSITY.name])
    labels = cast(zarr.Array[Any], group[LABEL.name]) if LABEL.name in group else None
    start = 0
    # consecutive rows in C order
    box = choose_box(densities.shape, (1,) * densities.ndim, BLOCK_ROWS, BLOCK_ROWS)
    for part in Grid((), densities.shape, box).boxes():
        label = None if labels is None else np.asarray(labels[slices(part.region)]).ravel()
        yield _Block(start, np.asarray(densities[slices(part.region)]).ravel(), label)
        start += len(part)


def _parquet_blocks(path: StorePath, keys: Sequence[str]) -> Iterator[_Block]:
    from pyarrow import parquet

    from pipeline.store.rows.parquet import parts_of

    folder, start = place_of(rows_folder(path)), 0
    for name in parts_of(folder):
        with folder.open(name) as file:
            part = parquet.ParquetFile(file)
            stored = [column for column in (LOG_DENSITY.name, LABEL.name) if column in part.schema_arrow.names]
            if LOG_DENSITY.name not in stored:
                return
            for batch in part.iter_batches(BLOCK_ROWS, columns=[*stored, *keys]):
                values = {column: batch.column(column).to_numpy(zero_copy_only=False) for column in stored}
                columns = {key: batch.column(key) for key in keys}
                yield _Block(start, values[LOG_DENSITY.name], values.get(LABEL.name), columns)
                start += batch.num_rows
