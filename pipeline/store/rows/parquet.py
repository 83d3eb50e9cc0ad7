"""Values of the rows as a folder of Parquet files, one a chunk of the data, with key columns to join them by.

The files are written into ``FOLDER.unfinished``, each under a name that it gets when it is whole; when all are there
the folder gets its own name. So a folder that a reader finds is whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from gmm_dask.errors import UserError
from gmm_dask.passes.row_outputs import ANOMALY, LOG_DENSITY, ROW_OUTPUTS
from pipeline.sources.formats.parquet import OWN_FILES
from pipeline.store.arrays import writing
from pipeline.store.attributes import Totals
from pipeline.store.integrity import extent_of
from pipeline.store.places import Place, StorePath, place_of
from pipeline.store.rows.zarr import SUMMARY, RowPlan, Values, write_summary

Array = NDArray[np.float64]
# number of a chunk -> the key columns of its rows
ReadKeys = Callable[[int], pa.Table]

_PARTS = "part-*.parquet"


class ParquetRows:
    """Values of rows as Parquet files beside a store.

    Parameters
    ----------
    folder : str or Path
    plan : RowPlan
    read_keys : callable, optional
        Gives the columns that are copied from the data, for a chunk's number.
    store : str or Path, optional
        The result store that is told the summary, too.
    """

    def __init__(
        self, folder: StorePath, plan: RowPlan, read_keys: ReadKeys | None = None, store: StorePath | None = None
    ) -> None:
        self.plan = plan
        self._store = store
        self._folder = place_of(folder)
        self._unfinished = place_of(f"{folder}.unfinished")
        self._read_keys = read_keys

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    # -- before and after the pass ---------------------------------------------------------------------------
    def begin(self) -> bool:
        """Make the folder, unless it is there; see :class:`pipeline.store.rows.zarr.RowWriter`."""
        if self._is_whole:
            self._tell_store()
            return True
        with writing(self.place):
            if self._folder.exists():
                require_parts(self._folder)  # it stays until the new one is whole
            if not self._ours(self._unfinished):
                remove_parts(self._unfinished)
            self._unfinished.make()
            self._unfinished.remove_half_written()
        return False

    def finished(self) -> list[Totals | None]:
        """Totals of each chunk; see :class:`pipeline.store.rows.zarr.RowWriter`."""
        found = self._ours(self._unfinished)
        return [found.get(number) for number in range(len(self.plan.lengths))]

    def join(self) -> None:
        """Nothing: no file has rows of two chunks."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Give the folder its name, with the summary beside the files; readers pass over names like that."""
        with writing(self.place):
            files = [{"file": path, "first_row": start} for path, start in self.plan.file_starts]
            found = {"n_rows": self.plan.n_rows, "files": files, **summary}
            self._unfinished.write(SUMMARY, json.dumps(found, indent=2, allow_nan=False).encode())
            self._folder.take(self._unfinished, SUMMARY)
            self._tell_store()

    def summary(self) -> dict[str, Any]:
        """The summary; see :class:`pipeline.store.rows.zarr.RowWriter`."""
        found: dict[str, Any] = json.loads(self._folder.read(SUMMARY))
        return found

    def holds_another(self) -> bool:
        """Whether there is another whole that these do not replace yet, as in ``pipeline.store.rows.zarr``."""
        return self._folder.exists() and not (self._is_whole or self._ours(self._unfinished))

    @property
    def _is_whole(self) -> bool:
        return len(self._ours(self._folder)) == len(self.plan.lengths)

    def _tell_store(self) -> None:
        if self._store is not None:
            write_summary(self._store, {**self.summary(), "parquet": vars(extent_of(self._folder))})

    def _ours(self, folder: Place) -> dict[int, Totals]:
        """Totals of the chunks that are written, by their numbers; none if they are of another model or data."""
        found = {}
        for file in parts_of(folder):
            footer = _footer(folder, file)
            if not footer:
                continue
            if footer["token"] != self.plan.token:
                return {}
            found[footer["chunk"]] = Totals.from_array(np.array(footer["totals"]), self.plan.n_densities)
        return found

    # -- a chunk's values ------------------------------------------------------------------------------------
    def write(self, number: int, values: Values, totals: Totals) -> None:
        """Write one file; see :class:`pipeline.store.rows.zarr.RowWriter`."""
        keys = None if self._read_keys is None else self._read_keys(number)
        columns = {} if keys is None else dict(zip(keys.column_names, keys.columns, strict=True))
        for name in self.plan.names:
            columns |= _columns(name, values[name], self.plan)
        footer = {"token": self.plan.token, "chunk": number, "totals": totals.to_array().tolist()}
        table = pa.table(columns).replace_schema_metadata({OWN_FILES: json.dumps(footer)})
        with writing(self.place):
            self._put(number, table)

    def log_density(self, number: int) -> Array:
        """Log densities of a chunk; see :class:`pipeline.store.rows.zarr.RowWriter`."""
        table = self._read(number, columns=[LOG_DENSITY.name])
        return np.asarray(table[LOG_DENSITY.name].to_numpy())

    def mark(self, threshold: float) -> int:
        """Add the column ``anomaly``, file by file; see :class:`pipeline.store.rows.zarr.RowWriter`."""
        marked = 0
        with writing(self.place):
            for number in range(len(self.plan.lengths)):
                table = self._read(number)
                under = pc.less(table[LOG_DENSITY.name], threshold)
                kept = table.drop_columns(ANOMALY.name) if ANOMALY.name in table.column_names else table
                self._put(number, kept.append_column(ANOMALY.name, under))
                marked += pc.sum(under).as_py() or 0
        return marked

    def _put(self, number: int, table: pa.Table) -> None:
        """Write a file, which is whole if it is there."""
        self._unfinished.write_with(
            self._file(number), lambda file: parquet.write_table(table, file, write_page_checksum=True)
        )

    def _read(self, number: int, columns: list[str] | None = None) -> pa.Table:
        with self._unfinished.open(self._file(number)) as file:
            return parquet.read_table(file, columns=columns)

    def _file(self, number: int) -> str:
        digits = max(5, math.ceil(math.log10(max(2, len(self.plan.lengths)))))
        return f"part-{number:0{digits}d}.parquet"


def find_unfinished(folders: Sequence[str], token: str) -> str | None:
    """The folder that an earlier call has begun and not finished, as in :mod:`pipeline.store.rows.scores`."""
    for folder in folders:
        if place_of(folder).exists():
            return None
        unfinished = place_of(f"{folder}.unfinished")
        if any(_footer(unfinished, file).get("token") == token for file in parts_of(unfinished)):
            return folder
    return None


def remove_parts(folder: Place) -> None:
    """Remove a folder of files that were written here, if it is there.

    Raises
    ------
    UserError
        If anything else is in it, which is never touched.
    """
    if folder.exists():
        require_parts(folder)
        folder.remove_at_once()


def require_parts(folder: Place) -> None:
    """Raise :class:`UserError` if a folder has anything in it that was not written here."""
    if any(not _is_ours(folder, file) for file in folder.names()):
        raise UserError(
            f"{folder} exists and is not a folder of rows that gmm-dask wrote, so it is left as it is. Move it away, "
            "or choose another path."
        )


def parts_of(folder: Place) -> list[str]:
    """The files of chunks in a folder, sorted."""
    return sorted(name for name in folder.names() if _is_part(name))


def _is_part(name: str) -> bool:
    return PurePosixPath(name).match(_PARTS)


def _is_ours(folder: Place, name: str) -> bool:
    return name == SUMMARY or (_is_part(name) and bool(_footer(folder, name)))


def _footer(folder: Place, name: str) -> dict[str, Any]:
    """What a file says about itself; nothing where another program wrote it, or where it is damaged."""
    try:
        with folder.open(name) as file:
            metadata = parquet.read_schema(file).metadata or {}
    except (pa.ArrowException, IsADirectoryError):
        return {}
    found: dict[str, Any] = json.loads(metadata.get(OWN_FILES, b"{}"))
    return found


def _columns(name: str, values: NDArray[Any], plan: RowPlan) -> dict[str, pa.Array]:
    """A value a row as a column; several as a column each, such as one a component, named by its number."""
    output = ROW_OUTPUTS[name]
    matrix = values if output.dimensions else values[:, None]
    type_ = pa.from_numpy_dtype(output.stored_dtype)
    return {column: pa.array(matrix[:, k], type_) for k, column in enumerate(plan.columns(name))}
