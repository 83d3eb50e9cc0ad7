"""Small mixtures and data that tests share."""

from __future__ import annotations

import numpy as np

from gmm_dask.em.loop import State, Status
from gmm_dask.families import FAMILIES, Parameters, Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.noise import with_noise
from gmm_dask.kernels.feature_map import factors
from gmm_dask.passes.data_summary import Draw, summarize_chunk
from gmm_dask.passes.model_batch import Totals
from gmm_dask.selection.outcomes import evaluate


def random_rows(n_rows, n_features, seed=0):
    rng = np.random.RandomState(seed)
    return rng.standard_normal((n_rows, n_features)) * rng.uniform(1, 3, n_features) + rng.uniform(-2, 2, n_features)


def rows_of_five_groups(n_rows=1000, seed=0):
    random = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [16.0, 4.0]])
    return centers[random.integers(0, 5, n_rows)] + random.normal(size=(n_rows, 2))


def random_parameters(covariance_type, n_components, n_features, seed=0) -> Parameters:
    rng = np.random.RandomState(seed)
    roots = rng.standard_normal((n_components, n_features, n_features))
    full = roots @ roots.transpose(0, 2, 1) + np.eye(n_features)
    variances = rng.uniform(0.5, 4, (n_components, n_features))
    family = get_family(covariance_type)
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances[:, 0]}[family.sklearn_type]
    weights = rng.dirichlet(np.full(n_components, 3.0))
    return family.nearest(weights, rng.uniform(-3, 3, (n_components, n_features)), covariances)


def inits_of(covariance_type, parameters: Parameters) -> dict:
    """A mixture as the arguments that start a fit from it."""
    precisions = get_family(covariance_type).precisions(parameters.precisions_cholesky)
    return {"weights_init": parameters.weights, "means_init": parameters.means, "precisions_init": precisions}


def moments(X, weights=None):
    """Centre and scatter of rows, as pass 0 takes them."""
    found = summarize_chunk(X, weights, Draw.of(len(X), X.shape[1], seed=0), 0).moments
    return found.mean, found.scatter


def every_model(n_features, n_components=(1, 3)):
    """Models of all families and several sizes, as one pass takes them, then one of each family beside noise."""
    names = [(name, k) for name in FAMILIES for k in n_components]
    models = [(FAMILIES[name], random_parameters(name, k, n_features, seed)) for seed, (name, k) in enumerate(names)]
    return models + [beside_noise(*models[len(n_components) * (i + 1) - 1]) for i in range(len(FAMILIES))]


def beside_noise(family, parameters, weight=0.2, log_volume=None):
    """A model with a fifth of the rows in noise, in a box in which it is about as dense as the components are."""
    log_volume = 2.0 * parameters.means.shape[1] if log_volume is None else log_volume
    family = with_noise(family, log_volume)
    weights = np.append(parameters.weights * (1.0 - weight), weight)
    return family, family.parameters(weights, parameters.means, parameters.covariances)


def assert_same_statistics(found: list[Statistics], expected: list[Statistics], rtol=1e-9):
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("s0", "s1", "s2", "log_likelihood"):
            a, b = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
            np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1.0, np.abs(b).max()), err_msg=name)


def assert_same_parameters(ours, theirs, rtol=1e-9):
    """Compare parameters, states, or fitted estimators: arrays by their largest entry, means by the widths too."""
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        a, b = _part(ours, name), _part(theirs, name)
        size = np.abs(b).max()
        if name == "means":
            size = max(size, np.sqrt(np.abs(_part(theirs, "covariances")).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * size, err_msg=name)


def assert_identical(ours, theirs):
    """The same bits."""
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        np.testing.assert_array_equal(_part(ours, name), _part(theirs, name), err_msg=name)
    assert ours.lower_bounds_ == theirs.lower_bounds_


def _part(fitted, name):
    if isinstance(fitted, State):
        fitted = fitted.parameters
    return np.asarray(getattr(fitted, name) if hasattr(fitted, name) else getattr(fitted, f"{name}_"))


def monomials(z):
    """The feature map of rows z (n_features, n_rows), as arrays: (n_monomials, n_rows)."""
    lines = np.vstack([np.ones(z.shape[1]), z, np.sum(z**2, axis=0)])
    first, second = factors(len(z))
    return lines[first] * lines[second]


def outcome(name="full", k=2, start=0, log_likelihood=-100.0, bound=-1.0, status=Status.CONVERGED):
    state = State(Candidate(name, k), start, random_parameters(name, k, 3), (bound,), status)
    totals = Totals(log_likelihood, -5.0) if state.usable else None
    return evaluate(state, 3, totals, 50.0)


# rows of two groups, and of one so rare that a sample of a few hundred rows does not hold it
N_ROWS, RARE, RARE_PLACE = 20_000, 24, (-8.0, 8.0)


def two_groups(rng, n_rows=N_ROWS):
    rows = rng.normal(size=(n_rows, 2))
    rows[n_rows // 2 :, 0] += 10.0
    return rows


def with_rare_group(seed=0, n_rows=N_ROWS):
    """Two large groups, and one of 24 rows, 11 standard deviations from the nearest."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate([two_groups(rng, n_rows)[RARE:], rng.normal(RARE_PLACE, 0.7, (RARE, 2))]))


def tilted_groups(seed, n_features=5):
    """Three groups, far from each other, of axes of their own: common axes that fit all take many turns to find."""
    rng = np.random.RandomState(seed)
    groups = []
    for _ in range(3):
        rows = rng.normal(size=(100, n_features)) * 10.0 ** rng.uniform(-3, 0, n_features)
        axes = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
        groups.append(rows @ axes + 10 * rng.normal(size=n_features))
    return np.vstack(groups)
