"""Pass 0: what the data looks like before anything is fitted, from one read of it.

Moments are merged as in Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError

Array = NDArray[np.float64]

# the sample of rows that starts are made from: all rows, when there are no more than this
SAMPLE_BYTES = 16 << 20
SAMPLE_ROWS = 1 << 18


def sample_limit(n_features: int) -> int:
    """Largest number of rows in the sample that starts are made from."""
    return max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // (8 * n_features)))


@dataclass(frozen=True)
class Draw:
    """How the sample is drawn: the seed, and the priority from which on a row surely is not in it.

    Each row gets a random priority between 0 and 1, and the smallest make the sample. Where the number of rows is
    known, most rows are out at once, and no chunk sends more than its share.
    """

    seed: int
    ceiling: float

    @classmethod
    def of(cls, n_rows: float, n_features: int, seed: int) -> Draw:
        """The draw from ``n_rows`` rows, NaN if unknown."""
        limit = sample_limit(n_features)
        if math.isnan(n_rows) or n_rows <= limit:
            return cls(seed, 1.0)
        # of the priorities under the ceiling there are fewer than the limit about once in 10^23 draws
        return cls(seed, min(1.0, (limit + 10.0 * math.sqrt(limit) + 100.0) / n_rows))


@dataclass(frozen=True, eq=False)
class Profile:
    """What a first read of the data gives.

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
        Rows of each chunk.
    sample : ndarray of shape (n_sampled, n_features)
        Rows drawn without replacement, in their order in the data: all of them if there are few.
    sample_weights : ndarray of shape (n_sampled,), or None
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


@dataclass(frozen=True, eq=False)
class Part:
    """The profile of some chunks, as it is merged.

    ``priority`` (n_sampled,) are random numbers, one a row of positive weight, from a stream of the chunk's own: the
    smallest make the sample, in whatever order the chunks are merged. ``position`` (n_sampled, 2) is the number of
    the chunk and the row in it. ``bad`` (n_features,) counts values that are NaN or infinite; ``first_bad`` is (chunk,
    row, column) of the first, or None.
    """

    chunk_rows: tuple[int, ...]
    weight: float
    mean: Array
    scatter: Array
    minimum: Array
    maximum: Array
    bad: NDArray[np.int64]
    first_bad: tuple[int, int, int] | None
    bad_weights: int
    priority: Array
    position: NDArray[np.int64]
    sample: Array
    sample_weights: Array | None


def profile_chunk(rows: Any, weights: Any, draw: Draw, number: int) -> Part:
    """Profile one chunk: rows (n_rows, n_features), weights (n_rows,) or None, the sample's draw, chunk's number."""
    x = np.asarray(rows)
    w, bad_weights = _usable_weights(weights)
    if w is not None and len(w) != len(x):
        raise UserError(
            f"sample_weight has {len(w)} numbers where X has {len(x)} rows (chunk {number}): partition both alike."
        )
    finite = np.isfinite(x)
    first_bad = None
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        first_bad = (number, int(row), int(column))
        x = np.where(finite, x, 0)
    mean, scatter, weight = _moments(x, w)
    low, high = (x.min(axis=0), x.max(axis=0)) if len(x) else (mean + np.inf, mean - np.inf)
    stream = np.random.Philox(key=np.array([draw.seed, number], dtype=np.uint64))
    priority = np.random.Generator(stream).random(len(x))
    eligible = priority < draw.ceiling
    if w is not None:
        eligible &= w > 0  # a row without weight is as good as absent, and starts are not made from it
    candidates = np.flatnonzero(eligible)
    chosen = candidates[_smallest(priority[candidates], sample_limit(x.shape[1]))]
    return Part(
        chunk_rows=(len(x),),
        weight=weight,
        mean=mean,
        scatter=scatter,
        minimum=low.astype(np.float64),
        maximum=high.astype(np.float64),
        bad=np.count_nonzero(~finite, axis=0),
        first_bad=first_bad,
        bad_weights=bad_weights,
        priority=priority[chosen],
        position=np.column_stack([np.full(len(chosen), number), chosen]),
        sample=x[chosen].astype(np.float64),
        sample_weights=None if w is None else w[chosen],
    )


def _usable_weights(weights: Any) -> tuple[Array | None, int]:
    """Weights with a zero for each that cannot be used, and how many these are."""
    if weights is None:
        return None, 0
    w = np.asarray(weights, dtype=np.float64)
    bad = ~(np.isfinite(w) & (w >= 0))
    return (np.where(bad, 0.0, w) if bad.any() else w), int(np.count_nonzero(bad))


def _moments(x: NDArray[np.floating], w: Array | None) -> tuple[Array, Array, float]:
    """Mean, scatter about it and total weight of rows, in blocks, so that no copy of the chunk is made."""
    d = x.shape[1]
    total = float(len(x)) if w is None else float(w.sum())
    if total == 0.0:
        return np.zeros(d), np.zeros((d, d)), 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # values that overflow are refused by name, in the end
        return *_sums(x, w, total), total


def _sums(x: NDArray[np.floating], w: Array | None, total: float) -> tuple[Array, Array]:
    d = x.shape[1]
    mean = (x.sum(axis=0, dtype=np.float64) if w is None else w @ x) / total
    scatter = np.zeros((d, d))
    drift = np.zeros(d)
    for start in range(0, len(x), 4096):
        y = x[start : start + 4096] - mean
        wy = y if w is None else y * w[start : start + 4096, None]
        scatter += wy.T @ y
        drift += wy.sum(axis=0)
    # the mean's own rounding error, taken out of both
    drift /= total
    return mean + drift, scatter - total * np.outer(drift, drift)


def _smallest(priority: Array, limit: int) -> NDArray[np.int64]:
    """Positions of the ``limit`` smallest priorities, in order of position."""
    if len(priority) <= limit:
        return np.arange(len(priority))
    return np.sort(np.argpartition(priority, limit)[:limit])


def merge_parts(parts: Sequence[Part]) -> Part:
    """Merge profiles of consecutive chunks."""
    total = parts[0]
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts[1:]:
            total = _merge_two(total, part)
    return total


def _merge_two(a: Part, b: Part) -> Part:
    weight = a.weight + b.weight
    share = b.weight / weight if weight else 0.0
    delta = b.mean - a.mean
    merged = Part(
        chunk_rows=a.chunk_rows + b.chunk_rows,
        weight=weight,
        mean=a.mean + delta * share,
        scatter=a.scatter + b.scatter + np.outer(delta, delta) * (a.weight * share),
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
        bad=a.bad + b.bad,
        first_bad=a.first_bad if a.first_bad is not None else b.first_bad,
        bad_weights=a.bad_weights + b.bad_weights,
        priority=np.concatenate([a.priority, b.priority]),
        position=np.concatenate([a.position, b.position]),
        sample=np.concatenate([a.sample, b.sample]),
        sample_weights=_concatenate(a.sample_weights, b.sample_weights),
    )
    return _thin(merged, sample_limit(len(merged.mean)))


def _concatenate(a: Array | None, b: Array | None) -> Array | None:
    return None if a is None or b is None else np.concatenate([a, b])


def _thin(part: Part, limit: int) -> Part:
    if len(part.priority) <= limit:
        return part
    chosen = _smallest(part.priority, limit)
    return replace(
        part,
        priority=part.priority[chosen],
        position=part.position[chosen],
        sample=part.sample[chosen],
        sample_weights=None if part.sample_weights is None else part.sample_weights[chosen],
    )


def finish_profile(part: Part, columns: Sequence[str] | None = None) -> Profile:
    """The profile of all chunks; ``columns`` are names for messages.

    Raises
    ------
    UserError
        If there are no rows, values that are NaN or infinite, or weights that are negative or add up to zero.
    """
    _refuse_bad_values(part, columns)
    _refuse_bad_weights(part)
    _refuse_overflow(part, columns)
    return Profile(
        n_rows=sum(part.chunk_rows),
        total_weight=part.weight,
        center=part.mean,
        scatter=part.scatter,
        minimum=part.minimum,
        maximum=part.maximum,
        chunk_rows=part.chunk_rows,
        sample=part.sample,
        sample_weights=part.sample_weights,
    )


def _refuse_bad_values(part: Part, columns: Sequence[str] | None) -> None:
    n_rows = sum(part.chunk_rows)
    if n_rows < 2:
        raise UserError(f"The data has {n_rows or 'no'} rows (n_samples = {n_rows}); a fit needs at least two.")
    if part.first_bad is None:
        return
    names = [str(i) for i in range(len(part.bad))] if columns is None else [repr(name) for name in columns]
    counts = ", ".join(f"{part.bad[i]} in column {names[i]}" for i in np.flatnonzero(part.bad))
    chunk, row, column = part.first_bad
    row += sum(part.chunk_rows[:chunk])
    raise UserError(
        f"Input X contains NaN or infinity: {counts}; the first in row {row} (counted from 0), column {names[column]}. "
        "A mixture needs finite numbers: drop or impute these rows first."
    )


def _refuse_overflow(part: Part, columns: Sequence[str] | None) -> None:
    if np.isfinite(part.scatter).all():
        return
    largest = np.maximum(np.abs(part.minimum), np.abs(part.maximum))
    i = int(largest.argmax())
    name = str(i) if columns is None else repr(columns[i])
    raise UserError(
        f"The values of column {name} reach {largest[i]:.3g}, and their squares are too large for float64. Scale the "
        "data, to standard deviations of about one."
    )


def _refuse_bad_weights(part: Part) -> None:
    if part.bad_weights:
        raise UserError(
            f"{part.bad_weights} sample weights are negative, NaN or infinite: "
            "every weight must be a finite number of at least 0."
        )
    if part.weight == 0.0:
        raise UserError("The sample weights add up to zero; at least one row needs a positive weight.")
