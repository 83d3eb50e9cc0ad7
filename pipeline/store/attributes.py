"""What a store says about itself in its attributes, as values: parsed where a store is opened, trusted inside."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from gmm_dask.formatting import counted, listed
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

    @property
    def drifted(self) -> bool:
        """Whether the search was made again because the gains exceed the bound."""
        return self.searched and self.gained is not None and self.gained > self.bound


@dataclass(frozen=True)
class ContinuedComponent(Attributes):
    """A component that an earlier store has, too.

    Attributes
    ----------
    number : int
        In both stores.
    distance : float
        Bhattacharyya distance of the two Gaussians, 0 if they are equal.
    overlap : float
        Of the rows of the sample that either store's model labels so, the share that both do.
    """

    number: NonNegativeInt
    distance: FiniteFloat
    overlap: FiniteFloat


@dataclass(frozen=True)
class Identity(Attributes):
    """Which components of the chosen model are those of an earlier store of the job.

    Attributes
    ----------
    line : str
        The store that the numbers begin with, and when it was begun: in stores of one line, a number means one thing.
    next_number : int
        The first number that no store of the line has used up to this one.
    earlier : str or None
        Path of the earlier store; None if there was none.
    continued : tuple of ContinuedComponent
    new, gone : tuple of int
        Numbers that only this store has, or only the earlier one.
    changed : float or None
        Share of the rows of the sample that the two models label with different numbers; None if they were not
        compared.
    remark : str
        Why the components could not be compared, or which are not certain; empty otherwise.
    """

    line: str
    next_number: NonNegativeInt
    earlier: str | None = None
    continued: tuple[ContinuedComponent, ...] = ()
    new: tuple[NonNegativeInt, ...] = ()
    gone: tuple[NonNegativeInt, ...] = ()
    changed: FiniteFloat | None = None
    remark: str = ""

    @property
    def note(self) -> str:
        """Which components continue, and how sure that is; empty for the first store of a job."""
        if self.changed is None:
            return self.remark
        n_components = len(self.continued) + len(self.new)
        parts = [f"{len(self.continued)} of {counted(n_components, 'component')} continue those of {self.earlier}"]
        parts += [
            f"{which}: {listed(list(map(str, numbers)))}"
            for which, numbers in (("new", self.new), ("gone", self.gone))
            if numbers
        ]
        parts.append(f"{self.changed:.1%} of the sampled rows have another label")
        return "; ".join([*parts, self.remark] if self.remark else parts)


@dataclass(frozen=True)
class GroupCounts(Attributes):
    """The groups of a search for each.

    Attributes
    ----------
    n_groups : int
    n_rows : int
        Rows that have a group.
    n_without : int
        Rows that have none.
    digest : str
        A hash of all rows and their groups.
    failed : int or None
        Groups that have no model; None until the store is complete.
    """

    n_groups: NonNegativeInt
    n_rows: NonNegativeInt
    n_without: NonNegativeInt
    digest: str
    failed: NonNegativeInt | None = None


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
    identity : Identity or None
        How the components continue those of an earlier store; None until the model is chosen.
    names : dict of int to str
        Names of components, by their numbers.
    groups : GroupCounts or None
        Of a search for each group (``data.by``), once the rows were read.
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
    identity: Identity | None = None
    names: dict[NonNegativeInt, str] = field(default_factory=dict)
    groups: GroupCounts | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the attributes; keys of the configuration that an earlier version did not know have their defaults."""
        found = super().from_dict(values)
        return replace(found, config=_with_defaults(found.config))

    @property
    def by(self) -> str | None:
        """Name of the column of groups that have a search each; None of a search over all rows."""
        data = self.config["data"]  # which is checked after this, and may be no mapping
        found = data.get("by") if isinstance(data, dict) else None
        return None if found is None else str(found)

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
    """Rows that were left out, how many values each column lacks, and how many rows have gaps and take part."""

    rows: NonNegativeInt
    columns: dict[str, NonNegativeInt]
    incomplete: NonNegativeInt = 0


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
    version: NonNegativeInt | None = None
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
    needed: tuple[str, ...] = ("best", "total_weight", "identity") if attributes.by is None else ("groups",)
    if attributes.is_complete:
        known = {name: getattr(attributes, name) for name in (*needed, "n_rows", "manifest")}
    if attributes.is_complete or attributes.checkpoint is not None:
        needed = ("chunks", "contents", "missing") if attributes.by is None else ("chunks",)
        known |= {f"data.{name}": getattr(data, name) for name in needed}
    absent = [name for name, value in known.items() if value is None]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")


def _check_config(config: dict[str, Any]) -> None:
    sections = {name: config[name] for name in _SECTIONS}
    if isinstance(sections["output"], dict):
        sections["output"] = {name: value for name, value in sections["output"].items() if name != "store"}
    _parsed("config", JobConfig, sections)


@cache
def _defaults() -> dict[str, Any]:
    """Return the sections of a configuration that sets nothing."""
    values: dict[str, Any] = JobConfig.model_validate({"data": {"source": "-"}}).model_dump(mode="json")
    del values["data"]["source"]
    return values


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with all keys: the default of a new key is what earlier versions did."""
    of_section = {name: values for name, values in _defaults().items() if isinstance(values, dict)}
    return {
        name: {**of_section[name], **values} if name in of_section and isinstance(values, dict) else values
        for name, values in config.items()
    }


def unknown_keys(config: Any) -> list[str]:
    """Return the keys of a stored configuration that this version does not know, such as ``search.prior``."""
    if not isinstance(config, dict):
        return []
    known = _defaults() | {"data": {"source": None, **_defaults()["data"]}}
    found = [name for name in config if name not in known]
    for name, values in config.items():
        if isinstance(values, dict) and isinstance(known.get(name), dict):
            found += [f"{name}.{key}" for key in values if key not in known[name]]
    return found


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
    labels : ndarray of shape (n_densities,)
        Rows of each component, and of the noise, if the model has some.
    more : ndarray
        Other sums of the rows, which a caller has asked for; empty if it has not.
    """

    usable: int
    deviation: float
    squares: float
    labels: NDArray[np.int64]
    more: Array = field(default_factory=lambda: np.zeros(0))

    def to_array(self) -> Array:
        """As one array, (3 + n_densities + length of ``more``,)."""
        return np.array([self.usable, self.deviation, self.squares, *self.labels, *self.more], dtype=np.float64)

    @classmethod
    def from_array(cls, values: Array, n_densities: int) -> Self:
        """From one array."""
        labels, more = np.split(values[3:], [n_densities])
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
    labels, label_counts : tuple of int
        Numbers of the components, and rows of each.
    noise : int or None
        Rows of the noise; None of a model without.
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
    labels: tuple[NonNegativeInt, ...]
    label_counts: tuple[NonNegativeInt, ...]
    mean_log_density: FiniteFloat | None
    deviation_of_log_density: FiniteFloat | None
    anomalies: NonNegativeInt | None = None
    anomaly_threshold: FiniteFloat | None = None
    anomaly_quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    anomaly_rank_error: FiniteFloat | None = None
    parquet: Extent | None = None
    noise: NonNegativeInt | None = None

    @classmethod
    def of_totals(cls, totals: Totals, labels: tuple[int, ...], n_rows: int, shift: float) -> Self:
        """Summarise the totals of all chunks, whose rows are counted by these labels.

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
            labels=labels,
            label_counts=tuple(totals.labels[: len(labels)].tolist()),
            noise=int(totals.labels[-1]) if len(totals.labels) > len(labels) else None,
            mean_log_density=mean if math.isfinite(mean) else None,
            deviation_of_log_density=deviation if math.isfinite(deviation) else None,
        )

    @property
    def label_shares(self) -> tuple[float, ...]:
        """Share of each label among the rows that have one, the noise's last if there is some; zeros if no row has."""
        counts = (*self.label_counts, *([] if self.noise is None else [self.noise]))
        total = sum(counts)
        return tuple(count / total if total else 0.0 for count in counts)
