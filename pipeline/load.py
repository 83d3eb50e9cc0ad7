"""Stored models as fitted estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import validate_data

from gmm_dask.bayesian import BayesianGaussianMixture
from gmm_dask.em.regularization import AUTO
from gmm_dask.errors import UserError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.inputs import BY_LIKELIHOOD, REFUSED
from gmm_dask.labelled import is_labelled
from gmm_dask.passes.bounding_box import Box
from gmm_dask.selection.grid import noise_choices
from pipeline.store import Result, StoredModel, of_group, open_result, place_of
from pipeline.store.places import StorePath
from pipeline.transforms import Chain

# settings of the search that the estimator has, too
_SETTINGS = ("tol", "reg_covar", "max_iter", "n_init", "init_params", "random_state", "accelerate", "start_effort")


def load(
    store: StorePath, model: str | None = None, *, group: Any | None = None
) -> GaussianMixture | BayesianGaussianMixture | Pipeline:
    """Load a model of a complete result store as a fitted estimator.

    Parameters
    ----------
    store : str or Path
        A result store: a path of this machine, or a URL of an object store (``s3://``, ``gs://``, ``az://``). A link to
        one is followed once.
    model : str, optional
        Name of a model, such as ``"full-k2"``; by default the winner. A store holds every candidate that could be
        fitted, whether it won or not.

    group : str or int, optional
        Of a store with a search for each group (``data.by``), the value of the group. Its winner alone is stored.

    Returns
    -------
    mixture : GaussianMixture, BayesianGaussianMixture or sklearn.pipeline.Pipeline
        Fitted, in the units of the data, with the components in the order of the store. ``component_numbers_``
        (n_components,) has their numbers, which ``predict`` does not know: ``component_numbers_[predict(X)]`` are the
        labels of the store; ``component_names_`` has the names of those that have one, by number. A spherical model of
        columns that were scaled (``data.scale``) has diagonal covariances in these units. ``feature_names_in_`` are
        the columns of the data; those of arrays, which are only numbered, are no names. ``status_``, ``converged_``,
        ``n_iter_`` and ``lower_bounds_`` are those of the stored fit, and the parameters of the estimator those of the
        search; ``reg_covar`` is ``'auto'`` where the columns were scaled, as a number is of scaled units. Of a job on a
        grid ``feature_dims`` is that of the data, so that ``predict`` takes its variables as xarray opens them.

        Where ``data.transform`` does more than scale columns, it is a pipeline of scikit-learn's transformers with the
        mixture as its last step, ``"mixture"``. It takes rows in the units of the data, as arrays or tables in memory.
        Its labels and responsibilities are those of the store; its densities, as the means of its last step, are in
        the units after the transform: the store's are larger by the logarithm of the transform's derivative. It has
        ``component_numbers_`` and ``component_names_``, too. Of a job with ``data.missing: likelihood`` the
        transformers are one step, ``"transform"``, that takes rows with gaps as well.

    Raises
    ------
    UserError
        If there is no result store, one that is not complete or not whole, or it has no such model, or no such
        group: the message lists those that it has.

    Examples
    --------
    >>> import gmm_dask
    >>> mixture = gmm_dask.load("results/old-faithful.zarr", "full-k2")  # doctest: +SKIP
    """
    result = of_group(open_result(place_of(store).resolved().path), group)
    stored = result.model(model)
    mixture, steps = to_estimator(result, stored), None
    if result.config["data"]["missing"] == BY_LIKELIHOOD:
        steps = [("transform", JobTransform(stored.transform).of_columns(stored.sources, named=stored.has_names))]
    return in_pipeline(stored, mixture, TransformedMixture, steps)


class JobTransform(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The fitted transform of a job, of rows with gaps as well, which scikit-learn's transformers refuse."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def of_columns(self, columns: Sequence[str], *, named: bool) -> Self:
        """Set the columns that it takes."""
        self.n_features_in_ = len(columns)
        if named:
            self.feature_names_in_ = np.array(columns, dtype=object)
        return self

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: D102
        return self

    def transform(self, X: Any) -> Any:  # noqa: D102
        rows = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite=False)
        return self.chain.rows(rows)


class TransformedMixture(Pipeline):  # type: ignore[misc]
    """A mixture behind the transform of its job; what has no rows and columns is refused with what to pass."""

    def predict(self, X: Any, **params: Any) -> Any:  # noqa: D102
        return super().predict(_rows_of(X), **params)

    def predict_proba(self, X: Any, **params: Any) -> Any:  # noqa: D102
        return super().predict_proba(_rows_of(X), **params)

    def score_samples(self, X: Any) -> Any:  # noqa: D102
        return super().score_samples(_rows_of(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, **params: Any) -> Any:  # noqa: D102
        return super().score(_rows_of(X), y, sample_weight, **params)


def _rows_of(X: Any) -> Any:
    if is_labelled(X) and getattr(X, "ndim", None) != 2:
        raise UserError(
            "a model behind data.transform takes rows and columns in memory, and no grid of xarray. Stack it: "
            "X.to_stacked_array('column', sample_dims=dims).stack(row=dims).transpose('row', 'column').values, where "
            "dims are the dimensions of the rows, such as ['time', 'lat', 'lon'], and leave out rows with missing "
            "values. Or label it on its grid: gmm-dask score."
        )
    return X


def in_pipeline(
    model: StoredModel, mixture: Any, kind: type[Pipeline] = Pipeline, steps: list[tuple[str, Any]] | None = None
) -> Any:
    """Return a mixture of a model's features behind the transform that makes them, if there is more than a scaling.

    ``steps`` are the transform's, by default transformers of scikit-learn.
    """
    if model.transform.folds:
        return mixture
    if steps is None:
        steps = model.transform.to_sklearn(model.sources, named=model.has_names)
    pipeline = kind([*steps, ("mixture", mixture)])
    pipeline.component_numbers_ = np.array(model.numbers)
    pipeline.component_names_ = dict(model.component_names)
    return pipeline


def to_estimator(result: Result, model: StoredModel) -> GaussianMixture | BayesianGaussianMixture:
    """Return a model of a result as a fitted estimator, in the units of its features."""
    name, parameters = model.in_units
    settings = {key: result.config["search"][key] for key in _SETTINGS}
    if model.transform.scaling is not None:
        settings["reg_covar"] = AUTO
    state = replace(model, candidate=model.candidate._replace(covariance_type=name), parameters=parameters)
    state = replace(state, priors=model.priors_in_units)
    mixture: GaussianMixture | BayesianGaussianMixture
    if model.priors is None:
        prior = result.config["search"]["prior"]
        gaps = result.config["data"]["missing"] == BY_LIKELIHOOD
        log_volume = noise_choices(result.config["search"]["noise"])[1]
        mixture = GaussianMixture(
            model.n_components,
            covariance_type=name,
            prior=None if prior == "none" else prior,
            missing=BY_LIKELIHOOD if gaps else REFUSED,
            noise=model.candidate.noise and (True if log_volume is None else math.exp(log_volume)),
            **settings,
        )
        mixture.set_fitted(state, noise_box_of(result, model))
    else:
        mixture = _variational(state, settings, result.total_weight or 0.0)
    # behind other transforms than a scaling it is given arrays
    if (data := result.config["data"]).get("variables") is not None and model.transform.folds:
        mixture.feature_dims = list(data["feature_dims"])
    mixture.n_features_in_ = len(model.columns)
    if model.has_names and model.transform.folds:
        mixture.feature_names_in_ = np.array(model.columns, dtype=object)
    mixture.component_numbers_ = np.array(model.numbers)
    mixture.component_names_ = dict(model.component_names)
    return mixture


def noise_box_of(result: Result, model: StoredModel) -> Box | None:
    """Return what a model's noise is uniform in, in the units of its features."""
    if not model.candidate.noise or (box := result.noise_box) is None:
        return None
    scaling = model.transform.scaling
    return box if scaling is None else box.unscaled(scaling.center, scaling.scale)


def _variational(state: StoredModel, settings: dict[str, Any], total_weight: float) -> BayesianGaussianMixture:
    """Return a variational model as a fitted estimator, given the state in the units of the data."""
    priors = state.priors
    assert priors is not None
    known = {name: value for name, value in settings.items() if name in BayesianGaussianMixture().get_params()}
    mixture = BayesianGaussianMixture(
        n_components=state.n_components,
        covariance_type=state.covariance_type,
        weight_concentration_prior_type=priors.weight_concentration_type,
        **known,
    )
    mixture.tol *= total_weight  # that of a job is per row
    mixture.set_posterior(state, priors, total_weight)
    return mixture
