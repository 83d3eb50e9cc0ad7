"""Criteria of all candidates, and the parameters of those that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.diagnostics import AGREEMENT_NUMBERS, agreement
from gmm_dask.selection.outcomes import Outcome, best_outcome, by_candidate
from gmm_dask.selection.results import COLUMNS, EFFORT_COLUMNS
from pipeline.store.arrays import StorePath, get, get_text, open_root, put

Array = NDArray[np.float64]

_CANDIDATE = ("n_components", "covariance_type")
_COLUMNS = (*COLUMNS, *EFFORT_COLUMNS)


class Effort(NamedTuple):
    """What the fits of all starts took.

    Attributes
    ----------
    fits : int
    iterations : int
        Of all fits; a pass over the data is an iteration of each fit that is running.
    extrapolations : int
        Iterations at extrapolated parameters, those that were given up among them.
    falls : int
        Extrapolations that were given up, because the likelihood fell there.
    sample_iterations : int
        What the fits had done over a sample in memory, before they took passes.
    """

    fits: int
    iterations: int
    extrapolations: int
    falls: int
    sample_iterations: int


# -- criteria ------------------------------------------------------------------------------------------------


def write_criteria(path: StorePath, outcomes: Sequence[Outcome]) -> None:
    """Write the criteria of every start, and of each candidate by its best start.

    Parameters
    ----------
    path : str or Path
        The result store.
    outcomes : sequence of Outcome
        All starts of all candidates.
    """
    counts = sorted({outcome.state.n_components for outcome in outcomes})
    kinds = list(dict.fromkeys(outcome.state.covariance_type for outcome in outcomes))
    starts = sorted({outcome.state.start for outcome in outcomes})
    group = open_root(path, "r+").create_group("criteria", overwrite=True)
    put(group, "n_components", counts, ("n_components",))
    put(group, "covariance_type", kinds, ("covariance_type",))
    put(group, "start", starts, ("start",))
    best = [best_outcome(of_candidate) for of_candidate in by_candidate(outcomes).values()]
    places = [(counts.index(o.state.n_components), kinds.index(o.state.covariance_type)) for o in best]
    _put_table(group, "", best, places, (len(counts), len(kinds)), _CANDIDATE)
    agreed = [agreement(of_candidate) for of_candidate in by_candidate(outcomes).values()]
    which = np.zeros((len(counts), len(kinds), len(starts)), dtype=bool)
    for place, found in zip(places, agreed, strict=True):
        which[place] = np.isin(starts, found.agreeing)
    put(group, "start_agreed", which, (*_CANDIDATE, "start"))
    for name in AGREEMENT_NUMBERS:
        values = np.full((len(counts), len(kinds)), np.nan)
        for place, found in zip(places, agreed, strict=True):
            values[place] = getattr(found, name)
        put(group, name, values, _CANDIDATE)
    places_of_starts = [
        (counts.index(o.state.n_components), kinds.index(o.state.covariance_type), starts.index(o.state.start))
        for o in outcomes
    ]
    shape = len(counts), len(kinds), len(starts)
    _put_table(group, "start_", outcomes, places_of_starts, shape, (*_CANDIDATE, "start"))


def _put_table(
    group: zarr.Group,
    prefix: str,
    outcomes: Sequence[Outcome],
    places: Sequence[tuple[int, ...]],
    shape: tuple[int, ...],
    dimensions: tuple[str, ...],
) -> None:
    for column in _COLUMNS:
        values = np.full(shape, column.missing, dtype=column.dtype)
        for place, outcome in zip(places, outcomes, strict=True):
            values[place] = column.value(outcome)
        put(group, f"{prefix}{column.name}", values, dimensions)


def read_criteria(path: StorePath) -> pd.DataFrame:
    """The candidates' criteria.

    Returns
    -------
    DataFrame
        One row per candidate, with the columns ``n_components``, ``covariance_type``, those of
        :data:`gmm_dask.selection.results.COLUMNS` and ``EFFORT_COLUMNS``, and the fields of
        :class:`gmm_dask.selection.diagnostics.Agreement`; NaN where a candidate could not be fitted, no rows were held
        out, or the starts do not compare.

    Raises
    ------
    UserError
        If no criteria are there yet.
    """
    root = open_root(path)
    try:
        group = cast(zarr.Group, root["criteria"])
        counts, kinds = get(group, "n_components").tolist(), get_text(group, "covariance_type")
        names = (*(column.name for column in _COLUMNS), *AGREEMENT_NUMBERS)
        values = {name: get(group, name).T.ravel().tolist() for name in names} | _agreeing(group)
    except KeyError:
        raise UserError(
            f"the result store {path} has no criteria yet; they are written when every candidate has finished."
        ) from None
    candidates = [(count, kind) for kind in kinds for count in counts]
    table = pd.DataFrame(candidates, columns=list(_CANDIDATE)).assign(**values)
    return table[table["status"] != ""].reset_index(drop=True)


def _agreeing(group: zarr.Group) -> dict[str, list[Any]]:
    agreed, starts = get(group, "start_agreed"), get(group, "start")
    every = agreed.transpose(1, 0, 2).reshape(-1, len(starts))
    return {"agreeing": [tuple(starts[each].tolist()) for each in every]}


def read_effort(path: StorePath) -> Effort:
    """What the fits of a complete store took."""
    group = cast(zarr.Group, open_root(path)["criteria"])
    fits = int(np.count_nonzero(get(group, "start_status") != ""))
    names = [f"start_{name}" for name in ("n_iter", "extrapolations", "falls", "sample_iter")]
    return Effort(fits, *(int(get(group, name).sum()) for name in names))


# -- models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StoredModel(State):
    """A candidate as the store holds it: its components sorted by weight, its lower bounds in the user's units.

    Attributes
    ----------
    columns : tuple of str
        Names of the features, in order.
    center, scale : ndarray of shape (n_features,), or None
        The parameters are those of rows ``(x - center) / scale``; None where rows were fitted as they are.
    """

    columns: tuple[str, ...] = ()
    center: Array | None = None
    scale: Array | None = None

    @property
    def in_units(self) -> tuple[str, Parameters]:
        """Covariance type and parameters in the user's units: with scaling, a spherical mixture is a diagonal one."""
        family, parameters = self.model
        if self.center is None or self.scale is None:
            return family.name, parameters
        return family.unscaled(parameters, self.center, self.scale)


def write_models(
    path: StorePath,
    states: Iterable[State],
    columns: Sequence[str],
    center: Array | None = None,
    scale: Array | None = None,
) -> None:
    """Write models, each with its components sorted by weight, the largest first.

    Parameters
    ----------
    path : str or Path
        The result store.
    states : iterable of State
        One for each candidate that is kept; each has parameters.
    columns : sequence of str
        Names of the features.
    center, scale : ndarray of shape (n_features,), or None
        What the rows were scaled by before the fit: means and covariances in the user's units are written beside the
        fitted ones, and lower bounds are those of the unscaled rows.
    """
    models = open_root(path, "r+").create_group("models", overwrite=True)
    for state in states:
        assert state.parameters is not None
        parameters = _by_weight(state.covariance_type, state.parameters)
        group = models.create_group(state.candidate.name, attributes=_attributes(state))
        dimensions = _covariance_dimensions(state.covariance_type)
        bounds = np.asarray(state.lower_bounds, dtype=np.float64)
        put(group, "feature", list(columns), ("feature",))
        put(group, "weights", parameters.weights, ("component",))
        put(group, "means", parameters.means, ("component", "feature"))
        put(group, "covariances", parameters.covariances, dimensions)
        put(group, "precisions_cholesky", parameters.precisions_cholesky, dimensions)
        put(group, "lower_bounds", bounds if scale is None else bounds - np.log(scale).sum(), ("iteration",))
        if center is not None and scale is not None:
            _put_unscaled(group, state.covariance_type, parameters, center, scale)


def _put_unscaled(group: zarr.Group, kind: str, parameters: Parameters, center: Array, scale: Array) -> None:
    """The scaling, and beside the fitted means and covariances those in the user's units."""
    kind, unscaled = FAMILIES[kind].unscaled(parameters, center, scale)
    put(group, "center", center, ("feature",))
    put(group, "scale", scale, ("feature",))
    put(group, "means_unscaled", unscaled.means, ("component", "feature"))
    put(group, "covariances_unscaled", unscaled.covariances, _covariance_dimensions(kind))


def _attributes(state: State) -> dict[str, Any]:
    return {
        "covariance_type": state.covariance_type,
        "n_components": state.n_components,
        "start": state.start,
        "status": state.status.value,
        "converged": state.converged,
        "falls": state.falls,
    }


def _covariance_dimensions(covariance_type: str) -> tuple[str, ...]:
    """Names of the covariances' dimensions: their shape for 2 components and 3 features, spelled out."""
    shape = FAMILIES[covariance_type].covariance_shape(2, 3)
    names = ["component" if size == 2 else "feature" for size in shape]
    return tuple("feature_other" if name in names[:i] else name for i, name in enumerate(names))


def _by_weight(covariance_type: str, parameters: Parameters) -> Parameters:
    order = np.argsort(-parameters.weights, kind="stable")
    each = order if "component" in _covariance_dimensions(covariance_type) else slice(None)
    return Parameters(
        weights=parameters.weights[order],
        means=parameters.means[order],
        covariances=parameters.covariances[each],
        precisions_cholesky=parameters.precisions_cholesky[each],
    )


def read_model(path: StorePath, name: str) -> StoredModel:
    """A model by its name, with its components as the store sorts them.

    Raises
    ------
    UserError
        If the store has no such model.
    """
    root = open_root(path)
    models = cast(zarr.Group, root["models"]) if "models" in root else None
    if models is None or name not in models:
        found = ", ".join(sorted(models.group_keys())) if models is not None else "none"
        raise UserError(f"the result store {path} has no model {name!r}; its models are: {found}.")
    group = cast(zarr.Group, models[name])
    attributes: dict[str, Any] = group.attrs.asdict()
    names = ("weights", "means", "covariances", "precisions_cholesky")
    scaled = "scale" in group
    return StoredModel(
        candidate=Candidate.of(attributes),
        start=attributes["start"],
        parameters=Parameters(**{name: get(group, name) for name in names}),
        lower_bounds=tuple(get(group, "lower_bounds").tolist()),
        status=Status(attributes["status"]),
        falls=attributes.get("falls", 0),
        converged=attributes.get("converged", attributes["status"] == Status.CONVERGED.value),
        columns=tuple(get_text(group, "feature")),
        center=get(group, "center") if scaled else None,
        scale=get(group, "scale") if scaled else None,
    )


def read_columns(path: StorePath, name: str) -> tuple[str, ...]:
    """Names of the features of a model."""
    return tuple(get_text(cast(zarr.Group, open_root(path)[f"models/{name}"]), "feature"))
