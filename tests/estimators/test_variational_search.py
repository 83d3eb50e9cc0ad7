"""A search over variational mixtures: bounds on the number of components and types, compared by the evidence."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture as Peer

from gmm_dask import BayesianGaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.plotting.plots import plot_criteria
from messages import names


@pytest.fixture(scope="module")
def search(blobs):
    return GaussianMixtureSearch([1, 3, 6], ["full", "spherical"], inference="variational", random_state=0).fit(blobs)


def test_the_evidence_chooses(search, blobs):
    assert search.criterion_ == "elbo"
    assert search.best_params_["n_components"] >= 3
    assert np.sum(search.best_estimator_.weights_ > 0.02) == 3
    table = search.results_
    assert table["elbo"].notna().all()
    assert table[["bic", "aic", "icl", "held_out"]].isna().all(axis=None)
    assert table["delta"].min() == 0.0
    assert set(table["status"]) == {"converged"}
    np.testing.assert_array_equal(search.predict(blobs), search.best_estimator_.predict(blobs))


def test_the_winner_is_a_variational_mixture(search, blobs):
    best = search.best_estimator_
    assert isinstance(best, BayesianGaussianMixture)
    assert isinstance(search.to_sklearn(), Peer)
    np.testing.assert_allclose(search.to_sklearn().score_samples(blobs), search.score_samples(blobs), rtol=1e-9)
    # its own fit goes on to the same change of the bound
    assert best.tol == pytest.approx(1e-3 * len(blobs))
    assert clone(best).fit(blobs).n_iter_ > 0
    with pytest.raises(UserError, match=names("bic", "variational", "elbo")):
        search.bic(blobs)


def test_each_candidate_is_that_of_the_estimator(blobs):
    settings = {"init_params": "kmeans", "reg_covar": 1e-6, "random_state": 3}
    search = GaussianMixtureSearch([4], ["tied"], inference="variational", **settings).fit(blobs)
    settings |= {"tol": 1e-3 * len(blobs), "weight_concentration_prior_type": "dirichlet_distribution"}
    alone = BayesianGaussianMixture(n_components=4, covariance_type="tied", **settings).fit(blobs)
    np.testing.assert_array_equal(search.best_estimator_.means_, alone.means_)
    assert search.best_estimator_.lower_bounds_ == alone.lower_bounds_


def test_chunks_give_the_same(search, blobs):
    lazy = clone(search).fit(da.from_array(blobs, chunks=(70, 2)))
    np.testing.assert_allclose(lazy.results_["elbo"], search.results_["elbo"], rtol=1e-9)


def test_held_out_rows_may_choose(blobs):
    search = GaussianMixtureSearch(
        [2, 3], ["full"], inference="variational", criterion="held_out", held_out=0.2, random_state=0
    ).fit(blobs)
    assert search.best_params_["n_components"] == 3
    assert search.results_["held_out"].notna().all()


def test_the_picture_shows_the_evidence(search):
    assert "ELBO" in plot_criteria(search).get_ylabel()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"criterion": "bic"}, ("'bic'", "'elbo'", "'held_out'")),
        ({"accelerate": True}, ("accelerate",)),
        ({"resamples": 5}, ("resamples",)),
        ({"noise": True}, ("noise",)),
        ({"prior": "default"}, ("prior",)),
        ({"noise": [False, True]}, ("noise",)),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(blobs, settings, named):
    with pytest.raises(UserError, match=names(*named, "variational")):
        GaussianMixtureSearch([2], inference="variational", **settings).fit(blobs)


def test_the_evidence_is_not_for_maximum_likelihood(blobs):
    with pytest.raises(UserError, match=names("'elbo'", "'em'", "'bic'")):
        GaussianMixtureSearch([2], criterion="elbo").fit(blobs)


def test_mclusts_other_models_are_of_maximum_likelihood(blobs):
    with pytest.raises(UserError, match=names("variational", "spherical", "VVE", "em")):
        GaussianMixtureSearch([2], ["full", "VVE"], inference="variational").fit(blobs)
