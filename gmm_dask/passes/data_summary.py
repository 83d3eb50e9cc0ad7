"""Pass 0: what the data looks like before anything is fitted, from one read of it.

Moments are merged as in Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import TooLargeError, UnusableError, UserError
from gmm_dask.formatting import counted
from gmm_dask.kernels.constants import LARGEST
from gmm_dask.passes.gaps.moments import Gaps, GapSums, PairMoments, added
from gmm_dask.passes.holdout import SAMPLING, HeldOut, Holdout, Weighted, random_by_row, usable_rows
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.resolution import Resolution
from gmm_dask.passes.rows import Rows, first_rows

Array = NDArray[np.float64]

# the sample of rows that starts are made from: all rows, when there are no more than this
SAMPLE_BYTES = 16 << 20
SAMPLE_ROWS = 1 << 18
# name of the tasks of pass 0, as a dashboard shows them
TASK = "data-summary"


def sample_limit(n_features: int) -> int:
    """Largest number of rows in the sample that starts are made from."""
    return max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // (8 * n_features)))


@dataclass(frozen=True)
class Draw:
    """How the sample is drawn: the seed, where each chunk begins, and from which priority on a row surely is out.

    Each row gets a random priority between 0 and 1 by its number among all rows, and the smallest make the sample:
    how the rows are cut into chunks does not matter. Where the number of rows is known, most rows are out at once,
    and no chunk sends more than its share. Rows that ``holdout`` holds out are not drawn. ``gaps`` tells whether rows
    with any value are drawn, instead of those with all.
    """

    seed: int
    ceiling: float
    starts: tuple[int, ...] | None
    holdout: Holdout | None = None
    gaps: bool = False

    @classmethod
    def of(
        cls,
        n_rows: float,
        n_features: int,
        seed: int,
        starts: Sequence[int] | None = None,
        holdout: Holdout | None = None,
        gaps: bool = False,
    ) -> Draw:
        """The draw from ``n_rows`` rows, NaN if unknown; ``starts`` are the chunks' first rows, None if unknown."""
        limit = sample_limit(n_features)
        starts = None if starts is None else tuple(starts)
        if holdout is not None:
            n_rows *= 1.0 - holdout.share
        if math.isnan(n_rows) or n_rows <= limit:
            return cls(seed, 1.0, starts, holdout, gaps)
        # of the priorities under the ceiling there are fewer than the limit about once in 10^23 draws
        return cls(seed, min(1.0, (limit + 10.0 * math.sqrt(limit) + 100.0) / n_rows), starts, holdout, gaps)

    def priorities(self, number: int, n_rows: int) -> Array:
        """Priorities of a chunk's rows, by the chunk's number."""
        return random_by_row(self.seed, SAMPLING, self.starts, number, n_rows)


@dataclass(frozen=True, eq=False)
class Unusable:
    """Rows with a value or a weight that is NaN or infinite; with gaps, those without any value or without a weight.

    Attributes
    ----------
    chunk_rows : tuple of int
        How many in each chunk.
    columns : ndarray of shape (n_features,)
        How many such values in each column.
    weights : int
        How many such weights.
    first : tuple of int, or None
        Chunk, row in it and column of the first such value.
    """

    chunk_rows: tuple[int, ...]
    columns: NDArray[np.int64]
    weights: int
    first: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None, usable: NDArray[np.bool_], number: int) -> Unusable:
        """Count those of a chunk, by its number."""
        n_rows = len(x) - int(np.count_nonzero(usable))
        if not n_rows:
            return cls((0,), np.zeros(x.shape[1], dtype=np.int64), 0)
        bad = ~np.isfinite(x) & ~usable[:, None]
        positions = np.argwhere(bad)
        first = (number, int(positions[0, 0]), int(positions[0, 1])) if len(positions) else None
        n_weights = 0 if w is None else int(np.count_nonzero(~np.isfinite(w)))
        return cls((n_rows,), np.count_nonzero(bad, axis=0).astype(np.int64), n_weights, first)

    def __add__(self, other: Unusable) -> Unusable:
        return Unusable(
            self.chunk_rows + other.chunk_rows,
            self.columns + other.columns,
            self.weights + other.weights,
            self.first or other.first,
        )

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return sum(self.chunk_rows)


@dataclass(frozen=True, eq=False)
class Moments:
    """Total weight of some rows, their mean and their scatter ``sum w (x - mean)(x - mean)^T``."""

    weight: float
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None) -> Moments:
        """Take them from rows (n_rows, n_features), in blocks, so that no copy of the chunk is made."""
        d = x.shape[1]
        total = float(len(x)) if w is None else float(w.sum())
        scatter, drift = np.zeros((d, d)), np.zeros(d)
        if total == 0.0:
            return cls(0.0, drift, scatter)
        with np.errstate(over="ignore", invalid="ignore"):  # values that overflow are refused by name, in the end
            mean = (x.sum(axis=0, dtype=np.float64) if w is None else w @ x) / total
            for start in range(0, len(x), 4096):
                y = x[start : start + 4096] - mean
                wy = y if w is None else y * w[start : start + 4096, None]
                scatter += wy.T @ y
                drift += wy.sum(axis=0)
            # the corrected two-pass algorithm: sum w (x - mean) would be 0 if the mean had no rounding error of its
            # own. What it is instead, over the weight, is that error, and is taken out of both.
            drift /= total
            return cls(total, mean + drift, scatter - total * np.outer(drift, drift))

    def __add__(self, other: Moments) -> Moments:
        weight = self.weight + other.weight
        share = other.weight / weight if weight else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            # Chan et al. (1983): the two scatters, and the scatter of the two means about their common one
            delta = other.mean - self.mean
            scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.weight * share)
            return Moments(weight, self.mean + delta * share, scatter)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random: those of the smallest ``priority``, whatever the order in which chunks are merged."""

    priority: Array
    rows: Array
    weights: Array | None

    @classmethod
    def of(cls, x: NDArray[np.floating[Any]], w: Array | None, priority: Array, ceiling: float) -> Sample:
        """Draw from the rows of a chunk."""
        eligible = priority < ceiling
        if w is not None:
            eligible &= w > 0  # a row without weight is as good as absent, and starts are not made from it
        candidates = np.flatnonzero(eligible)
        chosen = candidates[_smallest(priority[candidates], sample_limit(x.shape[1]))]
        rows = x[chosen].astype(np.float64)
        rows[np.isinf(rows)] = np.nan  # missing as well, where rows with gaps are drawn
        return cls(priority[chosen], rows, None if w is None else w[chosen])

    def __add__(self, other: Sample) -> Sample:
        priority = np.concatenate([self.priority, other.priority])
        rows = np.concatenate([self.rows, other.rows])
        weights = None
        if self.weights is not None and other.weights is not None:
            weights = np.concatenate([self.weights, other.weights])
        limit = sample_limit(rows.shape[1])
        if len(priority) <= limit:
            return Sample(priority, rows, weights)
        chosen = _smallest(priority, limit)
        return Sample(priority[chosen], rows[chosen], None if weights is None else weights[chosen])


def _smallest(priority: Array, limit: int) -> NDArray[np.int64]:
    """Positions of the ``limit`` smallest priorities, in order of position."""
    if len(priority) <= limit:
        return np.arange(len(priority))
    return np.sort(np.argpartition(priority, limit)[:limit])


@dataclass(frozen=True, eq=False)
class DataSummary:
    """What a first read of the data gives: of the rows that are fitted, where nothing else is said.

    Where values are missing, centre and extremes are of those that a column has, and the covariances of the scatter of
    the rows that have both columns. Rows of the sample may have gaps, too: NaN.

    Attributes
    ----------
    n_rows : int
    total_weight : float
        Sum of the sample weights; the number of rows without them.
    center : ndarray of shape (n_features,)
        Weighted mean.
    scatter : ndarray of shape (n_features, n_features)
        ``sum w (x - center)(x - center)^T``.
    minimum, maximum : ndarray of shape (n_features,)
    chunk_rows : tuple of int
        Usable rows of each chunk, those that are held out included.
    sample : ndarray of shape (n_sampled, n_features)
        Rows drawn without replacement, in their order in the data: all of them if there are few.
    sample_weights : ndarray of shape (n_sampled,), or None
    unusable : Unusable or None
        The rows that were left out; None if none was.
    log_scale : float
        What a log density has too much, on average over the rows, as the columns were transformed: of scaled columns
        the sum of the scales' logarithms.
    held_out : HeldOut or None
        The rows that are held out; None where none are to be.
    known_resolution : Resolution or None
        Where it does not follow from the sample.
    gaps : Gaps or None
        The values that are missing in the rows that are fitted; None if none is.
    source_sample : ndarray of shape (n_sampled, n_columns), or None
        The rows of the sample as the data have them, where the sample is of transformed rows and does not tell.
    """

    n_rows: int
    total_weight: float
    center: Array
    scatter: Array
    minimum: Array
    maximum: Array
    chunk_rows: tuple[int, ...]
    sample: Array
    sample_weights: Array | None
    unusable: Unusable | None = None
    log_scale: float = 0.0
    held_out: HeldOut | None = None
    known_resolution: Resolution | None = None
    source_sample: Array | None = None
    gaps: Gaps | None = None

    @property
    def complete_scatter(self) -> Array:
        """The scatter of the rows without gaps, about the centre."""
        return self.scatter if self.gaps is None else self.gaps.complete_scatter

    def known(self, rows: Rows) -> Rows:
        """The rows, of which it is known now whether any has gaps: without some they go the way of all others."""
        left_out, held_out = self.unusable is not None, self.held_out is not None and self.held_out.gaps
        return replace(rows, gaps=rows.gaps and (self.gaps is not None or left_out or held_out))

    @cached_property
    def resolution(self) -> Resolution:
        """Steps, frequent values and copies in the whole sample; most fits of an estimator do not ask for them."""
        return self.known_resolution or Resolution.of(self.sample)

    @property
    def read_rows(self) -> tuple[int, ...]:
        """Rows of each chunk as it is read, those that are left out included."""
        left_out = self.unusable.chunk_rows if self.unusable else (0,) * len(self.chunk_rows)
        return tuple(a + b for a, b in zip(self.chunk_rows, left_out, strict=True))


@dataclass(frozen=True, eq=False)
class SummaryPart:
    """The summary of some consecutive chunks.

    ``chunk_rows`` counts usable rows, ``negative`` their weights below zero; moments, extremes and the sample are of
    the usable rows without those that are held out. ``moments`` are of complete rows, ``gaps`` of the others.
    """

    chunk_rows: tuple[int, ...]
    moments: Moments
    minimum: Array
    maximum: Array
    sample: Sample
    unusable: Unusable
    negative: int
    held_out: HeldOut | None
    gaps: GapSums | None = None

    def __add__(self, other: SummaryPart) -> SummaryPart:
        return SummaryPart(
            chunk_rows=self.chunk_rows + other.chunk_rows,
            moments=self.moments + other.moments,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            sample=self.sample + other.sample,
            unusable=self.unusable + other.unusable,
            negative=self.negative + other.negative,
            held_out=self.held_out + other.held_out if self.held_out and other.held_out else None,
            gaps=added(self.gaps, other.gaps),
        )


def summarize_rows(
    rows: Rows,
    seed: int,
    columns: Sequence[str] | None = None,
    *,
    drop: bool = False,
    starts: Sequence[int] | None = None,
) -> DataSummary:
    """Pass 0.

    Parameters
    ----------
    rows : Rows
        Those that are held out are counted only.
    seed : int
        Draws the sample of rows.
    columns : sequence of str
        Names for messages.
    drop : bool
        Whether rows that are not usable are left out, instead of refused; where rows may have gaps, those without any
        value always are.
    starts : sequence of int
        Number of each chunk's first row, where the chunks' lengths are not known.

    Raises
    ------
    UserError
        If there are no rows, none held out where some are to be, values that are NaN or infinite, or weights that are
        negative or add up to zero.
    """
    draw = draw_of(rows, seed, drop=drop, starts=starts)
    return finish_summary(map_reduce(rows, summarize_chunk, draw, TASK), columns, drop, rows.gaps)


def draw_of(rows: Rows, seed: int, *, drop: bool = False, starts: Sequence[int] | None = None) -> Draw:
    """Return how the sample of rows is drawn; parameters as of :func:`summarize_rows`."""
    # with weights, the rows that count may be few: none of them is left out beforehand; nor where rows are dropped
    n_rows = rows.array.shape[0] if rows.weights is None and not drop and not rows.gaps else math.nan
    return Draw.of(n_rows, rows.n_features, seed, first_rows(rows, starts), rows.holdout, rows.gaps)


def summarize_chunk(rows: Any, weights: Any, draw: Draw, number: int) -> SummaryPart:
    """Summarize a chunk: rows (n_rows, n_features), weights (n_rows,) or None, the sample's draw, chunk's number."""
    x, w = np.asarray(rows), None if weights is None else np.asarray(weights, dtype=np.float64)
    if w is not None and len(w) != len(x):
        raise UserError(
            f"sample_weight has {len(w)} numbers where X has {len(x)} rows (chunk {number}): partition both alike."
        )
    usable = usable_rows(x, w, gaps=draw.gaps)
    unusable = Unusable.of(x, w, usable, number)
    n_usable, fitted, held_out = len(x) - unusable.n_rows, usable, None
    negative = 0 if w is None else int(np.count_nonzero(usable & (w < 0)))
    if draw.holdout is not None:
        out = draw.holdout.is_held_out(number, len(x))
        held_out = HeldOut.of(*_take(x, w, usable & out))
        fitted = usable & ~out
    priority = draw.priorities(number, len(x))
    if not fitted.all():
        priority = priority[fitted]
        x, w = _take(x, w, fitted)
    moments, gaps = sums_of(x, w, draw.gaps)
    low, high = extremes_of(x, w, gaps is not None)
    return SummaryPart(
        chunk_rows=(n_usable,),
        moments=moments,
        minimum=low,
        maximum=high,
        sample=Sample.of(x, w, priority, draw.ceiling),
        unusable=unusable,
        negative=negative,
        held_out=held_out,
        gaps=gaps,
    )


def sums_of(x: NDArray[np.floating[Any]], w: Array | None, gaps: bool) -> tuple[Moments, GapSums | None]:
    """The moments of the rows (n_rows, n_features) without gaps, and sums over the others, if there may be some."""
    if not gaps or (complete := usable_rows(x)).all():
        return Moments.of(x, w), None
    return Moments.of(*_take(x, w, complete)), GapSums.of(*_take(x, w, ~complete))


def extremes_of(x: NDArray[np.floating[Any]], w: Array | None, gaps: bool) -> tuple[Array, Array]:
    """The smallest and the largest value of each column, infinite where there is none; ``gaps``: some are missing."""
    counted = x if w is None or w.all() else x[w > 0.0]  # a row of no weight is as if it were not there
    if not len(counted):
        return np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    if not gaps:
        return counted.min(axis=0).astype(np.float64), counted.max(axis=0).astype(np.float64)
    present = np.isfinite(counted)
    low = counted.min(axis=0, where=present, initial=np.inf)
    high = counted.max(axis=0, where=present, initial=-np.inf)
    return low.astype(np.float64), high.astype(np.float64)


def _take(x: NDArray[np.floating[Any]], w: Array | None, chosen: NDArray[np.bool_]) -> Weighted:
    return x[chosen], None if w is None else w[chosen]


def finish_summary(
    part: SummaryPart, columns: Sequence[str] | None = None, drop: bool = False, gaps: bool = False
) -> DataSummary:
    """The summary of all chunks; ``columns`` are names for messages, ``drop`` leaves unusable rows out.

    ``gaps`` tells whether rows may have some: those without any value are left out then.

    Raises
    ------
    UserError
        If there are no rows, values that are NaN or infinite (:class:`UnusableError`, unless ``drop``), or weights
        that are negative or add up to zero.
    """
    if not drop and not gaps:
        _refuse_bad_values(part, columns)
    n_rows = sum(part.chunk_rows) - (part.held_out.n_rows if part.held_out else 0)
    _refuse_bad_weights(part, n_rows, drop)
    _refuse_few_rows(part, n_rows, columns)
    _refuse_empty_columns(part, columns)
    total_weight, center, scatter, missing = moments_of(part.moments, part.gaps)
    _refuse_overflow(part, scatter, columns)
    return DataSummary(
        n_rows=n_rows,
        total_weight=total_weight,
        center=center,
        scatter=scatter,
        minimum=part.minimum,
        maximum=part.maximum,
        chunk_rows=part.chunk_rows,
        sample=part.sample.rows,
        sample_weights=part.sample.weights,
        unusable=part.unusable if part.unusable.n_rows else None,
        held_out=part.held_out,
        gaps=missing,
    )


def moments_of(one: Moments, gaps: GapSums | None) -> tuple[float, Array, Array, Gaps | None]:
    """Total weight, centre and scatter of complete rows and those with gaps together, and what is missing."""
    if gaps is None:
        return one.weight, one.mean, one.scatter, None
    pairs = PairMoments.of_complete(one.weight, one.mean, one.scatter) + gaps.moments
    total_weight, weights = one.weight + gaps.weight, np.diagonal(pairs.weight).copy()
    center = np.diagonal(pairs.mean).copy()
    off = one.mean - center
    complete = one.scatter + one.weight * np.outer(off, off)
    sums = np.diagonal(pairs.scatter)
    variances = np.divide(sums, weights, out=np.zeros_like(weights), where=weights > 0.0)
    found = Gaps(gaps.n_rows, gaps.columns, weights, variances, complete)
    return total_weight, center, pairs.common_scatter(total_weight), found


def _refuse_empty_columns(part: SummaryPart, columns: Sequence[str] | None) -> None:
    """Raise an error for a column that has no value in any row that is fitted."""
    empty = np.flatnonzero(part.minimum > part.maximum)
    if part.gaps is not None and len(empty):
        name = str(empty[0]) if columns is None else repr(columns[empty[0]])
        raise UserError(f"The column {name} has no value in any row of positive weight. Leave it out.")


def _refuse_few_rows(part: SummaryPart, n_rows: int, columns: Sequence[str] | None) -> None:
    n_usable, left_out, held_out = sum(part.chunk_rows), part.unusable.n_rows, part.held_out
    if n_rows < 2:
        of = f" that are usable, of {n_usable + left_out:,}" if left_out else ""
        of += f", {held_out.n_rows:,} of them held out" if held_out and n_usable else ""
        _, counts = _unusable_by_column(part, columns)
        why = f" Missing or infinite values: {counts}." if counts else ""
        has = counted(n_usable, "row") if n_usable else "no rows"
        raise UserError(f"The data has {has}{of} (n_samples = {n_rows}); a fit needs at least two.{why}")
    if held_out and not held_out.total_weight:
        raise UserError(
            f"held_out: so small a share holds out none of {n_usable:,} rows of positive weight. Take a larger share."
        )


def _unusable_by_column(part: SummaryPart, columns: Sequence[str] | None) -> tuple[list[str], str]:
    """Return the columns' names for messages, and how many values of each are missing."""
    found = part.unusable.columns
    names = [str(i) for i in range(len(found))] if columns is None else [repr(name) for name in columns]
    return names, ", ".join(f"{found[i]} in column {names[i]}" for i in np.flatnonzero(found))


def _refuse_bad_values(part: SummaryPart, columns: Sequence[str] | None) -> None:
    if part.unusable.first is None:
        return
    names, counts = _unusable_by_column(part, columns)
    chunk, row, column = part.unusable.first
    row += sum(part.chunk_rows[:chunk]) + sum(part.unusable.chunk_rows[:chunk])
    n_rows = sum(part.chunk_rows) + part.unusable.n_rows
    raise UnusableError(
        f"Input X contains NaN or infinity in {part.unusable.n_rows:,} of {counted(n_rows, 'row')}: {counts}; the "
        f"first in row {row} (counted from 0), column {names[column]}. A mixture needs finite numbers: drop or impute "
        "these rows first."
    )


def _refuse_overflow(part: SummaryPart, scatter: Array, columns: Sequence[str] | None) -> None:
    largest = np.maximum(np.abs(part.minimum), np.abs(part.maximum))
    if part.held_out:
        largest = np.maximum(largest, np.abs(part.held_out.center))
    if np.isfinite(scatter).all() and largest.max() <= LARGEST:
        return
    i = int(largest.argmax())
    name = str(i) if columns is None else repr(columns[i])
    raise TooLargeError(
        f"The values of column {name} reach {largest[i]:.3g}, and their squares are too large for float64. Scale the "
        "data, to standard deviations of about one."
    )


def _refuse_bad_weights(part: SummaryPart, n_rows: int, drop: bool) -> None:
    bad = part.negative + (0 if drop else part.unusable.weights)
    if bad:
        raise UserError(
            f"{bad} sample weights are negative{'' if drop else ', NaN or infinite'}: "
            "every weight must be a finite number of at least 0."
        )
    if part.moments.weight + (part.gaps.weight if part.gaps else 0.0) == 0.0 and n_rows:
        raise UserError("The sample weights add up to zero; at least one row needs a positive weight.")
