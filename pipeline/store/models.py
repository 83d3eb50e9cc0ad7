"""Models of a result store, and the sample of rows with the labels of the chosen one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters
from gmm_dask.families.candidate import Candidate
from pipeline.store.arrays import StorePath, get, get_text, open_root, put

Array = NDArray[np.float64]


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
        falls=attributes["falls"],
        converged=attributes["converged"],
        columns=tuple(get_text(group, "feature")),
        center=get(group, "center") if scaled else None,
        scale=get(group, "scale") if scaled else None,
    )


# -- the sample of rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random, in the units of the data, and how the data is cut.

    Attributes
    ----------
    rows : ndarray of shape (n_sampled, n_features)
    label : ndarray of shape (n_sampled,)
        The most probable component of the chosen model.
    uncertainty : ndarray of shape (n_sampled,)
        The probability that it is another one: one minus the largest responsibility.
    n_chunks, chunk_rows : int
        Chunks of the data, and rows of the largest.
    """

    rows: Array
    label: NDArray[np.integer[Any]]
    uncertainty: Array
    n_chunks: int
    chunk_rows: int


def write_sample(path: StorePath, sample: Sample) -> None:
    """Write the sample into a result store, in place of one that is there."""
    counts = {"n_chunks": sample.n_chunks, "chunk_rows": sample.chunk_rows}
    group = open_root(path, "r+").create_group("sample", overwrite=True, attributes=counts)
    put(group, "value", sample.rows, ("row", "feature"))
    put(group, "label", sample.label.astype(np.int32), ("row",))
    put(group, "uncertainty", sample.uncertainty, ("row",))


def read_sample(path: StorePath) -> Sample | None:
    """Read the sample of a result store; None until it is complete."""
    root = open_root(path)
    if "sample" not in root:
        return None
    group = cast(zarr.Group, root["sample"])
    counts: dict[str, Any] = group.attrs.asdict()
    arrays = get(group, "value"), get(group, "label"), get(group, "uncertainty")
    return Sample(*arrays, n_chunks=counts["n_chunks"], chunk_rows=counts["chunk_rows"])
