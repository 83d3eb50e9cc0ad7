from __future__ import annotations

import numpy as np
import pytest

from gmm_dask import GaussianMixture, UserError
from messages import names
from mixtures import assert_same_parameters, inits_of, random_parameters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fit(X, **inits):
    return GaussianMixture(3, max_iter=0, random_state=0, **inits).fit(X)


def test_given_parameters_are_the_start(iris, covariance_type):
    parameters = random_parameters(covariance_type, 3, 4)
    fitted = fit(iris, covariance_type=covariance_type, **inits_of(covariance_type, parameters))
    assert_same_parameters(fitted, parameters, rtol=1e-12)


def test_given_precisions_replace_a_starts_own(iris, covariance_type):
    precisions = inits_of(covariance_type, random_parameters(covariance_type, 3, 4))["precisions_init"]
    fitted = fit(iris, covariance_type=covariance_type, precisions_init=precisions)
    np.testing.assert_allclose(fitted.precisions_, precisions, rtol=1e-9, atol=1e-12)
    own = fit(iris, covariance_type=covariance_type)
    np.testing.assert_array_equal(fitted.means_, own.means_)
    assert not np.allclose(fitted.precisions_, own.precisions_)


SKEW = np.array([np.eye(4)] * 3)
SKEW[1, 0, 1] = 0.5
WRONG = [
    ("weights_init", [0.5, 0.5], "full", ["(3,)", "(2,)"]),
    ("weights_init", [0.5, 0.5, 0.5], "full", ["add up to 1", "minimum 0.5", "maximum 0.5", "sum 1.5"]),
    ("weights_init", [1.5, -0.5, 0.0], "full", ["between 0 and 1", "minimum -0.5"]),
    ("weights_init", [np.nan, 0.5, 0.5], "full", ["NaN"]),
    ("means_init", np.zeros((3, 5)), "full", ["(3, 4)", "(3, 5)"]),
    ("precisions_init", np.ones((3, 4)), "full", ["(3, 4, 4)", "(3, 4)"]),
    ("precisions_init", SKEW, "full", ["symmetric", "positive definite", "'full'"]),
    ("precisions_init", -np.array([np.eye(4)] * 3), "full", ["positive definite", "'full'"]),
    ("precisions_init", -np.ones((3, 4)), "diag", ["positive definite", "'diag'"]),
    ("precisions_init", np.zeros(3), "spherical", ["positive definite", "'spherical'"]),
]


@pytest.mark.parametrize(("name", "value", "covariance_type", "parts"), WRONG)
def test_wrong_parameters(iris, name, value, covariance_type, parts):
    with pytest.raises(ValueError, match=names(name, *parts)):
        fit(iris, covariance_type=covariance_type, **{name: value})


def test_wrong_parameters_are_the_users(iris):
    with pytest.raises(UserError):
        fit(iris, means_init=np.zeros((1, 4)))
