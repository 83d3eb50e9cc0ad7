"""Values of the rows, such as labels and log densities, written chunk by chunk.

The data's chunks end where they do, Zarr's are of one length. The task of a chunk of data writes the Zarr chunks that
lie within it, as wholes; what it has of those that it shares with its neighbours it leaves in ``rows/unfinished``,
and when all tasks are done they are put together. So no two tasks ever write one Zarr chunk. A chunk counts as
finished by one small write, the last of its task, when the others are on the disk: a run that was killed, or lost its
power, goes on with the chunks that do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Protocol, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.passes.row_outputs import ANOMALY, LOG_DENSITY, NOISE_LABEL, ROW_OUTPUTS
from pipeline.sources.grids.boxes import Grid
from pipeline.store.arrays import COMPRESSOR, as_json, open_root, put, writing
from pipeline.store.attributes import Totals
from pipeline.store.integrity import DamagedError, WholeStore, reading
from pipeline.store.places import StorePath, place_of

Array = NDArray[np.float64]
Values = Mapping[str, NDArray[Any]]

# where chunks of data differ in length, Zarr's are shorter by this factor: little of them is shared
SHARED = 16
FEWEST_ROWS = 1 << 14
# of a folder of Parquet files, the file by which it is whole
SUMMARY = "_summary.json"


@dataclass(frozen=True, eq=False)
class RowPlan:
    """What is written about which rows.

    Attributes
    ----------
    lengths : tuple of int
        Rows of each chunk of the data, as it is read.
    components : tuple of int
        Numbers of the model's components.
    names : tuple of str
        Row outputs that are stored chunk by chunk; ``anomaly`` follows from the densities.
    token : str
        Tells these answers from those of any other model or data: what an earlier run has written is used if it has
        the same.
    n_more : int
        How many sums each chunk's totals have besides their own.
    file_starts : tuple of (str, int)
        Path of each file of the data, and the number of its first row.
    grid : Grid or None
        The one that the rows lie on, if they do; its boxes are the chunks.
    noise : bool
        Whether the model has noise.
    features : tuple of str
        Columns of the data that the model has as features.
    """

    lengths: tuple[int, ...]
    components: tuple[int, ...]
    names: tuple[str, ...]
    token: str
    n_more: int = 0
    file_starts: tuple[tuple[str, int], ...] = ()
    grid: Grid | None = None
    noise: bool = False
    features: tuple[str, ...] = ()

    @property
    def n_densities(self) -> int:
        """How many components the model has, the noise among them."""
        return len(self.components) + self.noise

    def shape(self, name: str, n_rows: int) -> tuple[int, ...]:
        """Shape of a row output's values for so many rows."""
        return ROW_OUTPUTS[name].shape(n_rows, self.n_densities, len(self.features))

    def columns(self, name: str) -> list[str]:
        """Names of a row output's columns in a table; of a value for each feature, those that the data have."""
        output = ROW_OUTPUTS[name]
        return list(self.features) if output.per_feature else output.columns(self.components, self.noise)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Number of each chunk's first row, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @property
    def n_rows(self) -> int:
        """Rows of the data."""
        return int(self.starts[-1])

    @property
    def no_totals(self) -> Totals:
        """Totals of no rows."""
        return Totals(0, 0.0, 0.0, np.zeros(self.n_densities, dtype=np.int64), np.zeros(self.n_more))


class RowWriter(Protocol):
    """Where the values of rows go; its methods but for ``write`` are called by the driver alone."""

    plan: RowPlan

    @property
    def place(self) -> str:
        """The path, for messages."""

    def begin(self) -> bool:
        """Make room, or find what an earlier run left; returns whether that is whole."""

    def finished(self) -> list[Totals | None]:
        """Totals of each chunk that is written, None for the others."""

    def write(self, number: int, values: Values, totals: Totals) -> None:
        """Write the values of a chunk; after that it is finished."""

    def join(self) -> None:
        """Put together what chunks have left for that, all of them being finished."""

    def log_density(self, number: int) -> Array:
        """The stored log densities of a chunk, when all chunks are finished."""

    def mark(self, threshold: float) -> int:
        """Mark the rows with a density under the threshold, all chunks being finished; returns how many there are."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Declare the whole finished, with a summary."""

    def summary(self) -> dict[str, Any]:
        """The summary of the whole, with the number of rows."""

    def holds_another(self) -> bool:
        """Whether there is a whole of another plan."""


class ZarrRows:
    """Values of rows as arrays of the group ``rows`` of a store."""

    def __init__(self, path: StorePath, plan: RowPlan) -> None:
        self.plan = plan
        self._path = str(path)
        self._place = place_of(path)
        self._step = _zarr_rows(plan.lengths)

    @property
    def place(self) -> str:
        """The group."""
        return f"{self._path}/rows"

    # -- before and after the pass ---------------------------------------------------------------------------
    def begin(self) -> bool:
        """Create the arrays, unless they are there; see :class:`RowWriter`."""
        try:
            with reading(self._path, "rows"):
                attributes = read_summary(self._path, unfinished=True)
        except DamagedError:  # nothing counts as finished in what cannot be read
            attributes = None
        if attributes is None or attributes.get("token") != self.plan.token:
            self._create()
            return False
        with reading(self._path, "rows"):
            return bool(attributes["complete"])

    def _create(self) -> None:
        with writing(self.place):
            group = self._root("r+").create_group("rows", overwrite=True)
            edges = group.create_group("unfinished")
            self._create_arrays(group, edges)
            if any(ROW_OUTPUTS[name].per_component for name in self.plan.names):
                numbers = [*self.plan.components, *([NOISE_LABEL] if self.plan.noise else [])]
                put(group, "component", np.array(numbers), ("component",))
            if any(ROW_OUTPUTS[name].per_feature for name in self.plan.names):
                put(group, "feature", list(self.plan.features), ("feature",))
            nothing = self.plan.no_totals.to_array()
            edges.create_array(
                "totals",
                shape=(len(self.plan.lengths), len(nothing)),
                chunks=(1, len(nothing)),
                dtype=np.float64,
                fill_value=math.nan,
                dimension_names=("chunk", "total"),
            )
            group.update_attributes({"complete": False, "token": self.plan.token})
            self._place.sync("rows")
            self._place.sync_files([""])

    def _create_arrays(self, group: zarr.Group, edges: zarr.Group) -> None:
        """Create the arrays of the row outputs, and of what tells which row is which."""
        for name in self.plan.names:
            self._create_array(group, name)
            if not self._is_aligned:
                self._create_edges(edges, name)
        paths, starts = zip(*self.plan.file_starts, strict=True) if self.plan.file_starts else ((), ())
        put(group, "file", np.array(paths, dtype=str), ("file",))
        put(group, "first_row", np.array(starts, dtype=np.int64), ("file",))

    def _create_array(self, group: zarr.Group, name: str) -> zarr.Array[Any]:
        output = ROW_OUTPUTS[name]
        group.create_array(
            name,
            shape=self.plan.shape(name, self.plan.n_rows),
            chunks=self.plan.shape(name, self._step),
            dtype=output.stored_dtype,
            fill_value=output.missing(self.plan.noise),
            dimension_names=("row", *output.dimensions),
            compressors=COMPRESSOR,
            overwrite=True,
        )
        return array_of(group, name)

    def _create_edges(self, edges: zarr.Group, name: str) -> None:
        """For each chunk of data, its rows before the first and after the last Zarr chunk that lies within it."""
        output = ROW_OUTPUTS[name]
        shape = self.plan.shape(name, 2 * self._step)
        edges.create_array(
            name,
            shape=(len(self.plan.lengths), *shape),
            chunks=(1, *shape),
            dtype=output.stored_dtype,
            fill_value=output.missing(self.plan.noise),
            dimension_names=("chunk", "edge_row", *output.dimensions),
            compressors=COMPRESSOR,
        )

    def finished(self) -> list[Totals | None]:
        """Totals of each chunk; see :class:`RowWriter`."""
        every = np.asarray(array_of(self._group("r"), "unfinished/totals")[...])
        n_densities = self.plan.n_densities
        return [None if math.isnan(values[0]) else Totals.from_array(values, n_densities) for values in every]

    def finish(self, summary: dict[str, Any]) -> None:
        """Declare the group whole, and remove what was needed for that."""
        with writing(self.place):
            group = self._group("r+")
            self._place.sync("rows")
            group.update_attributes(as_json({"complete": True, "n_rows": self.plan.n_rows, **summary}))
            del group["unfinished"]

    def summary(self) -> dict[str, Any]:
        """The summary; see :class:`RowWriter`."""
        return read_summary(self._path) or {}

    def holds_another(self) -> bool:
        """Whether there is another whole; see :class:`RowWriter`."""
        return bool(self.summary().get("token", self.plan.token) != self.plan.token)

    # -- a chunk's values ------------------------------------------------------------------------------------
    def write(self, number: int, values: Values, totals: Totals) -> None:
        """Write one chunk of data; see :class:`RowWriter`."""
        group = self._group("r+")
        start, first, last, stop = self._cuts(number)
        with writing(self.place):
            for name in self.plan.names:
                answers = values[name].astype(ROW_OUTPUTS[name].stored_dtype, copy=False)
                if first < last:
                    array_of(group, name)[first:last] = answers[first - start : last - start]
                if not self._is_aligned:
                    shape = (2 * self._step, *answers.shape[1:])
                    edges = np.full(shape, ROW_OUTPUTS[name].missing(self.plan.noise), dtype=answers.dtype)
                    edges[: first - start] = answers[: first - start]
                    edges[self._step : self._step + stop - last] = answers[last - start :]
                    array_of(group, f"unfinished/{name}")[number] = edges
            positions = range(first // self._step, math.ceil(last / self._step)) if first < last else range(0)
            self._place.sync_files(self._files(number, positions))
            array_of(group, "unfinished/totals")[number] = totals.to_array()

    def _files(self, number: int, positions: range) -> set[str]:
        """The files of a chunk of data, and their folders: Zarr chunks at these positions, and its edges."""
        rows, found = PurePosixPath("rows"), set[str]()
        for name in self.plan.names:
            tail = ["0"] * len(ROW_OUTPUTS[name].dimensions)
            files = [rows.joinpath(name, "c", str(position), *tail) for position in positions]
            if not self._is_aligned:
                files.append(rows.joinpath("unfinished", name, "c", str(number), "0", *tail))
            for file in files:
                found |= {str(file), *(str(folder) for folder in file.parents if folder.is_relative_to(rows))}
        return found

    def _cuts(self, number: int) -> tuple[int, int, int, int]:
        """A chunk's first row, the first and the last end of a Zarr chunk within it, and its end."""
        start, stop = int(self.plan.starts[number]), int(self.plan.starts[number + 1])
        first = min(stop, math.ceil(start / self._step) * self._step)
        ends = stop if stop == self.plan.n_rows else stop // self._step * self._step
        return start, first, max(first, ends), stop

    @property
    def _is_aligned(self) -> bool:
        """Whether every chunk of data but the last is one Zarr chunk."""
        return set(self.plan.lengths[:-1]) <= {self._step} and self.plan.lengths[-1] <= self._step

    # -- when all chunks are written -------------------------------------------------------------------------
    def join(self) -> None:
        """Put the Zarr chunks together that several chunks of data have a part in."""
        if self._is_aligned:
            return
        group, stored = self._group("r+"), self._whole_group()
        with writing(self.place):
            for lines, parts in self._shared():
                for name in self.plan.names:
                    edges = array_of(stored, f"unfinished/{name}")
                    pieces = [np.asarray(edges[number, where]) for number, where in parts]
                    array_of(group, name)[lines] = np.concatenate(pieces)

    def _shared(self) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
        """Each such Zarr chunk: its rows, and for each chunk of data in it where its edge lies."""
        starts = self.plan.starts
        for low in range(0, self.plan.n_rows, self._step):
            high = min(low + self._step, self.plan.n_rows)
            number = int(np.searchsorted(starts, low, side="right")) - 1
            if starts[number + 1] >= high:
                continue
            parts = []
            while number < len(self.plan.lengths) and starts[number] < high:
                begin, end = max(low, int(starts[number])), min(high, int(starts[number + 1]))
                if begin < end:
                    parts.append((number, self._edge(number, begin, end)))
                number += 1
            yield slice(low, high), parts

    def _edge(self, number: int, begin: int, end: int) -> slice:
        start, first, last, _ = self._cuts(number)
        offset = start if begin < first else last - self._step
        return slice(begin - offset, end - offset)

    def log_density(self, number: int) -> Array:
        """Log densities of a chunk of data; see :class:`RowWriter`."""
        lines = slice(int(self.plan.starts[number]), int(self.plan.starts[number + 1]))
        return np.asarray(array_of(self._whole_group(), LOG_DENSITY.name)[lines])

    def mark(self, threshold: float) -> int:
        """Write the array ``anomaly``, Zarr chunk by Zarr chunk; see :class:`RowWriter`."""
        group, stored, marked = self._group("r+"), self._whole_group(), 0
        with writing(self.place):
            target = self._create_array(group, ANOMALY.name)
            for low in range(0, self.plan.n_rows, self._step):
                lines = slice(low, min(low + self._step, self.plan.n_rows))
                under = np.asarray(array_of(stored, LOG_DENSITY.name)[lines]) < threshold
                target[lines] = under
                marked += int(np.count_nonzero(under))
        return marked

    def _group(self, mode: Any) -> zarr.Group:
        return cast(zarr.Group, self._root(mode)["rows"])

    def _root(self, mode: Any) -> zarr.Group:
        # by the place, which on a worker is that of the run that holds the store
        return zarr.open_group(self._place.open_group(mode), mode=mode, zarr_format=3, use_consolidated=False)

    def _whole_group(self) -> zarr.Group:
        """The group for reading; a chunk that is lost is an error."""
        store = WholeStore(self._place.zarr_store(), self._path)
        return cast(zarr.Group, zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)["rows"])


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return an array of the rows for reading and writing."""
    # a chunk of fill values is written, too: one that is not there is lost
    return cast(zarr.Array[Any], group[name]).with_config({"write_empty_chunks": True})


def _zarr_rows(lengths: Sequence[int]) -> int:
    """Rows of a Zarr chunk: those of the data's chunks where they are alike, otherwise a part of the longest."""
    longest = max(1, *lengths)
    if set(lengths[:-1]) <= {longest}:
        return longest
    return min(longest, max(FEWEST_ROWS, longest // SHARED))


# -- reading -------------------------------------------------------------------------------------------------


def read_summary(path: StorePath, *, unfinished: bool = False) -> dict[str, Any] | None:
    """What is known of the rows as a whole; None if they have not been written, or (by default) not all of them.

    Returns
    -------
    summary : dict
        ``complete``, ``n_rows``, ``usable``, ``mean_log_density``, ``deviation_of_log_density``, ``label_counts``,
        with noise ``noise``, and with anomalies ``anomalies``, ``anomaly_quantile``, ``anomaly_threshold``,
        ``anomaly_rank_error``.
    """
    root = open_root(path)
    if "rows" not in root:
        return None
    summary = cast(zarr.Group, root["rows"]).attrs.asdict()
    return dict(summary) if unfinished or summary.get("complete") else None


def write_summary(path: StorePath, summary: dict[str, Any]) -> None:
    """Write what is known of rows whose values lie elsewhere, in place of what is there."""
    attributes = as_json({"complete": True, **summary})
    open_root(path, "r+").create_group("rows", overwrite=True, attributes=attributes)


def rows_folder(path: StorePath) -> str:
    """Where the values of rows lie as Parquet files: beside the store."""
    return f"{str(path).rstrip('/')}-rows"


def row_shapes(path: StorePath) -> dict[str, tuple[int, ...]]:
    """Shape of each array that the store holds about the rows."""
    return {name: array.shape for name, array in _arrays(path).items()}


def require_row_arrays(path: StorePath, n_rows: int) -> None:
    """Raise :class:`ValueError` if an array about the rows has another type, or is of another number of rows."""
    for name, array in _arrays(path).items():
        output = ROW_OUTPUTS[name]
        if array.dtype != output.stored_dtype:
            raise ValueError(f"{name} has the dtype {array.dtype}, not {np.dtype(output.stored_dtype)}")
        if math.prod(array.shape[: array.ndim - len(output.dimensions)]) != n_rows:
            raise ValueError(f"{name} has the shape {array.shape}, and the rows are {n_rows:,}")


def _arrays(path: StorePath) -> dict[str, zarr.Array[Any]]:
    root = open_root(path)
    if "rows" not in root:
        return {}
    group = cast(zarr.Group, root["rows"])
    found = {name: group[name] for name in ROW_OUTPUTS if name in group}
    for name, array in found.items():
        if not isinstance(array, zarr.Array):
            raise ValueError(f"{name} is no array")
    return cast(dict[str, zarr.Array[Any]], found)
