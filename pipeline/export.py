"""A stored model in forms that other programs take: scikit-learn's, ONNX and JSON.

All take rows in the user's units: scaling is folded into the parameters, which makes a spherical mixture a diagonal
one, and any other transform is a part of what is exported, before the mixture.
Components are in the order of the store's numbers. ONNX's labels are these numbers; what scikit-learn's ``predict``
returns are positions, whose numbers are in the attribute ``component_numbers_``.

scikit-learn's estimator is written with joblib, which scikit-learn itself brings along, so that it is loaded by one
line wherever scikit-learn is. It is a pickle: load it only where you trust its origin. This program never loads one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, create_model

from gmm_dask.em.loop import Status
from gmm_dask.errors import UserError
from gmm_dask.families import Posterior
from gmm_dask.families.decomposition import decompose
from gmm_dask.passes.row_outputs import NOISE_LABEL
from gmm_dask.selection.criteria import CRITERIA
from pipeline.load import in_pipeline, noise_box_of, to_estimator
from pipeline.sources.overlap import require_apart_from_stored, require_outside
from pipeline.store import Result, StoredModel, of_group, open_result
from pipeline.store.arrays import require_local, writing
from pipeline.store.paths import file_name, results_of
from pipeline.store.places import is_url, place_of
from pipeline.store.places.durable import sync
from pipeline.transforms.onnx_graph import OnnxGraph

# the oldest operators that take float64 throughout, and the file format that goes with them
ONNX_OPSET, ONNX_FORMAT = 18, 8
# of a mixture behind a transform the version is higher: its means are those of other features than the columns
JSON_FORMAT, JSON_VERSION, TRANSFORMED_VERSION = "gmm-dask-model", 1, 2


class Target(StrEnum):
    """What a model can be exported to."""

    SKLEARN = "sklearn"
    ONNX = "onnx"
    JSON = "json"

    @property
    def ending(self) -> str:
        """Of the files."""
        return {Target.SKLEARN: ".joblib", Target.ONNX: ".onnx", Target.JSON: ".json"}[self]


def export(
    path: str | Path,
    target: Target,
    out: str | Path | None = None,
    *,
    model: str | None = None,
    group: str | None = None,
) -> Path:
    """Write a model of a complete result store to a file.

    Parameters
    ----------
    path : str or Path
        The result store.
    target : Target
    out : str or Path, optional
        The file; by default beside the store, or in the current directory if that is on an object store, named by store
        and model.
    model : str, optional
        Name of a model, such as ``tied-k3``; by default the chosen one.
    group : str, optional
        Of a store with a search for each group (``data.by``), the value of the group.

    Returns
    -------
    file : Path

    Raises
    ------
    UserError
        If the store is not complete or has no such model, the file exists or would lie within the store or its data,
        or a package is missing.
    """
    if out is not None:
        require_local(out, "-o")
    result = _opened(path, group)
    stored = result.model(model)
    named = stored.candidate.name if group is None else f"{file_name(group)}-{stored.candidate.name}"
    file = _default_file(path, named, target) if out is None else Path(out)
    require_outside(file, [*results_of(path), *results_of(result.store)])
    require_apart_from_stored(result.config["data"]["source"], [file])
    content = _CONTENTS[target](result, stored)
    with _whole(file) as partial:
        partial.write_bytes(content)
    return file


def exported(path: str | Path, target: Target, *, model: str | None = None, group: str | None = None) -> bytes:
    """Return what :func:`export` would write to a file."""
    result = _opened(path, group)
    return _CONTENTS[target](result, result.model(model))


def _opened(path: str | Path, group: str | None) -> Result:
    # once: a link may be set to another store meanwhile
    return of_group(open_result(place_of(path).resolved().path), group)


def _default_file(path: str | Path, name: str, target: Target) -> Path:
    folder = Path() if is_url(path) else Path(path).parent
    return folder / f"{Path(path).stem}-{name}{target.ending}"


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A name to write to; the file gets its own when it is whole, and one that exists is left as it is."""
    if file.exists():
        raise UserError(f"{file} exists and is left as it is. Remove it, or choose another file with -o.")
    partial = file.with_name(f"{file.name}.partial")
    with writing(file, key="", resumes=False):
        try:
            yield partial
            sync(partial)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)


# -- scikit-learn ------------------------------------------------------------------------------------------------


def to_sklearn(result: Result, model: StoredModel) -> Any:
    """The model as a fitted estimator of scikit-learn: ``GaussianMixture``, or of a variational one the Bayesian.

    Where ``data.transform`` does more than scale columns, it is the last step of a ``Pipeline``, after it. Its
    attributes ``component_numbers_``, (n_components,), and ``component_names_``, a dict by number, are this program's.

    Raises
    ------
    UserError
        If the model has noise, which scikit-learn has not.
    """
    if model.candidate.noise:
        twin = model.candidate._replace(noise=False).name
        other = f", or export the model {twin} (--model)" if twin in result.models else ""
        raise UserError(
            f"{model.candidate.name} has noise, which scikit-learn's GaussianMixture has not. Export it as ONNX or "
            f"JSON{other}."
        )
    estimator = to_estimator(result, model)
    exported = estimator.to_sklearn()
    for name in ("component_numbers_", "component_names_"):
        setattr(exported, name, getattr(estimator, name))
    return in_pipeline(model, exported)


def _sklearn_bytes(result: Result, model: StoredModel) -> bytes:
    import joblib

    content = BytesIO()
    joblib.dump(to_sklearn(result, model), content)
    return content.getvalue()


# -- ONNX --------------------------------------------------------------------------------------------------------


def to_onnx(result: Result, model: StoredModel) -> Any:
    """The model as an ONNX graph of ``X`` (rows, features), float64, with three outputs.

    ``label`` (rows,) int64, ``probabilities`` (rows, components) and ``log_density`` (rows,), float64, in the
    numbers that the store's own answers have: differences from the means first, and a log-sum-exp about the largest.
    Its first nodes are the transform, if that does more than scale columns.
    Noise has the label -1 and the last of the probabilities.

    Raises
    ------
    UserError
        If the package onnx is missing.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise UserError(
            "an export to ONNX needs the package onnx, which is not installed. Install it: "
            "pip install 'gmm-dask[onnx]'."
        ) from None
    transform, steps = OnnxGraph(), _onnx_steps(model)
    if not model.transform.folds:
        rows, slopes = model.transform.add_to_onnx(transform, "X", len(model.sources))
        of_user = transform.add("Add", "log_density_n1", slopes)
        (kind, (_, place), gives, options), *middle, _ = steps
        last = [transform.nodes[-1], ("Squeeze", [of_user, "second"], "log_density", {})]
        steps = [*transform.nodes[:-1], (kind, [rows, place], gives, options), *middle, *last]
    values = _onnx_constants(model) | transform.constants
    used = {name for _, takes, _, _ in steps for name in takes}
    constants = [numpy_helper.from_array(value, name) for name, value in values.items() if name in used]
    inputs = [helper.make_tensor_value_info("X", TensorProto.DOUBLE, ["rows", len(model.sources)])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["rows", model.model[1].n_densities]),
        helper.make_tensor_value_info("log_density", TensorProto.DOUBLE, ["rows"]),
    ]
    nodes = [helper.make_node(kind, takes, [gives], **options) for kind, takes, gives, options in steps]
    graph = helper.make_graph(nodes, "gaussian_mixture", inputs, outputs, constants)
    found = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", ONNX_OPSET)],
        ir_version=ONNX_FORMAT,
        producer_name="gmm-dask",
        producer_version=result.software["gmm-dask"],
    )
    titles, features = "\n".join(model.titles), "\n".join(model.sources)
    helper.set_model_props(found, {"model": model.candidate.name, "features": features, "components": titles})
    onnx.checker.check_model(found, full_check=True)
    return found


# operator, what it takes, what it gives, options
_OnnxStep = tuple[str, list[str], str, dict[str, Any]]
# k stands for components, n for rows, d for features
_ONNX_STEPS: list[_OnnxStep] = [
    ("Unsqueeze", ["X", "first"], "rows_1nd", {}),
    ("Sub", ["rows_1nd", "means_k1d"], "centred_knd", {}),
    ("MatMul", ["centred_knd", "factors_kdd"], "whitened_knd", {}),
    ("Mul", ["whitened_knd", "whitened_knd"], "squares_knd", {}),
    ("ReduceSum", ["squares_knd", "last"], "distances_kn", {"keepdims": 0}),
    ("Mul", ["distances_kn", "minus_half"], "exponents_kn", {}),
    ("Add", ["exponents_kn", "offsets_k1"], "logits_kn", {}),
    ("Transpose", ["logits_kn"], "logits_nk", {"perm": [1, 0]}),
    ("ArgMax", ["logits_nk"], "position_n", {"axis": 1, "keepdims": 0}),
    ("Gather", ["numbers", "position_n"], "label", {}),
    ("ReduceMax", ["logits_nk", "second"], "top_n1", {"keepdims": 1}),
    ("Sub", ["logits_nk", "top_n1"], "below_nk", {}),
    ("Exp", ["below_nk"], "shares_nk", {}),
    ("ReduceSum", ["shares_nk", "second"], "total_n1", {"keepdims": 1}),
    ("Div", ["shares_nk", "total_n1"], "probabilities", {}),
    ("Log", ["total_n1"], "log_total_n1", {}),
    ("Add", ["top_n1", "log_total_n1"], "log_density_n1", {}),
    ("Squeeze", ["log_density_n1", "second"], "log_density", {}),
]


# the noise is one more component, of the same density in all rows
_ONNX_NOISE: _OnnxStep = ("Pad", ["gaussians_kn", "pads", "noise"], "logits_kn", {})


def _onnx_steps(model: StoredModel) -> list[_OnnxStep]:
    if not model.candidate.noise:
        return _ONNX_STEPS
    at = next(i for i, (_, _, gives, _) in enumerate(_ONNX_STEPS) if gives == "logits_kn")
    kind, takes, _, options = _ONNX_STEPS[at]
    return [*_ONNX_STEPS[:at], (kind, takes, "gaussians_kn", options), _ONNX_NOISE, *_ONNX_STEPS[at + 1 :]]


def _onnx_constants(model: StoredModel) -> dict[str, Any]:
    family, parameters = model.unscaled
    # the matrices of what stands for covariances: here of the factors of the precisions
    factors = family.full_covariances(replace(parameters, covariances=parameters.precisions_cholesky))
    offsets, noise = parameters.log_weights() + family.log_norm(parameters), parameters.noise
    numbers, more = list(model.numbers), {}
    if noise is not None:
        numbers.append(NOISE_LABEL)
        with np.errstate(divide="ignore"):
            more = {"pads": np.array([0, 0, 1, 0]), "noise": np.log(noise.weight) - noise.log_volume}
    return {
        "means_k1d": parameters.means[:, None, :],
        "factors_kdd": np.ascontiguousarray(factors),
        "offsets_k1": offsets[:, None],
        "numbers": np.array(numbers, dtype=np.int64),
        "minus_half": np.array(-0.5),
        "first": np.array([0]),
        "second": np.array([1]),
        "last": np.array([2]),
        **{name: np.asarray(value) for name, value in more.items()},
    }


def _onnx_bytes(result: Result, model: StoredModel) -> bytes:
    return bytes(to_onnx(result, model).SerializeToString())


# -- JSON --------------------------------------------------------------------------------------------------------

Nested = list[Any]


class FittedInScaledUnits(BaseModel):
    """The mixture as it was fitted, of rows ``(x - center) / scale``."""

    center: list[float] = Field(description="What was subtracted from each feature.")
    scale: list[float] = Field(description="What each feature was divided by.")
    covariance_type: str = Field(description="Of the fitted mixture.")
    means: Nested = Field(description="(n_components, n_features), in scaled units.")
    covariances: Nested = Field(description="By covariance_type, in scaled units.")


# of rows held out the mean log-likelihood tells more than the deviance
_EXPORTED = [criterion for criterion in CRITERIA.values() if not criterion.needs_held_out]
_CRITERIA_FIELDS: dict[str, Any] = {
    "log_likelihood": (float, Field(description="Total over the rows, natural logarithms.")),
    **{
        criterion.name: (float | None, Field(description=f"{criterion.description} Null where it does not apply."))
        for criterion in _EXPORTED
    },
    "held_out_log_likelihood": (
        float | None,
        Field(
            default=None, description="Mean per row over the rows that were held out of the fit; null where none were."
        ),
    ),
    "n_parameters": (int, Field(description="Free parameters.")),
    "n_rows": (int, Field(description="Rows that the mixture was fitted to.")),
    "total_weight": (float, Field(description="Sum of their weights; n_rows without weights.")),
}


class Criteria(create_model("Criteria", **_CRITERIA_FIELDS)):  # type: ignore[misc]
    """How well the mixture describes the rows, in the user's units; smaller criteria are better."""


class VariationalPosterior(BaseModel):
    """What a variational mixture knows of its parameters, in numbers of rows, and its priors, in the user's units."""

    weight_concentration: list[float] = Field(description="(n_components,), of the weights' Dirichlet distribution.")
    mean_precision: list[float] = Field(description="(n_components,), of the means, in units of the precisions.")
    degrees_of_freedom: list[float] | float = Field(
        description="(n_components,), of the precisions' Wishart distributions; a number for tied. covariances are the "
        "inverses of the expected precisions."
    )
    weight_concentration_prior: float = Field(description="That of each component without rows.")
    mean_precision_prior: float = Field(description="How many rows the prior of a mean counts as.")
    mean_prior: list[float] = Field(description="(n_features,).")
    degrees_of_freedom_prior: float = Field(description="How many rows the prior of a covariance counts as.")
    covariance_prior: Nested | float = Field(description="Of one component, shaped by covariance_type.")


class UniformNoise(BaseModel):
    """The uniform component: its density is weight / volume for all rows, also for those outside the box."""

    weight: float = Field(description="What the weights of the components leave of one.")
    log_volume: float = Field(description="Natural logarithm of the volume, in the units of the features.")
    box: Nested = Field(
        description="(n_features + 1, n_features): a corner of the box that contains the fitted rows, or of the box of "
        "the volume that was given, and its edges from there, in the units of the features."
    )


class Fit(BaseModel):
    """How EM came to the parameters."""

    status: Status = Field(description="converged, or what kept it from that; see gmm-dask show.")
    n_iter: int = Field(description="Iterations.")
    lower_bounds: list[float] = Field(description="Mean log-likelihood a row before each M-step, in the user's units.")
    settings: dict[str, Any] = Field(description="The search's settings, as in the configuration.")


class ExportedTransform(BaseModel):
    """The steps that rows go through before the mixture, in order. Columns are counted from 0."""

    columns: list[str] = Field(description="The columns that the first step is given.")
    steps: list[dict[str, Any]] = Field(
        description="Each by its kind. scale: (x - center) / scale, a number for each column. log, log1p, logit: of "
        "its columns, log(x / (1 - x)) for logit. arcsinh: of x / cofactor, a number for each of its columns. clip: "
        "between ends, null for none. pca: ((x[columns] - mean) components^T) / scale, after the other columns."
    )


class ExportedMixture(BaseModel):
    """A Gaussian mixture as JSON: density of x = sum over k of weights[k] Normal(x; means[k], covariances[k]).

    With noise, its density is added.
    """

    format: str = Field(default=JSON_FORMAT, description="Always gmm-dask-model.")
    format_version: int = Field(default=JSON_VERSION, description="Raised when a key changes its meaning.")
    name: str = Field(description="Name of the model in its store, by the fitted covariance type: tied-k3.")
    features: list[str] = Field(
        description="The columns, in the order of all arrays; where there is a transform, what it makes of its columns."
    )
    n_components: int = Field(description="Number of components.")
    component_numbers: list[int] = Field(
        description="(n_components,), as the labels of the store have them; the components are in this order."
    )
    component_names: dict[int, str] = Field(description="Names of components, by their numbers.")
    covariance_type: str = Field(
        description="full, tied, diag, spherical, or mclust's name of one of its other ten models."
    )
    weights: list[float] = Field(description="(n_components,), they add up to one, or to what noise leaves of it.")
    noise: UniformNoise | None = Field(
        default=None, description="Of a mixture with a uniform component for rows that belong to none; otherwise null."
    )
    transform: ExportedTransform | None = Field(
        description="What is done to rows before the mixture; null where that is in the user's units."
    )
    means: Nested = Field(description="(n_components, n_features), in the units of the features.")
    covariances: Nested = Field(
        description="In the squared units of the features. full: (n_components, n_features, n_features); tied: "
        "(n_features, n_features); diag: (n_components, n_features); spherical: (n_components,). EII has the shape of "
        "spherical, EEI, VEI and EVI that of diag, and mclust's others that of full."
    )
    precisions_cholesky: Nested = Field(
        description="Factors U, upper triangular, of the inverse covariances U U^T; shaped like covariances. Of diag "
        "and spherical: reciprocal standard deviations."
    )
    volume: list[float] = Field(
        description="(n_components,), of each covariance, volume orientation diag(shape) orientation^T."
    )
    shape: Nested = Field(description="(n_components, n_features), variances along the axes, of the product one.")
    orientation: Nested = Field(description="(n_components, n_features, n_features), the axes in columns.")
    scaled: FittedInScaledUnits | None = Field(
        description="The fitted mixture, where the columns were scaled before the fit; otherwise null."
    )
    variational: VariationalPosterior | None = Field(
        description="Of a variational mixture, whose log density is expected over it; null of maximum likelihood."
    )
    criteria: Criteria
    fit: Fit
    software: dict[str, str] = Field(description="Versions that the mixture was fitted with.")


def to_json(result: Result, model: StoredModel) -> ExportedMixture:
    """The model with all its parameters, and how it came about."""
    family, parameters = model.unscaled
    parts = decompose(family, parameters)
    return ExportedMixture(
        format_version=JSON_VERSION if model.transform.folds else TRANSFORMED_VERSION,
        name=model.candidate.name,
        features=list(model.columns),
        n_components=model.n_components,
        component_numbers=list(model.numbers),
        component_names=dict(model.component_names),
        covariance_type=family.name,
        weights=parameters.weights.tolist(),
        transform=_transform(model),
        noise=_noise(result, model),
        means=parameters.means.tolist(),
        covariances=parameters.covariances.tolist(),
        precisions_cholesky=parameters.precisions_cholesky.tolist(),
        volume=parts.volumes.tolist(),
        shape=parts.shapes.tolist(),
        orientation=parts.orientations.tolist(),
        scaled=_scaled(model),
        variational=_variational(model),
        criteria=_criteria(result, model.candidate.name),
        fit=Fit(
            status=model.status,
            n_iter=model.n_iter,
            lower_bounds=list(model.lower_bounds),
            settings=result.config["search"],
        ),
        software=result.software,
    )


def _transform(model: StoredModel) -> ExportedTransform | None:
    if model.transform.folds:
        return None
    steps = [{"kind": step.kind, **as_lists(vars(step))} for step in model.transform.steps]
    return ExportedTransform(columns=list(model.sources), steps=steps)


def as_lists(values: dict[str, Any]) -> dict[str, Any]:
    """Return arrays as lists, with null for what is infinite: an end of clip that there is not."""
    return {
        name: [None if value in (np.inf, -np.inf) else value for value in found.tolist()]
        if isinstance(found, np.ndarray) and found.ndim == 1
        else found.tolist()
        if isinstance(found, np.ndarray)
        else found
        for name, found in values.items()
    }


def _noise(result: Result, model: StoredModel) -> UniformNoise | None:
    noise, box = model.unscaled[1].noise, noise_box_of(result, model)
    if noise is None or box is None:
        return None
    return UniformNoise(
        weight=noise.weight, log_volume=noise.log_volume, box=np.vstack([box.corner, box.edges]).tolist()
    )


def _scaled(model: StoredModel) -> FittedInScaledUnits | None:
    scaling = model.transform.scaling
    if scaling is None:
        return None
    _, parameters = model.model
    return FittedInScaledUnits(
        center=scaling.center.tolist(),
        scale=scaling.scale.tolist(),
        covariance_type=model.covariance_type,
        means=parameters.means.tolist(),
        covariances=parameters.covariances.tolist(),
    )


def _variational(model: StoredModel) -> VariationalPosterior | None:
    _, posterior = model.unscaled
    priors = model.priors_in_units
    if not isinstance(posterior, Posterior) or priors is None:
        return None
    return VariationalPosterior(
        weight_concentration=posterior.weight_concentration.tolist(),
        mean_precision=posterior.mean_precision.tolist(),
        degrees_of_freedom=posterior.degrees_of_freedom.tolist(),
        weight_concentration_prior=priors.weight_concentration,
        mean_precision_prior=priors.mean_precision,
        mean_prior=priors.mean.tolist(),
        degrees_of_freedom_prior=priors.degrees_of_freedom,
        covariance_prior=priors.covariance.tolist(),
    )


def _criteria(result: Result, name: str) -> Criteria:
    row = result.row(name)
    values = {name: row[name].item() for name in ("log_likelihood", "n_parameters")}
    values |= {one.name: None if np.isnan(row[one.name]) else row[one.name].item() for one in _EXPORTED}
    if result.held_out_rows:
        values["held_out_log_likelihood"] = row["held_out_log_likelihood"].item()
    return Criteria(**values, n_rows=result.n_rows or 0, total_weight=result.total_weight or 0.0)


def _json_bytes(result: Result, model: StoredModel) -> bytes:
    return f"{to_json(result, model).model_dump_json(indent=2)}\n".encode()


_CONTENTS: dict[Target, Callable[[Result, StoredModel], bytes]] = {
    Target.SKLEARN: _sklearn_bytes,
    Target.ONNX: _onnx_bytes,
    Target.JSON: _json_bytes,
}
