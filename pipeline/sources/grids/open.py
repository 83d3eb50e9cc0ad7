"""A grid as a source of rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gmm_dask.conventions import attribute_text
from gmm_dask.errors import UserError
from gmm_dask.passes.row_outputs import ROW_OUTPUTS
from pipeline.config.data import DataConfig
from pipeline.config.formats import Format
from pipeline.sources.base import (
    ChunkPolicy,
    Chunks,
    Source,
    column_positions,
    select_columns,
    with_decoded,
)
from pipeline.sources.grids.boxes import Grid, choose_box, storage_chunk
from pipeline.sources.grids.columns import Layout, Variables, lay_out
from pipeline.sources.grids.reader import GridReader
from pipeline.sources.grids.variables import Variable
from pipeline.sources.location import Location

# names that arrays and dimensions of row outputs have themselves
RESERVED = frozenset({*ROW_OUTPUTS, "component", "unfinished", "file", "first_row"})


def open_grid(
    found: Variables,
    data: DataConfig,
    location: Location,
    format: Format,
    policy: ChunkPolicy,
    identity: tuple[Any, ...],
    *,
    on_grid: bool = True,
    notes: tuple[str, ...] = (),
) -> Source:
    """Return the variables that a configuration names as a source of rows.

    Parameters
    ----------
    found : dict of Variable
        All that the data have, by their names.
    data : DataConfig
    location : Location
    format : Format
    policy : ChunkPolicy
    identity : tuple
        What distinguishes these data from others.
    on_grid : bool
        Whether what is computed of the rows is stored on the grid; otherwise row by row.
    notes : tuple of str
        What to tell of columns that were left out.

    Raises
    ------
    UserError
        If there are no such variables or dimensions, or no rows and columns can be made of them.
    """
    layout = lay_out(found, data)
    selection = replace(select_columns(layout.columns, data), notes=notes)
    positions = column_positions(selection.fields, layout.columns).tolist()
    owners = dict.fromkeys(layout.owners[i] for i in positions)
    selection = with_decoded(selection, [one.name for one in owners if not all(e.is_plain for e in one.encodings)])
    shape = tuple(layout.sizes.values())
    storage = _storage(layout)
    n_rows, n_fields = math.prod(shape), len(selection.fields)
    box = choose_box(shape, storage, *_rows_of_a_box(data, policy, n_rows, n_fields))
    reader = GridReader.of(layout, positions, selection.block_dtype, box)
    grid = Grid(tuple(layout.sizes), shape, box, _coordinates(found, layout))
    if on_grid:
        _require_free_names(grid, data)
        _require_readable(grid)
    pieces = list(grid.boxes())
    where = (data.source, grid.dims, shape, [variable.shown for variable in layout.variables], *identity)
    return Source(
        location,
        format,
        selection,
        Chunks(reader, pieces, list(map(len, pieces)), where),
        n_rows,
        max(map(len, pieces)),
        bytes_per_pass=sum({id(part.variable): _bytes(part.variable) for part in reader.parts}.values()),
        read_bytes=reader.read_bytes(box),
        decodes=math.prod(math.ceil(stored / size) for stored, size in zip(storage, box, strict=True)),
        grid=grid if on_grid else None,
    )


def _storage(layout: Layout) -> list[int]:
    """Return the shape of a storage chunk in the dimensions of the rows, by the variables that have all of these."""
    whole = [variable for variable in layout.variables if set(layout.sizes) <= set(variable.dims)] or layout.variables
    return [
        storage_chunk([(one.sizes[dim], one.chunk_sizes[dim]) for one in whole if dim in one.dims])
        for dim in layout.sizes
    ]


def _rows_of_a_box(data: DataConfig, policy: ChunkPolicy, n_rows: int, n_fields: int) -> tuple[int, int]:
    return policy.rows(data, n_rows, n_fields), policy.largest(data, n_rows, n_fields)


def _bytes(variable: Variable) -> int:
    return math.prod(variable.shape) * variable.dtype.itemsize


def _coordinates(found: Variables, layout: Layout) -> tuple[Variable, ...]:
    """Return the variables that say where the rows lie.

    These are the indexes of their dimensions, and what the attribute ``coordinates`` of a variable names, as the CF
    conventions have it (section 5).
    """
    named = [attribute_text(variable.attributes, "coordinates").split() for variable in layout.variables]
    names = dict.fromkeys([*layout.sizes, *(name for names in named for name in names)])
    chosen = {variable.name for variable in layout.variables}
    return tuple(
        found[name]
        for name in names
        if name in found and name not in chosen and name not in RESERVED and _lies_on(found[name], layout.sizes)
    )


def _lies_on(variable: Variable, sizes: dict[str, int]) -> bool:
    return bool(variable.dims) and all(sizes.get(dim) == size for dim, size in variable.sizes.items())


def _require_readable(grid: Grid) -> None:
    """Read the coordinates of one dimension, so that one that cannot be read is told before the rows are."""
    for coordinate in grid.coordinates:
        if len(coordinate.dims) == 1:
            coordinate.coordinate_values()


def _require_free_names(grid: Grid, data: DataConfig) -> None:
    taken = [dim for dim in grid.dims if dim in RESERVED]
    if taken:
        raise UserError(
            f"data.variables: {data.shown} has a dimension {taken[0]!r}, which is the name of an array of the result. "
            "Rename it."
        )
