"""Where row outputs are written: arrays of a store, or Parquet files with key columns to join them by."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gmm_dask.errors import UserError
from gmm_dask.passes.row_outputs import IMPUTED, ROW_OUTPUTS
from pipeline import store
from pipeline.config.formats import having
from pipeline.config.job import JobConfig
from pipeline.sources import Source, open_keys
from pipeline.store import RowPlan, RowWriter

if TYPE_CHECKING:
    from pipeline.store.places import Place
    from pipeline.store.rows.parquet import ReadKeys

_OUTPUTS = re.compile(
    "|".join(
        f"{one.name}_([0-9]+|noise)" if one.per_component else one.name
        for one in ROW_OUTPUTS.values()
        if not one.per_feature  # these have the names of the data's columns
    )
)


def require_free_names(config: JobConfig, source: Source) -> None:
    """Raise :class:`UserError` if filled columns (``output.imputed``) would have the name of something beside them."""
    if IMPUTED.name not in config.output.row_outputs:
        return
    if config.output.rows == "parquet":
        if taken := [name for name in source.columns if _OUTPUTS.fullmatch(name)]:
            raise UserError(
                f"output.imputed: the data's column {taken[0]!r} has the name of a row output, and filled columns keep "
                "their names in Parquet files. Rename it in the data, or set output.rows to zarr (when scoring new "
                "rows: give a path that does not end in .parquet)."
            )
        if taken := [name for name in config.output.key_columns if name in source.columns]:
            raise UserError(
                f"output.key_columns: expected none of the columns that output.imputed fills, got {', '.join(taken)}. "
                "Leave them out."
            )
    elif source.grid is not None and "feature" in {*source.grid.dims, *(one.name for one in source.grid.coordinates)}:
        raise UserError(
            "output.imputed: the data have a dimension or a coordinate 'feature', which is that of the filled columns. "
            "Rename it in the data."
        )


def read_keys(config: JobConfig, source: Source) -> ReadKeys | None:
    """Return a function that reads the key columns of a chunk; None if the configuration names none.

    Reads headers only.

    Raises
    ------
    UserError
        If row outputs are to be Parquet files and the data have no key columns, lack one, or name one like an output;
        as :func:`require_free_names`.
    """
    require_free_names(config, source)
    if config.output.rows != "parquet":
        return None
    if source.format.key_opener is None:
        raise UserError(
            f"output.rows: parquet needs data in {having('key_opener')}, and {source.path} is {source.format.label}. "
            "Set output.rows to zarr (when scoring new rows: give a path that does not end in .parquet)."
        )
    keys = config.output.key_columns
    taken = [name for name in keys if _OUTPUTS.fullmatch(name)]
    if taken:
        raise UserError(
            f"output.key_columns: {', '.join(taken)} is the name of a row output. Leave it out, or rename it in the "
            "data."
        )
    return open_keys(source, keys) if keys else None


def row_writer(config: JobConfig, source: Source, plan: RowPlan, path: str) -> RowWriter:
    """Return the writer of arrays in the store, or of Parquet files beside it."""
    if config.output.rows == "zarr":
        return store.ZarrRows(path, plan) if plan.grid is None else store.GridRows(path, plan, plan.grid)
    return parquet_writer(config, source, plan, store.rows_folder(path), path)


def parquet_writer(config: JobConfig, source: Source, plan: RowPlan, folder: str, path: str | None = None) -> RowWriter:
    """Return the writer of Parquet files in a folder; ``path`` is the result store that they belong to, if any."""
    from pipeline.store.rows.parquet import ParquetRows

    return ParquetRows(folder, plan, read_keys(config, source), path)


def clear_rows(path: str) -> None:
    """Remove the Parquet files of an earlier result of this store.

    Raises
    ------
    UserError
        If something else lies there, which is never touched.
    """
    for folder in _row_folders(path):
        from pipeline.store.rows.parquet import remove_parts

        remove_parts(folder)


def require_own_rows(path: str) -> None:
    """Raise :class:`UserError` if something else lies where the Parquet files of a store's rows do."""
    for folder in _row_folders(path):
        from pipeline.store.rows.parquet import require_parts

        require_parts(folder)


def _row_folders(path: str) -> list[Place]:
    """What lies where the Parquet files of a store's rows do: PyArrow is imported only where something does."""
    folder = store.rows_folder(path)
    return [found for found in map(store.place_of, (folder, f"{folder}.unfinished")) if found.exists()]
