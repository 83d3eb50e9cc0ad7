"""Fitting the steps of a configuration to the data, with as few reads as they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import DataSummary
from pipeline.config.transforms import PcaStep, TransformStep
from pipeline.transforms.base import Array, positions_of
from pipeline.transforms.chain import TRANSFORMS, Chain
from pipeline.transforms.scale import Scale

# reads the data once for a summary of the rows in the units after a chain
Read = Callable[[Chain], DataSummary]


def first_steps(steps: Sequence[TransformStep], columns: Sequence[str]) -> Chain:
    """Return the steps up to the first that learns from the data: they are applied as pass 0 reads the rows."""
    chain = Chain()
    for step in steps:
        if TRANSFORMS[step.name].learns:
            break
        chain = chain.then(TRANSFORMS[step.name].fit(step.settings, chain.names(columns), None))
    return chain


def fit_steps(
    steps: Sequence[TransformStep], columns: Sequence[str], summary: DataSummary, read: Read
) -> tuple[Chain, DataSummary]:
    """Fit the steps one after the other.

    Parameters
    ----------
    steps : sequence of TransformStep
    columns : sequence of str
        Names of the data's columns.
    summary : DataSummary
        Of the rows after :func:`first_steps`, from pass 0.
    read : callable
        Called for each further read (:func:`more_reads` of them).

    Returns
    -------
    chain : Chain
    summary : DataSummary
        In the units after it.

    Raises
    ------
    UserError
        If the data do not have what a step takes.
    """
    chain, known = first_steps(steps, columns), True
    for step in steps[len(chain.steps) :]:
        kind = TRANSFORMS[step.name]
        if kind.learns and not known:
            summary, known = read(chain), True
        found = kind.fit(step.settings, chain.names(columns), summary)
        chain = chain.then(found)
        if known and isinstance(found, Scale):
            summary = scaled_summary(summary, found)
        else:
            known = False
        require_distinct(chain.names(columns))
    return chain, summary if known else read(chain)


def is_scaling(steps: Sequence[TransformStep]) -> bool:
    """Whether there are no steps but scalings, if any."""
    return all(step.name == Scale.kind for step in steps)


def more_reads(steps: Sequence[TransformStep]) -> int:
    """Return how many reads after pass 0 the steps take to be fitted.

    Scaling follows from the sums of the read before it; the sums after any other step take a read of their own, if
    that step is not among the first ones.
    """
    learned = [TRANSFORMS[step.name].learns for step in steps]
    first = learned.index(True) if any(learned) else len(steps)
    reads, known = 0, True
    for step in steps[first:]:
        if TRANSFORMS[step.name].learns and not known:
            reads, known = reads + 1, True
        known = known and step.name == Scale.kind
    return reads + (not known)


def scaled_summary(summary: DataSummary, scaling: Scale) -> DataSummary:
    """Return the data summary after a scaling, without a read: a pass over the scaled rows would find the same."""
    center, scale, held_out, gaps = scaling.center, scaling.scale, summary.held_out, summary.gaps
    log_scale = _mean_log(scale, summary.total_weight, None if gaps is None else gaps.weights)
    if held_out is not None:
        of_held_out = _mean_log(scale, held_out.total_weight, held_out.weights)
        held_out = replace(
            held_out, center=(held_out.center - center) / scale, log_scale=held_out.log_scale + of_held_out
        )
    return replace(
        summary,
        center=(summary.center - center) / scale,
        scatter=summary.scatter / np.outer(scale, scale),
        minimum=(summary.minimum - center) / scale,
        maximum=(summary.maximum - center) / scale,
        sample=(summary.sample - center) / scale,
        known_resolution=summary.resolution.scaled(center, scale),
        log_scale=summary.log_scale + log_scale,
        held_out=held_out,
        gaps=None if gaps is None else gaps.scaled(scale),
    )


def _mean_log(scale: Array, total_weight: float, weights: Array | None) -> float:
    """Return the mean over rows of the sum of the logarithms; ``weights`` are of the rows that have each column."""
    return float(np.log(scale).sum()) if weights is None else float(weights @ np.log(scale)) / total_weight


def check_steps(steps: Sequence[TransformStep], columns: Sequence[str]) -> int:
    """Return how many features the steps make of columns at most, before anything is read.

    Raises
    ------
    UserError
        If a step names a column that is not there at that step, or is to keep more components than there are columns.
    """
    names = tuple(columns)
    for step in steps:
        settings = step.settings
        if isinstance(settings, PcaStep):
            names = _after_pca(settings, names)
        elif step.name == "arcsinh":  # may name its columns with their cofactors
            TRANSFORMS[step.name].fit(settings, names, None)
        else:
            positions_of(settings.columns, names, step.name)
        require_distinct(names)
    return len(names)


def _after_pca(settings: PcaStep, names: tuple[str, ...]) -> tuple[str, ...]:
    taken = set(positions_of(settings.columns, names, "pca").tolist())
    wanted = settings.n_components
    n_kept = wanted if isinstance(wanted, int) else len(taken)
    if n_kept > len(taken):
        raise UserError(
            f"data.transform: pca is to keep {n_kept} components of {len(taken)} columns. Set n_components to "
            f"{len(taken)} or less."
        )
    others = [name for i, name in enumerate(names) if i not in taken]
    return (*others, *(f"{settings.prefix}{i}" for i in range(1, n_kept + 1)))


def require_distinct(names: Sequence[str]) -> None:
    """Raise :class:`UserError` if two columns have one name after a step."""
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise UserError(
            f"data.transform: two columns are called {repeated!r} after pca. Give it another prefix, such as "
            "{pca: {prefix: temperature}}."
        )
