"""Models of a result store, and the sample of rows with the labels of the chosen one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Noise, Parameters, Posterior, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.noise import family_of
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.row_outputs import NOISE_LABEL
from gmm_dask.variational.inference import Variational
from gmm_dask.variational.priors import Priors
from pipeline.store.arrays import get, get_text, new_group, open_root, put
from pipeline.store.attributes import Attributes
from pipeline.store.contents.posteriors import read_posterior, read_priors, sorted_posterior, write_posterior
from pipeline.store.places import StorePath, place_of
from pipeline.transforms import NO_TRANSFORM, Chain
from pipeline.transforms.scale import Scale

Array = NDArray[np.float64]

# covariances in the user's units of more numbers than this are not written beside those of principal components
MOST_UNDONE = 1 << 20
# of a sum of weights, and of whitened covariances: far above rounding, even of covariances that are all but singular
WEIGHTS_ERROR, WHITENING_ERROR = 1e-6, 0.5


@dataclass(frozen=True, eq=False)
class StoredModel(State):
    """A candidate as the store holds it: its components sorted by their numbers, its lower bounds in the user's units.

    Attributes
    ----------
    columns : tuple of str
        Names of the features, in order: of the columns, or of what ``data.transform`` makes of them.
    sources : tuple of str
        Names of the columns of the data, in the order of the transform's.
    transform : Chain
        The parameters are those of rows in the units after it.
    numbers : tuple of int
        Of the components, in ascending order: what labels hold.
    component_names : mapping of int to str
        Names of components that have one, by their numbers.
    priors : Priors or None
        Of a variational mixture, in the units of the fit.
    """

    columns: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    transform: Chain = NO_TRANSFORM
    numbers: tuple[int, ...] = ()
    component_names: Mapping[int, str] = field(default_factory=dict)
    priors: Priors | None = None

    @property
    def has_names(self) -> bool:
        """Whether the data's columns have names of their own; those of arrays are only numbered."""
        return self.sources != tuple(f"x{i}" for i in range(len(self.sources)))

    @property
    def in_units(self) -> tuple[str, Parameters]:
        """Covariance type and parameters in the units of the features (:attr:`columns`).

        Where columns were scaled only, these are the user's units, and a spherical mixture is a diagonal one.
        """
        (family, parameters), scaling = self.model, self.transform.scaling
        if scaling is None:
            return family.name, parameters
        return family.unscaled(parameters, scaling.center, scaling.scale)

    @property
    def priors_in_units(self) -> Priors | None:
        """The priors of a variational mixture in the units of the features; None of another."""
        scaling = self.transform.scaling
        if self.priors is None or scaling is None:
            return self.priors
        return self.priors.unscaled(get_family(self.covariance_type), scaling.center, scaling.scale)

    @property
    def unscaled(self) -> Model:
        """Family and parameters in the units of the features, as :attr:`in_units`."""
        name, parameters = self.in_units
        return family_of(name, parameters), parameters

    @property
    def titles(self) -> tuple[str, ...]:
        """Each component's number, with its name if it has one: ``3`` or ``3 (late flights)``."""
        return tuple(titled(number, self.component_names.get(number)) for number in self.numbers)


def titled(number: int, name: str | None) -> str:
    """What a component is called: ``3``, or ``3 (late flights)``."""
    return str(number) if name is None else f"{number} ({name})"


def write_models(
    path: StorePath,
    states: Iterable[State],
    columns: Sequence[str],
    transform: Chain = NO_TRANSFORM,
    numbers: Mapping[str, Sequence[int]] | None = None,
    inference: Inference = MAXIMUM_LIKELIHOOD,
    *,
    log_scale: float = 0.0,
) -> None:
    """Write models, each with its components sorted by their numbers: by weight, the largest first, if none are given.

    Parameters
    ----------
    path : str or Path
        The result store.
    states : iterable of State
        One for each candidate that is kept; each has parameters.
    columns : sequence of str
        Names of the data's columns.
    transform : Chain
        Of the rows before the fit. Where it scales columns only, means and covariances in the user's units are written
        beside the fitted ones.
    numbers : mapping of str to sequence of int, optional
        By the names of models, numbers of their components, the one of the largest weight first.
    inference : Inference
        Of the fits.
    log_scale : float
        That of the data summary: lower bounds are written for the rows in the user's units.
    """
    scaling, features = transform.scaling, transform.labels(columns)
    open_root(path, "r+").create_group("models", overwrite=True)
    for state in states:
        assert state.parameters is not None
        parameters, given = by_weight(state), (numbers or {}).get(state.candidate.name, range(state.n_components))
        parameters = _sorted(state.covariance_type, parameters, np.argsort(given))
        dimensions = _covariance_dimensions(state.covariance_type)
        bounds = np.asarray(state.lower_bounds, dtype=np.float64)
        with new_group(path, f"models/{state.candidate.name}", _attributes_of(state).to_dict()) as group:
            put(group, "feature", list(features), ("feature",))
            put(group, "component", np.sort(given), ("component",))
            put(group, "weights", parameters.weights, ("component",))
            put(group, "means", parameters.means, ("component", "feature"))
            put(group, "covariances", parameters.covariances, dimensions)
            put(group, "precisions_cholesky", parameters.precisions_cholesky, dimensions)
            if parameters.noise is not None:
                put(group, "noise_weight", np.array(parameters.noise.weight), ())
                put(group, "noise_log_volume", np.array(parameters.noise.log_volume), ())
            counted = 1.0
            if isinstance(parameters, Posterior) and isinstance(inference, Variational):
                priors = inference.priors(FAMILIES[state.covariance_type], state.n_components)
                write_posterior(group, parameters, priors, dimensions)
                counted = priors.counted_rows(parameters) if transform.folds else 1.0
            put(group, "lower_bounds", bounds - log_scale * counted, ("iteration",))
            if scaling is not None:
                _put_unscaled(group, state, parameters, scaling.center, scaling.scale)
            elif transform.steps and transform.is_linear:
                _put_undone(group, state.covariance_type, parameters, transform, columns)


def _put_unscaled(group: zarr.Group, state: State, parameters: Parameters, center: Array, scale: Array) -> None:
    """The scaling, and beside the fitted means, covariances and noise those in the user's units."""
    kind, unscaled = state.family.unscaled(parameters, center, scale)
    put(group, "center", center, ("feature",))
    put(group, "scale", scale, ("feature",))
    put(group, "means_unscaled", unscaled.means, ("component", "feature"))
    put(group, "covariances_unscaled", unscaled.covariances, _covariance_dimensions(kind))
    if unscaled.noise is not None:
        put(group, "noise_log_volume_unscaled", np.array(unscaled.noise.log_volume), ())


def _put_undone(group: zarr.Group, kind: str, parameters: Parameters, transform: Chain, columns: Sequence[str]) -> None:
    """Put what a linear transform makes of means and covariances beside them, in the user's units."""
    if parameters.weights.size * len(columns) ** 2 > MOST_UNDONE:
        put(group, "column", list(columns), ("column",))
        put(group, "means_unscaled", transform.undo(parameters.means), ("component", "column"))
        return
    means, covariances = transform.undone(parameters.means, FAMILIES[kind].full_covariances(parameters))
    put(group, "column", list(columns), ("column",))
    put(group, "means_unscaled", means, ("component", "column"))
    put(group, "covariances_unscaled", covariances, ("component", "column", "column_other"))


@dataclass(frozen=True)
class ModelAttributes(Attributes):
    """The attributes of a stored model, those of :class:`State`."""

    covariance_type: str
    n_components: PositiveInt
    start: int
    status: Status
    converged: bool
    falls: int
    noise: Literal[True] | None = None


def _attributes_of(state: State) -> ModelAttributes:
    values = {field.name: getattr(state, field.name) for field in fields(ModelAttributes) if field.name != "noise"}
    return ModelAttributes(**values, noise=True if state.candidate.noise else None)


def _covariance_dimensions(covariance_type: str) -> tuple[str, ...]:
    """Names of the covariances' dimensions: their shape for 2 components and 3 features, spelled out."""
    shape = FAMILIES[covariance_type].covariance_shape(2, 3)
    names = ["component" if size == 2 else "feature" for size in shape]
    return tuple("feature_other" if name in names[:i] else name for i, name in enumerate(names))


def order_by_weight(state: State) -> NDArray[np.intp]:
    """Positions of a state's components, the largest weight first."""
    return np.argsort(-state.model[1].weights, kind="stable")


def by_weight(state: State) -> Parameters:
    """Parameters of a state with the component of the largest weight first."""
    return _sorted(state.covariance_type, state.model[1], order_by_weight(state))


def _sorted(covariance_type: str, parameters: Parameters, order: NDArray[np.intp]) -> Parameters:
    each = order if "component" in _covariance_dimensions(covariance_type) else slice(None)
    found = replace(
        parameters,
        weights=parameters.weights[order],
        means=parameters.means[order],
        covariances=parameters.covariances[each],
        precisions_cholesky=parameters.precisions_cholesky[each],
    )
    return sorted_posterior(found, order, each) if isinstance(found, Posterior) else found


def read_model(
    path: StorePath, name: str, sources: Sequence[str] | None = None, transform: Chain | None = None
) -> StoredModel:
    """A model by its name, with its components sorted by their numbers.

    Parameters
    ----------
    path : str or Path
        The result store.
    name : str
    sources : sequence of str, optional
        Names of the data's columns; by default the features of the model.
    transform : Chain, optional
        Of the store; by default the scaling that stores of earlier versions have with each model.

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
    candidate = Candidate(attributes.covariance_type, attributes.n_components, attributes.noise is not None)
    if candidate.covariance_type not in FAMILIES or candidate.name != name:
        raise ValueError(f"its attributes are those of {candidate.name}")
    columns = get_text(group, "feature", (None,))
    numbers = get(group, "component", np.int64, (candidate.n_components,))
    if numbers[0] < 0 or (np.diff(numbers) <= 0).any() or numbers[-1] > np.iinfo(np.int32).max:
        raise ValueError("component has numbers that are negative, do not ascend, or do not fit int32")
    if transform is None:
        transform = _read_scaling(group, len(columns))
    sources = columns if sources is None else sources
    if tuple(columns) != transform.labels(sources):
        raise ValueError(f"its features are {', '.join(columns)}, and not those of the columns of the data")
    return StoredModel(
        candidate=candidate,
        start=attributes.start,
        parameters=_read_parameters(group, candidate, len(columns)),
        lower_bounds=tuple(get(group, "lower_bounds", np.float64, (None,)).tolist()),
        status=attributes.status,
        falls=attributes.falls,
        converged=attributes.converged,
        columns=tuple(columns),
        sources=tuple(sources),
        transform=transform,
        numbers=tuple(numbers.tolist()),
        priors=read_priors(group, candidate, len(columns)),
    )


def _read_scaling(group: zarr.Group, n_features: int) -> Chain:
    if "scale" not in group:
        return Chain()
    scaling = Scale(*(get(group, name, np.float64, (n_features,)) for name in ("center", "scale")))
    scaling.check(n_features)
    return Chain((scaling,))


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
    arrays: dict[str, Any] = {name: get(group, name, np.float64, shape) for name, shape in shapes.items()}
    noise = _read_noise(group) if candidate.noise else None
    parameters = read_posterior(group, Parameters(**arrays, noise=noise), family)
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite")
    weights = parameters.all_weights
    if (weights < 0.0).any() or abs(weights.sum() - 1.0) > WEIGHTS_ERROR:
        raise ValueError(f"weights are negative, or add up to {weights.sum():.6g} instead of 1")
    if not family.whitening_error(parameters) < WHITENING_ERROR:
        raise ValueError("covariances are not positive definite, or precisions_cholesky are not those of them")
    return parameters


def _read_noise(group: zarr.Group) -> Noise:
    weight, log_volume = (float(get(group, f"noise_{name}", np.float64, ())) for name in Noise._fields)
    if not (math.isfinite(log_volume) and math.isfinite(weight)):
        raise ValueError("noise_weight or noise_log_volume is not finite")
    return Noise(weight, log_volume)


# -- the sample of rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random, in the units of the data, and how the data is cut.

    Attributes
    ----------
    rows : ndarray of shape (n_sampled, n_features)
    label : ndarray of shape (n_sampled,)
        The most probable component of the chosen model: its position in the model, where the store has its number; -1
        of the noise.
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


def numbered(positions: NDArray[np.integer[Any]], numbers: Sequence[int]) -> NDArray[np.int64]:
    """Return the numbers of components for their positions; negative labels, which are of none, stay."""
    known = np.asarray(numbers, dtype=np.int64)
    return np.where(positions < 0, positions, known[positions])


def write_sample(path: StorePath, sample: Sample, numbers: Sequence[int]) -> None:
    """Write the sample into a result store, in place of one that is there; ``numbers`` are those of the components."""
    counts = SampleAttributes(sample.n_chunks, sample.chunk_rows).to_dict()
    place_of(path).remove("sample")
    with new_group(path, "sample", counts) as group:
        put(group, "value", sample.rows, ("row", "feature"))
        put(group, "label", numbered(sample.label, numbers).astype(np.int32), ("row",))
        put(group, "uncertainty", sample.uncertainty, ("row",))


def read_sample(path: StorePath, n_features: int, numbers: Sequence[int], noise: bool = False) -> Sample:
    """Read the sample of a complete result store; raises ValueError or KeyError if it is none of such a model."""
    group = cast(zarr.Group, open_root(path)["sample"])
    counts = SampleAttributes.from_dict(group.attrs.asdict())
    rows = get(group, "value", np.float64, (None, n_features))
    label = get(group, "label", np.int32, (len(rows),))
    uncertainty = get(group, "uncertainty", np.float64, (len(rows),))
    if np.isinf(rows).any() or not (np.isfinite(rows).any(axis=1).all() and np.isfinite(uncertainty).all()):
        raise ValueError("value has rows without any value, or uncertainty has values that are not finite")
    if not len(rows):
        raise ValueError("value has no rows")
    is_noise = (label == NOISE_LABEL) & noise
    if not (np.isin(label, numbers) | is_noise).all():
        raise ValueError(f"label has values that are none of the {len(numbers)} components")
    positions = np.where(is_noise, NOISE_LABEL, np.searchsorted(numbers, label))
    return Sample(rows, positions, uncertainty, counts.n_chunks, counts.chunk_rows)
