"""Key columns: what is copied from Parquet data beside the values of its rows, to join them by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gmm_dask.errors import UserError
from gmm_dask.passes.row_outputs import ROW_OUTPUTS
from pipeline import store
from pipeline.config.formats import having
from pipeline.config.job import JobConfig
from pipeline.sources import Source, open_keys

if TYPE_CHECKING:
    from pipeline.store.parquet_rows import ReadKeys

_OUTPUTS = re.compile("|".join(f"{one.name}_[0-9]+" if one.per_component else one.name for one in ROW_OUTPUTS.values()))


def read_keys(config: JobConfig, source: Source) -> ReadKeys | None:
    """What reads the key columns of a chunk; None if the configuration names none. Reads headers only.

    Raises
    ------
    UserError
        If values of rows are to be Parquet and the data are not, or lack such a column, or if an answer has its name.
    """
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
            f"output.key_columns: {', '.join(taken)} is what an answer is called. Leave it out, or rename it in the "
            "data."
        )
    return open_keys(source, keys) if keys else None


def clear_rows(path: str) -> None:
    """Remove the Parquet files of an earlier result of this store.

    Raises
    ------
    UserError
        If something else lies there, which is never touched.
    """
    folder = store.rows_folder(path)
    for place in (Path(folder), Path(f"{folder}.unfinished")):
        if place.exists():
            from pipeline.store.parquet_rows import remove_parts

            remove_parts(place)
