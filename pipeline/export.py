"""The chosen model in forms that other programs take: scikit-learn's, ONNX and JSON.

All are of the user's units: scaling is folded into the parameters, which makes a spherical mixture a diagonal one.
Components are numbered as in the store, the largest weight first.

scikit-learn's estimator is written with joblib, which scikit-learn itself brings along, so that it is loaded by one
line wherever scikit-learn is. It is a pickle: load it only where you trust its origin. This program never loads one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, create_model

from gmm_dask.em.loop import Status
from gmm_dask.errors import UserError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.families import Family, Parameters, get_family
from gmm_dask.selection.criteria import CRITERIA
from pipeline.sources.overlap import require_apart_from_stored, require_outside
from pipeline.store import Result, StoredModel, open_result
from pipeline.store.arrays import require_local, writing
from pipeline.store.paths import results_of
from pipeline.store.places import is_url, place_of
from pipeline.store.places.durable import sync

# the oldest operators that take float64 throughout, and the file format that goes with them
ONNX_OPSET, ONNX_FORMAT = 18, 8
JSON_FORMAT, JSON_VERSION = "gmm-dask-model", 1


class Target(StrEnum):
    """What a model can be exported to."""

    SKLEARN = "sklearn"
    ONNX = "onnx"
    JSON = "json"

    @property
    def ending(self) -> str:
        """Of the files."""
        return {Target.SKLEARN: ".joblib", Target.ONNX: ".onnx", Target.JSON: ".json"}[self]


def export(path: str | Path, target: Target, out: str | Path | None = None) -> Path:
    """Write the chosen model of a complete result store to a file.

    Parameters
    ----------
    path : str or Path
        The result store.
    target : Target
    out : str or Path, optional
        The file; by default beside the store, or in the current directory if that is on an object store, named by store
        and model.

    Returns
    -------
    file : Path

    Raises
    ------
    UserError
        If the store is not complete, the file exists or would lie within the store or its data, or a package is
        missing.
    """
    if out is not None:
        require_local(out, "-o")
    result = open_result(place_of(path).resolved().path)  # once: a link may be set to another store meanwhile
    assert result.best is not None
    model = result.best_model
    file = _default_file(path, result.best, target) if out is None else Path(out)
    require_outside(file, [*results_of(path), *results_of(result.store)])
    require_apart_from_stored(result.config["data"]["source"], [file])
    _WRITERS[target](result, model, file)
    return file


def _default_file(path: str | Path, best: str, target: Target) -> Path:
    folder = Path() if is_url(path) else Path(path).parent
    return folder / f"{Path(path).stem}-{best}{target.ending}"


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


def _unscaled(model: StoredModel) -> tuple[Family, Parameters]:
    name, parameters = model.in_units
    return get_family(name), parameters


def _has_names(model: StoredModel) -> bool:
    """Whether the columns have names of their own; those of arrays are only numbered."""
    return model.columns != tuple(f"x{i}" for i in range(len(model.columns)))


# -- scikit-learn ------------------------------------------------------------------------------------------------


def to_sklearn(result: Result, model: StoredModel) -> Any:
    """The model as a fitted :class:`sklearn.mixture.GaussianMixture`."""
    family, parameters = _unscaled(model)
    search = result.config["search"]
    names = ("tol", "reg_covar", "max_iter", "n_init", "init_params", "random_state")
    # scikit-learn knows no reg_covar by feature: for fitting again it has its own
    settings: dict[str, Any] = {name: search[name] for name in names if name != "reg_covar" or search[name] != "auto"}
    mixture = GaussianMixture(model.n_components, covariance_type=family.name, **settings)
    mixture.set_fitted(
        replace(model, candidate=model.candidate._replace(covariance_type=family.name), parameters=parameters)
    )
    mixture.n_features_in_ = len(model.columns)
    if _has_names(model):
        mixture.feature_names_in_ = np.array(model.columns, dtype=object)
    return mixture.to_sklearn()


def _write_sklearn(result: Result, model: StoredModel, file: Path) -> None:
    import joblib

    with _whole(file) as partial:
        joblib.dump(to_sklearn(result, model), partial)


# -- ONNX --------------------------------------------------------------------------------------------------------


def to_onnx(result: Result, model: StoredModel) -> Any:
    """The model as an ONNX graph of ``X`` (rows, features), float64, with three outputs.

    ``label`` (rows,) int64, ``probabilities`` (rows, components) and ``log_density`` (rows,), float64, in the
    numbers that the store's own answers have: differences from the means first, and a log-sum-exp about the largest.

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
    n_features = len(model.columns)
    constants = [numpy_helper.from_array(values, name) for name, values in _onnx_constants(model).items()]
    inputs = [helper.make_tensor_value_info("X", TensorProto.DOUBLE, ["rows", n_features])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["rows", model.n_components]),
        helper.make_tensor_value_info("log_density", TensorProto.DOUBLE, ["rows"]),
    ]
    nodes = [helper.make_node(kind, takes, [gives], **options) for kind, takes, gives, options in _ONNX_STEPS]
    graph = helper.make_graph(nodes, "gaussian_mixture", inputs, outputs, constants)
    found = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", ONNX_OPSET)],
        ir_version=ONNX_FORMAT,
        producer_name="gmm-dask",
        producer_version=result.software["gmm-dask"],
    )
    helper.set_model_props(found, {"model": str(result.best), "features": "\n".join(model.columns)})
    onnx.checker.check_model(found, full_check=True)
    return found


# operator, what it takes, what it gives, options; k stands for components, n for rows, d for features
_ONNX_STEPS: list[tuple[str, list[str], str, dict[str, Any]]] = [
    ("Unsqueeze", ["X", "first"], "rows_1nd", {}),
    ("Sub", ["rows_1nd", "means_k1d"], "centred_knd", {}),
    ("MatMul", ["centred_knd", "factors_kdd"], "whitened_knd", {}),
    ("Mul", ["whitened_knd", "whitened_knd"], "squares_knd", {}),
    ("ReduceSum", ["squares_knd", "last"], "distances_kn", {"keepdims": 0}),
    ("Mul", ["distances_kn", "minus_half"], "exponents_kn", {}),
    ("Add", ["exponents_kn", "offsets_k1"], "logits_kn", {}),
    ("Transpose", ["logits_kn"], "logits_nk", {"perm": [1, 0]}),
    ("ArgMax", ["logits_nk"], "label", {"axis": 1, "keepdims": 0}),
    ("ReduceMax", ["logits_nk", "second"], "top_n1", {"keepdims": 1}),
    ("Sub", ["logits_nk", "top_n1"], "below_nk", {}),
    ("Exp", ["below_nk"], "shares_nk", {}),
    ("ReduceSum", ["shares_nk", "second"], "total_n1", {"keepdims": 1}),
    ("Div", ["shares_nk", "total_n1"], "probabilities", {}),
    ("Log", ["total_n1"], "log_total_n1", {}),
    ("Add", ["top_n1", "log_total_n1"], "log_density_n1", {}),
    ("Squeeze", ["log_density_n1", "second"], "log_density", {}),
]


def _onnx_constants(model: StoredModel) -> dict[str, Any]:
    family, parameters = _unscaled(model)
    # the matrices of what stands for covariances: here of the factors of the precisions
    factors = family.full_covariances(replace(parameters, covariances=parameters.precisions_cholesky))
    offsets = family.log_weights(parameters) + family.log_norm(parameters)
    return {
        "means_k1d": parameters.means[:, None, :],
        "factors_kdd": np.ascontiguousarray(factors),
        "offsets_k1": offsets[:, None],
        "minus_half": np.array(-0.5),
        "first": np.array([0]),
        "second": np.array([1]),
        "last": np.array([2]),
    }


def _write_onnx(result: Result, model: StoredModel, file: Path) -> None:
    found = to_onnx(result, model)
    with _whole(file) as partial:
        partial.write_bytes(found.SerializeToString())


# -- JSON --------------------------------------------------------------------------------------------------------

Nested = list[Any]


class FittedInScaledUnits(BaseModel):
    """The mixture as it was fitted, of rows ``(x - center) / scale``."""

    center: list[float] = Field(description="What was subtracted from each feature.")
    scale: list[float] = Field(description="What each feature was divided by.")
    covariance_type: str = Field(description="Of the fitted mixture.")
    means: Nested = Field(description="(n_components, n_features), in scaled units.")
    covariances: Nested = Field(description="By covariance_type, in scaled units.")


# of the criteria those that every fit has; of rows held out the mean log-likelihood tells more than the deviance
_EXPORTED = [criterion for criterion in CRITERIA.values() if not criterion.needs_held_out]
_CRITERIA_FIELDS: dict[str, Any] = {
    "log_likelihood": (float, Field(description="Total over the rows, natural logarithms.")),
    **{criterion.name: (float, Field(description=criterion.description)) for criterion in _EXPORTED},
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


class Fit(BaseModel):
    """How EM came to the parameters."""

    status: Status = Field(description="converged, or what kept it from that; see gmm-dask show.")
    n_iter: int = Field(description="Iterations.")
    lower_bounds: list[float] = Field(description="Mean log-likelihood a row before each M-step, in the user's units.")
    settings: dict[str, Any] = Field(description="The search's settings, as in the configuration.")


class ExportedMixture(BaseModel):
    """A Gaussian mixture as JSON: density of x = sum over k of weights[k] Normal(x; means[k], covariances[k])."""

    format: str = Field(default=JSON_FORMAT, description="Always gmm-dask-model.")
    format_version: int = Field(default=JSON_VERSION, description="Raised when a key changes its meaning.")
    name: str = Field(description="Name of the model in its store, by the fitted covariance type: tied-k3.")
    features: list[str] = Field(description="The columns, in the order of all arrays.")
    n_components: int = Field(description="Number of components, the largest weight first.")
    covariance_type: str = Field(description="full, tied, diag or spherical: the shape of covariances.")
    weights: list[float] = Field(description="(n_components,), they add up to one.")
    means: Nested = Field(description="(n_components, n_features), in the user's units.")
    covariances: Nested = Field(
        description="In the user's squared units. full: (n_components, n_features, n_features); tied: (n_features, "
        "n_features); diag: (n_components, n_features); spherical: (n_components,)."
    )
    precisions_cholesky: Nested = Field(
        description="Factors U, upper triangular, of the inverse covariances U U^T; shaped like covariances. Of diag "
        "and spherical: reciprocal standard deviations."
    )
    scaled: FittedInScaledUnits | None = Field(
        description="The fitted mixture, where the columns were scaled before the fit; otherwise null."
    )
    criteria: Criteria
    fit: Fit
    software: dict[str, str] = Field(description="Versions that the mixture was fitted with.")


def to_json(result: Result, model: StoredModel) -> ExportedMixture:
    """The model with all its parameters, and how it came about."""
    family, parameters = _unscaled(model)
    return ExportedMixture(
        name=str(result.best),
        features=list(model.columns),
        n_components=model.n_components,
        covariance_type=family.name,
        weights=parameters.weights.tolist(),
        means=parameters.means.tolist(),
        covariances=parameters.covariances.tolist(),
        precisions_cholesky=parameters.precisions_cholesky.tolist(),
        scaled=_scaled(model),
        criteria=_criteria(result),
        fit=Fit(
            status=model.status,
            n_iter=model.n_iter,
            lower_bounds=list(model.lower_bounds),
            settings=result.config["search"],
        ),
        software=result.software,
    )


def _scaled(model: StoredModel) -> FittedInScaledUnits | None:
    if model.center is None or model.scale is None:
        return None
    _, parameters = model.model
    return FittedInScaledUnits(
        center=model.center.tolist(),
        scale=model.scale.tolist(),
        covariance_type=model.covariance_type,
        means=parameters.means.tolist(),
        covariances=parameters.covariances.tolist(),
    )


def _criteria(result: Result) -> Criteria:
    row = result.row()
    names = ("log_likelihood", *(criterion.name for criterion in _EXPORTED), "n_parameters")
    values = {name: row[name].item() for name in names}
    if result.held_out_rows:
        values["held_out_log_likelihood"] = row["held_out_log_likelihood"].item()
    return Criteria(**values, n_rows=result.n_rows or 0, total_weight=result.total_weight or 0.0)


def _write_json(result: Result, model: StoredModel, file: Path) -> None:
    text = to_json(result, model).model_dump_json(indent=2)
    with _whole(file) as partial:
        partial.write_text(text + "\n")


_WRITERS: dict[Target, Callable[[Result, StoredModel, Path], None]] = {
    Target.SKLEARN: _write_sklearn,
    Target.ONNX: _write_onnx,
    Target.JSON: _write_json,
}
