"""The summary of row outputs: counts, moments of the log densities, and anomalies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.store.attributes import Attributes
from pipeline.store.zarr_rows import Totals


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
    parquet : str or None
        Name of the folder beside the store that holds the row outputs, if they are Parquet files.
    """

    n_rows: int
    usable: int
    unusable: int
    label_counts: tuple[int, ...]
    mean_log_density: float | None
    deviation_of_log_density: float | None
    anomalies: int | None = None
    anomaly_threshold: float | None = None
    anomaly_quantile: float | None = None
    anomaly_rank_error: float | None = None
    parquet: str | None = None

    @classmethod
    def of_chunks(cls, chunks: Iterable[Totals], n_rows: int, shift: float) -> Self:
        """Add up the totals of all chunks, in their order.

        The moments are those of ``log density - shift``: with a shift near the mean, such as that of the fit, the
        difference of squares in the variance cancels few digits.
        """
        totals = Totals.from_array(np.array([one.to_array() for one in chunks]).sum(axis=0))
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
