"""Remarks about values and rows that repeat: fill values, frequent values, copies of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.data_summary import DataSummary

Array = NDArray[np.float64]

# values that conventions put where there is none: nines, powers of ten, netCDF's defaults, the ends of integers, and
# the largest float32
FILL_VALUES = np.array(
    [
        *(10.0**digits - 1.0 for digits in range(2, 8)),
        *(10.0**power for power in range(10, 38)),
        9.969209968386869e36,
        *(2.0**bits for bits in (15, 31, 63)),
        *(2.0**bits - 1.0 for bits in (15, 16, 31, 32)),
        float(np.finfo(np.float32).max),
    ]
)
# float32 holds 1e20 to a ten-millionth
SAME = 1e-6
# a value of so many rows, or more copies of rows than this, is worth a remark
FREQUENT = 0.2


def repeat_notes(data_summary: DataSummary, columns: Sequence[str]) -> Iterator[str]:
    """Yield remarks of pass 0 about what repeats in its sample, except in constant columns."""
    sample, resolution = data_summary.sample, data_summary.resolution
    varying = np.flatnonzero(data_summary.minimum < data_summary.maximum).tolist()
    fills = {i: _fill_values(sample[:, i]) for i in varying}
    for i in varying:
        for value, share in fills[i]:
            yield (
                f"the column {columns[i]!r} has the value {value:.7g} in {share:.2%} of the rows, far from all others: "
                "it looks like a fill value. It is clustered like a measurement; write NaN in its place and set "
                "data.missing: drop to leave these rows out, or likelihood to use what else they have"
            )
    for i in varying:
        told = any(value == resolution.frequent[i] for value, _ in fills[i])
        if resolution.frequent_share[i] >= FREQUENT and not told:
            yield (
                f"the column {columns[i]!r} has the value {resolution.frequent[i]:.7g} in "
                f"{resolution.frequent_share[i]:.0%} of the rows"
            )
    if resolution.copies >= FREQUENT:
        yield f"{resolution.copies:.0%} of the rows are exact copies of another row"


def _fill_values(values: Array) -> list[tuple[float, float]]:
    """Return the repeated values of a column (n_rows,) that look like fill values, with their shares of the rows."""
    distinct, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    known = np.isclose(np.abs(distinct)[:, None], FILL_VALUES, rtol=SAME, atol=0.0).any(axis=1) & (counts > 1)
    rest = distinct[~known]
    if len(rest) == 0:
        return []
    # farther from the other values than these are from each other
    low, high = rest[0], rest[-1]
    far = known & ((distinct < low - (high - low)) | (distinct > high + (high - low)))
    return list(zip(distinct[far].tolist(), (counts[far] / len(values)).tolist(), strict=True))
