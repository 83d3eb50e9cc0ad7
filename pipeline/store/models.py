"""Models of a result store, and the sample of rows with the labels of the chosen one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from pipeline.store.arrays import get, get_text, open_root, put
from pipeline.store.attributes import Attributes
from pipeline.store.places import StorePath

Array = NDArray[np.float64]

# of a sum of weights, and of whitened covariances: far above rounding, even of covariances that are all but singular
WEIGHTS_ERROR, WHITENING_ERROR = 1e-6, 0.5


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
        group = models.create_group(state.candidate.name, attributes=_attributes_of(state).to_dict())
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


@dataclass(frozen=True)
class ModelAttributes(Attributes):
    """The attributes of a stored model, those of :class:`State`."""

    covariance_type: str
    n_components: PositiveInt
    start: int
    status: Status
    converged: bool
    falls: int


def _attributes_of(state: State) -> ModelAttributes:
    return ModelAttributes(**{field.name: getattr(state, field.name) for field in fields(ModelAttributes)})


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
    ValueError, KeyError
        If it is not a mixture.
    """
    root = open_root(path)
    models = cast(zarr.Group, root["models"]) if "models" in root else None
    if models is None or name not in models:
        found = ", ".join(sorted(models.group_keys())) if models is not None else "none"
        raise UserError(f"the result store {path} has no model {name!r}; its models are: {found}.")
    group = cast(zarr.Group, models[name])
    attributes = ModelAttributes.from_dict(group.attrs.asdict())
    candidate = Candidate(attributes.covariance_type, attributes.n_components)
    if candidate.covariance_type not in FAMILIES or candidate.name != name:
        raise ValueError(f"its attributes are those of {candidate.name}")
    columns = get_text(group, "feature", (None,))
    scaled = "scale" in group
    model = StoredModel(
        candidate=candidate,
        start=attributes.start,
        parameters=_read_parameters(group, candidate, len(columns)),
        lower_bounds=tuple(get(group, "lower_bounds", np.float64, (None,)).tolist()),
        status=attributes.status,
        falls=attributes.falls,
        converged=attributes.converged,
        columns=tuple(columns),
        center=get(group, "center", np.float64, (len(columns),)) if scaled else None,
        scale=get(group, "scale", np.float64, (len(columns),)) if scaled else None,
    )
    if model.center is not None and not np.isfinite(model.center).all():
        raise ValueError("center has values that are not finite")
    if model.scale is not None and not (np.isfinite(model.scale).all() and (model.scale > 0.0).all()):
        raise ValueError("scale has values that are not positive and finite")
    return model


def _read_parameters(group: zarr.Group, candidate: Candidate, n_features: int) -> Parameters:
    """Read the parameters of a mixture; raises ValueError if they are not those of one."""
    family, k = get_family(candidate.covariance_type), candidate.n_components
    covariances = family.covariance_shape(k, n_features)
    shapes = {
        "weights": (k,),
        "means": (k, n_features),
        "covariances": covariances,
        "precisions_cholesky": covariances,
    }
    parameters = Parameters(**{name: get(group, name, np.float64, shape) for name, shape in shapes.items()})
    for name, values in vars(parameters).items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite")
    weights = parameters.weights
    if (weights < 0.0).any() or abs(weights.sum() - 1.0) > WEIGHTS_ERROR:
        raise ValueError(f"weights are negative, or add up to {weights.sum():.6g} instead of 1")
    if not family.whitening_error(parameters) < WHITENING_ERROR:
        raise ValueError("covariances are not positive definite, or precisions_cholesky are not those of them")
    return parameters


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


@dataclass(frozen=True)
class SampleAttributes(Attributes):
    """The attributes of a stored sample."""

    n_chunks: PositiveInt
    chunk_rows: NonNegativeInt


def write_sample(path: StorePath, sample: Sample) -> None:
    """Write the sample into a result store, in place of one that is there."""
    counts = SampleAttributes(sample.n_chunks, sample.chunk_rows).to_dict()
    group = open_root(path, "r+").create_group("sample", overwrite=True, attributes=counts)
    put(group, "value", sample.rows, ("row", "feature"))
    put(group, "label", sample.label.astype(np.int32), ("row",))
    put(group, "uncertainty", sample.uncertainty, ("row",))


def read_sample(path: StorePath, n_features: int, n_components: int) -> Sample:
    """Read the sample of a complete result store; raises ValueError or KeyError if it is none of such a model."""
    group = cast(zarr.Group, open_root(path)["sample"])
    counts = SampleAttributes.from_dict(group.attrs.asdict())
    rows = get(group, "value", np.float64, (None, n_features))
    label = get(group, "label", np.int32, (len(rows),))
    uncertainty = get(group, "uncertainty", np.float64, (len(rows),))
    if not (np.isfinite(rows).all() and np.isfinite(uncertainty).all()):
        raise ValueError("value or uncertainty has values that are not finite")
    if not len(rows):
        raise ValueError("value has no rows")
    if not 0 <= label.min() <= label.max() < n_components:
        raise ValueError(f"label has values that are none of the {n_components} components")
    return Sample(rows, label, uncertainty, counts.n_chunks, counts.chunk_rows)
