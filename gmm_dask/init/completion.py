"""The sample without its gaps: missing values are drawn from a mixture, given the others, so that starts can use it.

Means in their place would put the rows of a pattern on a plane, and a component that lies in it has no width there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.responsibilities import kmeans, start_states
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.gaps.chunks import draw_incomplete
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_statistics

Array = NDArray[np.float64]

# the mixture is fitted to so many rows of the sample
MOST_ROWS = 1 << 14
# and has at least so many rows for each of its parameters
ROWS_PER_PARAMETER = 5
MOST_COMPONENTS = 10
SETTINGS = Settings(tol=1e-2, max_iter=20)


def with_complete_sample(
    data_summary: DataSummary, candidates: Sequence[Candidate], reg_covar: float | Array
) -> DataSummary:
    """Return the data summary with a sample without gaps.

    Two mixtures are fitted to a part of the sample by EM for incomplete rows: one Gaussian, and, from the clusters of
    the sample that it completes, as many components as the largest of the candidates has, as far as the rows tell so
    many. The draws are the same each time.
    """
    if np.isfinite(data_summary.sample).all():
        return data_summary
    summary, random = data_summary, np.random.RandomState(0)
    most = max(candidate.n_components for candidate in candidates)
    for k in dict.fromkeys((1, _n_components(data_summary, most))):
        state = _fitted(summary, data_summary, k, reg_covar)
        if state is None:
            break
        sample = draw_incomplete(data_summary.sample, *state.model, random)
        summary = replace(data_summary, sample=sample, known_resolution=data_summary.resolution)
    return summary


def _n_components(data_summary: DataSummary, most: int) -> int:
    """How many components the rows tell the parameters of."""
    n_rows, d = min(len(data_summary.sample), MOST_ROWS), len(data_summary.center)
    return max(1, min(most, MOST_COMPONENTS, n_rows // (ROWS_PER_PARAMETER * (d + 1) * (d + 2) // 2)))


def _fitted(completed: DataSummary, data_summary: DataSummary, k: int, reg_covar: float | Array) -> State | None:
    """The fit of so many components to a part of the sample, or None if it is singular."""
    candidate, step = Candidate("full", k), -(-len(data_summary.sample) // MOST_ROWS)
    weights = None if data_summary.sample_weights is None else data_summary.sample_weights[::step]
    part = replace(completed, sample=completed.sample[::step], sample_weights=weights)
    if k == 1:
        family = get_family(candidate.covariance_type)
        covariance = data_summary.scatter / data_summary.total_weight
        covariance[np.diag_indices_from(covariance)] += np.maximum(reg_covar, 1e-9 * np.diagonal(covariance))
        first = [State(candidate, 0, family.parameters(np.ones(1), data_summary.center[None], covariance[None]))]
    else:
        first = start_states(kmeans, [candidate], part, 1, lambda: np.random.RandomState(0), reg_covar)
    rows = Rows(np.ascontiguousarray(data_summary.sample[::step]), weights, gaps=True)
    total_weight = float(len(rows.array)) if weights is None else float(weights.sum())
    collect = partial(collect_statistics, rows, data_summary)
    (state,) = loop.run(first, collect, total_weight, replace(SETTINGS, reg_covar=reg_covar))
    return state if state.usable else None
