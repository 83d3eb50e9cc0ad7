"""What a read of the data adds up of the rows in the units after some transforms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.data_summary import (
    DataSummary,
    Draw,
    Moments,
    SummaryPart,
    extremes_of,
    moments_of,
    summarize_chunk,
    sums_of,
)
from gmm_dask.passes.gaps.moments import GapSums, added
from gmm_dask.passes.holdout import HeldOut, Holdout, usable_rows
from pipeline.transforms.chain import Chain

Array = NDArray[np.float64]
Weighted = tuple[NDArray[np.floating[Any]], Array | None]


@dataclass(frozen=True, eq=False)
class LogSlopes:
    """Sums over rows of weights times :meth:`Chain.log_slopes`."""

    fitted: float
    held_out: float

    def __add__(self, other: LogSlopes) -> LogSlopes:
        return LogSlopes(self.fitted + other.fitted, self.held_out + other.held_out)


@dataclass(frozen=True, eq=False)
class TransformedSums:
    """Sums over rows that have images by a chain; those that are held out apart.

    ``moments`` are of the images without gaps, ``gaps`` of the others.
    """

    moments: Moments
    minimum: Array
    maximum: Array
    held_out: HeldOut | None
    log_slopes: LogSlopes
    gaps: GapSums | None

    @classmethod
    def of(
        cls,
        raw: Weighted,
        chain: Chain,
        images: NDArray[np.floating[Any]],
        held_out: NDArray[np.bool_],
        may_have_gaps: bool = False,
    ) -> Self:
        """Take them from usable rows of a chunk; ``held_out`` tells which are held out, none if all are fitted."""
        (x, w), fitted = raw, ~held_out
        slopes = np.broadcast_to(chain.log_slopes(x), len(x))
        z, of_fitted = images[fitted], None if w is None else w[fitted]
        moments, gaps = sums_of(z, of_fitted, may_have_gaps)
        return cls(
            moments,
            *extremes_of(z, of_fitted, gaps is not None),
            HeldOut.of(images[held_out], None if w is None else w[held_out]),
            LogSlopes(
                _weighted(slopes[fitted], of_fitted), _weighted(slopes[held_out], None if w is None else w[held_out])
            ),
            gaps,
        )

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            moments=self.moments + other.moments,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            held_out=self.held_out + other.held_out if self.held_out and other.held_out else None,
            log_slopes=self.log_slopes + other.log_slopes,
            gaps=added(self.gaps, other.gaps),
        )

    def summary(self, found: DataSummary, chain: Chain) -> DataSummary:
        """Return the data summary in the units after the chain, given that of the rows as they are stored."""
        held_out = found.held_out
        if held_out is not None:
            assert self.held_out is not None
            log_scale = -self.log_slopes.held_out / held_out.total_weight
            held_out = replace(held_out, center=self.held_out.center, log_scale=log_scale)
        _, center, scatter, gaps = moments_of(self.moments, self.gaps)
        return replace(
            found,
            center=center,
            scatter=scatter,
            gaps=gaps,
            minimum=self.minimum,
            maximum=self.maximum,
            sample=np.asarray(chain.rows(found.sample), dtype=np.float64),
            source_sample=found.sample,
            log_scale=-self.log_slopes.fitted / found.total_weight,
            held_out=held_out,
            known_resolution=None,
        )


def _weighted(values: Array, weights: Array | None) -> float:
    return float(values.sum() if weights is None else weights @ values)


@dataclass(frozen=True, eq=False)
class TransformedPart:
    """The summary of some consecutive chunks as they are stored, and the sums of their images.

    ``outside`` counts the values of each column that are finite and have no image; they are unusable in ``summary``.
    """

    summary: SummaryPart
    transformed: TransformedSums
    outside: NDArray[np.int64]

    def __add__(self, other: TransformedPart) -> TransformedPart:
        return TransformedPart(
            self.summary + other.summary, self.transformed + other.transformed, self.outside + other.outside
        )


def summarize_transformed(rows: Any, weights: Any, shared: tuple[Draw, Chain], number: int) -> TransformedPart:
    """Summarize a chunk, and its image by a chain that keeps the columns apart."""
    draw, chain = shared
    x = np.asarray(rows)
    images = chain.rows(x)
    has_none = np.isfinite(x) & ~np.isfinite(images)
    outside = np.count_nonzero(has_none, axis=0).astype(np.int64)
    if outside.any():
        x = np.where(has_none, x.dtype.type(np.nan), x)
    summary = summarize_chunk(x, weights, draw, number)
    return TransformedPart(summary, _sums((x, weights), chain, images, draw.holdout, number, draw.gaps), outside)


def sum_transformed(
    rows: Any, weights: Any, shared: tuple[Chain, Holdout | None, bool], number: int
) -> TransformedSums:
    """Sum up the images of a chunk by a chain; the last that is shared is whether rows may have gaps."""
    chain, holdout, gaps = shared
    x = np.asarray(rows)
    return _sums((x, weights), chain, chain.rows(x), holdout, number, gaps)


def _sums(
    raw: tuple[Any, Any],
    chain: Chain,
    images: NDArray[np.floating[Any]],
    holdout: Holdout | None,
    number: int,
    gaps: bool,
) -> TransformedSums:
    x, w = raw[0], None if raw[1] is None else np.asarray(raw[1], dtype=np.float64)
    held_out = np.zeros(len(x), dtype=bool) if holdout is None else holdout.is_held_out(number, len(x))
    usable = usable_rows(images, w, gaps=gaps)
    if not usable.all():
        x, images, held_out, w = x[usable], images[usable], held_out[usable], None if w is None else w[usable]
    return TransformedSums.of((x, w), chain, images, held_out, gaps)
