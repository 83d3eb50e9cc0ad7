"""Data on which mixtures have no density, or numbers end: each candidate gets a status, or the user an error."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixtureSearch
from gmm_dask.em.status import Status
from gmm_dask.errors import UserError
from marks import slow
from messages import names

RANDOM = np.random.RandomState(0)
ROWS = RANDOM.standard_normal((60, 2))
OUTLIER = np.vstack([ROWS, [[1e12, 0.0]]])
DATA = {
    "constant column": np.column_stack([ROWS, np.full(60, 3.0)]),
    "constant columns": np.column_stack([ROWS[:, 0], np.full(60, 0.1), np.zeros(60)]),
    "equal rows": np.full((40, 2), 2.5),
    "rows of zeros": np.zeros((40, 2)),
    "two distinct rows": np.repeat([[0.0, 1.0], [2.0, 5.0]], 20, axis=0),
    "K = n": ROWS[:4],
    "two rows": ROWS[:2],
    "1e100": ROWS * 1e100,
    "1e-100": ROWS * 1e-100,
    "1e-160": ROWS * 1e-160,
    "1e-300": ROWS * 1e-300,
    "a column of 1e-300": np.column_stack([ROWS[:, 0], ROWS[:, 1] * 1e-300]),
    "a constant column of 1e-200": np.column_stack([ROWS, np.full(60, 1e-200)]),
    "a constant column of 1e-300": np.column_stack([ROWS, np.full(60, 1e-300)]),
    "outlier": OUTLIER,
    "outlier of 1e150": np.vstack([ROWS, [[1e150, 0.0]]]),
    "integer grid": RANDOM.randint(0, 4, (200, 2)),
    "integer line": RANDOM.randint(0, 3, (100, 1)).astype(float),
    "binary": RANDOM.randint(0, 2, (200, 2)).astype(float),
}
TOO_LARGE = {
    "1e300": ROWS * 1e300,
    "1e155": ROWS * 1e155,
    "a column of 1e300": np.column_stack([ROWS[:, 0], np.full(60, 1e300)]),
}
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data", "auto")


def search(X, n_components=(1, 2, 3, 4), **settings):
    """A search, in which every warning but those of its statuses is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixtureSearch(n_components, random_state=0, **{"init_params": "kmeans", **settings}).fit(X)


@pytest.mark.parametrize(
    ("init_params", "accelerate", "reg_covar"),
    [
        *(("kmeans", False, reg_covar) for reg_covar in (1e-6, "auto", 0.0)),
        *slow(("kmeans", True, reg_covar) for reg_covar in ("auto", 0.0)),
        *slow((name, False, reg_covar) for name in INIT_PARAMS[1:] for reg_covar in ("auto", 0.0)),
    ],
)
@pytest.mark.parametrize("name", DATA)
def test_every_candidate_gets_a_status(name, init_params, reg_covar, accelerate):
    settings = {"init_params": init_params, "reg_covar": reg_covar, "accelerate": accelerate, "tol": 1e-5}
    found, message = None, ""
    try:
        found = search(DATA[name], **settings)
    except UserError as error:
        message = str(error)
    if found is None:  # no candidate has a density
        assert re.match(names("no candidate", "scale the data"), message)
        assert reg_covar == 0.0 or name in ("1e-160", "1e-300")
        return
    statuses = [Status(status) for status in found.results_["status"]]
    assert len(statuses) == 16
    assert Status.RUNNING not in statuses
    usable = np.array([status.usable for status in statuses])
    np.testing.assert_array_equal(np.isfinite(found.results_["bic"]), usable)
    best = found.best_estimator_
    assert np.isfinite(best.weights_).all()
    assert np.isfinite(best.score_samples(DATA[name])).all()
    [winner] = found.results_[found.results_["delta"] == 0.0].head(1).to_dict("records")
    assert Status(winner["status"]).trusted


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("name", TOO_LARGE)
def test_numbers_whose_squares_overflow_are_refused_by_name(name, init_params):
    with pytest.raises(UserError, match=names(("column 0", "column 1"), "float64", "standard deviation")):
        search(TOO_LARGE[name], init_params=init_params)


@pytest.mark.parametrize("value", [0.0, 1e-200, -1e-300])
def test_a_constant_column_is_bounded_however_small_its_value(value):
    found = search(np.column_stack([ROWS, np.full(60, value)]), (1, 2), reg_covar="auto").results_
    assert not found["status"].isin(["singular", "failed"]).any()


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_candidates_of_more_components_than_rows_fail_and_the_others_finish(init_params):
    found = search(ROWS[:5], (1, 2, 9), init_params=init_params, covariance_types=["tied", "diag"]).results_
    assert found.n_components.tolist() == [1, 2, 9] * 2
    assert (found.status[found.n_components == 9] == "failed").all()
    assert (found.status[found.n_components == 1] == "converged").all()
    with pytest.raises(UserError, match=names("no candidate", "rows", "fewer components")):
        search(ROWS[:5], (8, 9), init_params=init_params)


def test_equal_rows_are_one_component():
    found = search(DATA["equal rows"], reg_covar="auto")
    assert found.best_params_["n_components"] == 1
    assert (found.results_.status[found.results_.n_components > 1] == "degenerate").all()


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data", *slow(["auto"])])
def test_a_component_for_one_outlier_does_not_win(init_params):
    found = search(OUTLIER, reg_covar="auto", init_params=init_params)
    assert found.best_estimator_.weights_.min() * len(OUTLIER) > 1.5 or found.best_params_["n_components"] == 1


def test_a_constant_column_does_not_change_the_choice(iris):
    settings = {"reg_covar": "auto", "tol": 1e-6}
    plain = search(iris, **settings)
    wider = search(np.column_stack([iris, np.full(len(iris), 7.0)]), covariance_types=["tied", "diag"], **settings)
    assert (wider.results_.status == "converged").all()
    ours = plain.results_.set_index(["covariance_type", "n_components"]).loc[["tied", "diag"]]
    # the column adds the same to every candidate's log-likelihood
    added = wider.results_.log_likelihood.to_numpy() - ours.log_likelihood.to_numpy()
    np.testing.assert_allclose(added, added[0], atol=0.5)
