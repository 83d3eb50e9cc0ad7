"""What a store says about itself in its attributes, as values: parsed where a store is opened, trusted inside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from pipeline.config.job import JobConfig

Array = NDArray[np.float64]


class RunStatus(StrEnum):
    """Whether a store is complete; ``complete`` is the last thing that is written."""

    RUNNING = "running"
    COMPLETE = "complete"


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    """Return a kind's adapter, which takes 10 ms to make and is needed whenever attributes are read."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


class Attributes:
    """A frozen dataclass that JSON attributes are read into and written from; unknown keys are passed over."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the attributes; raises ValueError that names the first which is not as expected."""
        try:
            found: Self = _adapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(_first_error(error)) from None
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON has them; None is left out where it is the default."""
        values: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        optional = {one.name for one in fields(self) if one.default is None}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value is not None or name not in optional}


@dataclass(frozen=True)
class Widening(Attributes):
    """How the grid of a search was widened.

    Attributes
    ----------
    times : int
        How often it was.
    stopped : str
        Why it was not widened further; empty if the winner lies inside.
    """

    times: int
    stopped: str


@dataclass(frozen=True)
class RefreshDecision(Attributes):
    """Whether a refresh made the search again, and why.

    Attributes
    ----------
    searched : bool
    reason : str
    previous : str or None
        Path of the store that the last winner came from.
    gain : float or None
        Mean log-likelihood per held-out row of the refitted winner, less that of the winner as it was.
    bound : float
        ``refresh.drift``.
    gained : float or None
        Sum of the gains since the last search, this one's included; a loss lowers it, to 0 and no further.
    """

    searched: bool
    reason: str
    previous: str | None = None
    gain: float | None = None
    bound: float = 0.0
    gained: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoreAttributes(Attributes):
    """The attributes of a result store.

    Attributes
    ----------
    status : RunStatus
    config, data, software : dict
        The job's configuration, the fingerprint of its data, and the versions it was first run with.
    best : str or None
        Name of the chosen model, such as ``"tied-k3"``; None until the store is complete.
    passes : int
        Reads of the data so far.
    bytes_read : int
        By all runs; what a run read after its last checkpoint is not counted if it is killed.
    n_rows, total_weight : int, float or None
        Rows of the fits, and the sum of their weights; None until the store is complete.
    attempts : int
        Runs that worked on the store.
    checkpoint : int or None
        Number of the current checkpoint.
    started, finished : str or None
        When the first run began and the last one ended, such as ``2026-11-23 02:00 UTC``.
    seconds : float or None
        That the run took which completed the store.
    manifest : str or None
        SHA-256 of the manifest of a complete store.
    widening : Widening or None
        Of a search that widens its grid.
    refresh : RefreshDecision or None
        Of a store that a refresh made.
    """

    status: RunStatus
    config: dict[str, Any]
    data: dict[str, Any]
    software: dict[str, str]
    best: str | None
    passes: int
    bytes_read: int
    n_rows: int | None
    total_weight: float | None
    attempts: int
    checkpoint: int | None
    started: str
    finished: str | None
    seconds: float | None
    manifest: str | None = None
    widening: Widening | None = None
    refresh: RefreshDecision | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the job is done."""
        return self.status is RunStatus.COMPLETE

    @property
    def criterion(self) -> str:
        """The criterion that chooses the model."""
        return str(self.config["search"]["criterion"])

    @property
    def held_out_rows(self) -> int:
        """The number of rows that were held out of the fits."""
        contents = self.data.get("contents") or {}
        return int(contents.get("held_out", {}).get("n_rows", 0))


# -- what is in config and data ----------------------------------------------------------------------------------

Numbers = tuple[FiniteFloat, ...]


@dataclass(frozen=True)
class StoredResolution:
    """The resolution of the columns, as :meth:`gmm_dask.passes.resolution.Resolution.to_dict` makes it."""

    step: Numbers
    spread: Numbers
    ties: Numbers
    frequent: Numbers
    frequent_share: Numbers
    copies: FiniteFloat


@dataclass(frozen=True)
class HeldOut:
    """The rows that were held out."""

    n_rows: NonNegativeInt
    total_weight: FiniteFloat
    means: Numbers


@dataclass(frozen=True)
class Contents:
    """What pass 0 found, as :func:`pipeline.sources.fingerprint.contents_of` makes it."""

    n_rows: NonNegativeInt
    total_weight: PositiveFloat
    means: Numbers
    deviations: Numbers
    minima: Numbers
    maxima: Numbers
    variances: Numbers
    sample: str
    resolution: StoredResolution
    held_out: HeldOut | None = None


@dataclass(frozen=True)
class Missing:
    """Rows that were left out, and how many values each column lacks."""

    rows: NonNegativeInt
    columns: dict[str, NonNegativeInt]


@dataclass(frozen=True)
class Chunks:
    """Sizes of automatic chunks."""

    chunk_bytes: PositiveInt
    group_bytes: PositiveInt
    rows: NonNegativeInt


@dataclass(frozen=True)
class StoredData:
    """What a store knows of its data: the header, and after pass 0 the rest."""

    path: str
    kind: str
    columns: tuple[str, ...]
    n_rows: NonNegativeInt | None
    bytes_per_pass: NonNegativeInt
    files: str
    chunks: Chunks | None = None
    contents: Contents | None = None
    missing: Missing | None = None
    notes: tuple[str, ...] = ()


# the sections of a configuration that are read from a store; where the store lies is known
_SECTIONS = ("name", "data", "search", "cluster", "output")


def check_attributes(attributes: StoreAttributes) -> None:
    """Raise ValueError, which names the key, if attributes are not those of a job's store.

    ``config`` and ``data`` stay mappings, which are compared key by key with those of a run: here their types are
    checked, so that readers can rely on them.
    """
    _check_config(attributes.config)
    data: StoredData = _parsed("data", StoredData, attributes.data)
    contents = data.contents
    if contents is not None:
        columns = vars(contents.resolution) | {
            name: getattr(contents, name) for name in ("means", "deviations", "minima", "maxima")
        }
        for name, values in columns.items():
            if name != "copies" and len(values) != len(data.columns):
                raise ValueError(f"data.contents.{name} has {len(values)} values for {len(data.columns)} columns")
    known: dict[str, Any] = {}
    if attributes.is_complete:
        known = {name: getattr(attributes, name) for name in ("best", "n_rows", "total_weight", "manifest")}
    if attributes.is_complete or attributes.checkpoint is not None:
        known |= {f"data.{name}": getattr(data, name) for name in ("chunks", "contents", "missing")}
    absent = [name for name, value in known.items() if value is None]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")


def _check_config(config: dict[str, Any]) -> None:
    sections = {name: config[name] for name in _SECTIONS}
    if isinstance(sections["output"], dict):
        sections["output"] = {name: value for name, value in sections["output"].items() if name != "store"}
    parsed: JobConfig = _parsed("config", JobConfig, sections)
    for name in ("data", "search", "output"):
        absent = type(getattr(parsed, name)).model_fields.keys() - config[name].keys()
        if absent:
            raise ValueError(f"config.{name} lacks {', '.join(sorted(absent))}")


def _parsed(key: str, kind: Any, values: Any) -> Any:
    """Parse values as JSON, without any conversion."""
    try:
        return _adapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ValueError(_first_error(error, key)) from None


def _first_error(error: ValidationError, *prefix: str) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, (*prefix, *first['loc'])))}: {first['msg']}"


# -- the rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over rows that have an answer.

    Attributes
    ----------
    usable : int
        How many rows these are.
    deviation, squares : float
        Sums of the log densities' distances from a number that is the same for all chunks, and of their squares.
    labels : ndarray of shape (n_components,)
        Rows of each component.
    more : ndarray
        Other sums of the rows, which a caller has asked for; empty if it has not.
    """

    usable: int
    deviation: float
    squares: float
    labels: NDArray[np.int64]
    more: Array = field(default_factory=lambda: np.zeros(0))

    def to_array(self) -> Array:
        """As one array, (3 + n_components + length of ``more``,)."""
        return np.array([self.usable, self.deviation, self.squares, *self.labels, *self.more], dtype=np.float64)

    @classmethod
    def from_array(cls, values: Array, n_components: int) -> Self:
        """From one array."""
        labels, more = np.split(values[3:], [n_components])
        return cls(int(values[0]), float(values[1]), float(values[2]), labels.astype(np.int64), more)

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.usable + other.usable,
            self.deviation + other.deviation,
            self.squares + other.squares,
            self.labels + other.labels,
            self.more + other.more,
        )


@dataclass(frozen=True)
class Extent:
    """The files of a folder: how many there are, and their bytes together."""

    files: int
    bytes: int

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.files + other.files, self.bytes + other.bytes)


@dataclass(frozen=True)
class RowSummary(Attributes):
    """Counts and moments over the rows that a model was applied to.

    Attributes
    ----------
    n_rows, usable, unusable : int
        All rows, those with outputs, and those without.
    label_counts : tuple of int
        Rows of each component.
    mean_log_density, deviation_of_log_density : float or None
        Mean and standard deviation over the usable rows; None where they are not finite.
    anomalies : int or None
        Rows marked as anomalies; None if none were to be marked, as the following.
    anomaly_threshold : float or None
        The log density under which they lie.
    anomaly_quantile, anomaly_rank_error : float or None
        The quantile that the threshold is of these rows, and how far its share of them may be off; without an error
        the threshold is that of other rows.
    parquet : Extent or None
        What is in the folder STORE-rows, if the row outputs are Parquet files.
    """

    n_rows: NonNegativeInt
    usable: NonNegativeInt
    unusable: NonNegativeInt
    label_counts: tuple[NonNegativeInt, ...]
    mean_log_density: FiniteFloat | None
    deviation_of_log_density: FiniteFloat | None
    anomalies: NonNegativeInt | None = None
    anomaly_threshold: FiniteFloat | None = None
    anomaly_quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    anomaly_rank_error: FiniteFloat | None = None
    parquet: Extent | None = None

    @classmethod
    def of_totals(cls, totals: Totals, n_rows: int, shift: float) -> Self:
        """Summarise the totals of all chunks.

        The moments are those of ``log density - shift``: with a shift near the mean, such as that of the fit, the
        difference of squares in the variance cancels few digits.
        """
        mean, deviation = math.nan, math.nan
        if totals.usable:
            distance = totals.deviation / totals.usable
            mean = shift + distance
            if math.isfinite(distance):
                deviation = math.sqrt(max(0.0, totals.squares / totals.usable - distance * distance))
        return cls(
            n_rows=n_rows,
            usable=totals.usable,
            unusable=n_rows - totals.usable,
            label_counts=tuple(totals.labels.tolist()),
            mean_log_density=mean if math.isfinite(mean) else None,
            deviation_of_log_density=deviation if math.isfinite(deviation) else None,
        )

    @property
    def label_shares(self) -> tuple[float, ...]:
        """Share of each label among the rows that have one; zeros if no row has."""
        total = sum(self.label_counts)
        return tuple(count / total if total else 0.0 for count in self.label_counts)
