"""The obvious implementation: loops over rows, components and features, in a choice of arithmetic.

``FLOATS`` is the machine's; ``EXTENDED`` has 50 digits, and shows what the formulas give when nothing is rounded.
Sums of squares are taken about each component's own mean, so that even in floats nothing cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np

import parsimonious
from gmm_dask.families import Parameters, get_family
from gmm_dask.families.noise import with_noise

NK_FLOOR = 10.0 * float(np.finfo(np.float64).eps)
COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


class Arithmetic(NamedTuple):
    number: Callable[[Any], Any]
    log: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    sqrt: Callable[[Any], Any]
    pi: Any


class Model(NamedTuple):
    """Nested lists of numbers; a covariance matrix a component, whatever the type.

    The noise, where there is some, is its weight and the logarithm of its volume; it comes after the components.
    """

    weights: list
    means: list
    covariances: list
    noise: tuple | None = None


_mp = mpmath.MPContext()
_mp.dps = 50
FLOATS = Arithmetic(float, math.log, math.exp, math.sqrt, math.pi)
EXTENDED = Arithmetic(_mp.mpf, _mp.log, _mp.exp, _mp.sqrt, +_mp.pi)


def numbers(array, arithmetic=FLOATS):
    if np.ndim(array) == 0:
        return arithmetic.number(float(array))
    return [numbers(item, arithmetic) for item in array]


def array(nested) -> np.ndarray:
    return np.array(nested, dtype=object).astype(np.float64)


def model_of(covariance_type, parameters, arithmetic=FLOATS) -> Model:
    """A model from fitted parameters; matrices are read off the shapes that scikit-learn documents."""
    k, d = np.shape(parameters.means)
    given = np.asarray(parameters.covariances)
    matrices = {
        "full": lambda: given,
        "tied": lambda: [given] * k,
        "diag": lambda: [np.diag(variances) for variances in given],
        "spherical": lambda: [np.eye(d) * variance for variance in given],
    }[get_family(covariance_type).sklearn_type]()
    parts = (numbers(part, arithmetic) for part in (parameters.weights, parameters.means, matrices))
    noise = getattr(parameters, "noise", None)
    return Model(*parts, None if noise is None else tuple(map(arithmetic.number, noise)))


def parameters_of(covariance_type, model: Model) -> Parameters:
    """A model as our parameters, in scikit-learn's shapes."""
    covariances = {
        "full": lambda c: c,
        "tied": lambda c: c[0],
        "diag": lambda c: np.array([np.diag(matrix) for matrix in c]),
        "spherical": lambda c: np.array([matrix[0, 0] for matrix in c]),
    }[get_family(covariance_type).sklearn_type](array(model.covariances))
    family, weights = get_family(covariance_type), array(model.weights)
    if model.noise is not None:
        weight, log_volume = map(float, model.noise)
        family, weights = with_noise(family, log_volume), np.append(weights, weight)
    return family.parameters(weights, array(model.means), covariances)


def cholesky(matrix, arithmetic=FLOATS):
    """Lower triangular factor."""
    d = len(matrix)
    lower = [[arithmetic.number(0)] * d for _ in range(d)]
    for i in range(d):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][m] * lower[j][m] for m in range(j))
            lower[i][j] = arithmetic.sqrt(rest) if i == j else rest / lower[j][j]
    return lower


def log_density(row, mean, lower, arithmetic=FLOATS):
    """Log density of one row under one Gaussian, with the lower factor of its covariance."""
    d = len(row)
    solved = []
    for i in range(d):
        rest = row[i] - mean[i] - sum(lower[i][j] * solved[j] for j in range(i))
        solved.append(rest / lower[i][i])
    log_det = sum(arithmetic.log(lower[i][i]) for i in range(d))
    return -(d * arithmetic.log(2 * arithmetic.pi) + sum(y * y for y in solved)) / 2 - log_det


def weighted_log_densities(rows, model: Model, arithmetic=FLOATS):
    """``log weight + log density``, a list of components a row."""
    factors = [cholesky(covariance, arithmetic) for covariance in model.covariances]
    logs = [arithmetic.log(weight) for weight in model.weights]
    noise = [] if model.noise is None else [arithmetic.log(model.noise[0]) - model.noise[1]]
    return [
        [
            log + log_density(row, mean, lower, arithmetic)
            for log, mean, lower in zip(logs, model.means, factors, strict=True)
        ]
        + noise
        for row in rows
    ]


def e_step(rows, model: Model, arithmetic=FLOATS):
    """Responsibilities, a list of components a row, and the mixture's log density of each row."""
    resp, densities = [], []
    for terms in weighted_log_densities(rows, model, arithmetic):
        top = max(terms)
        shares = [arithmetic.exp(term - top) for term in terms]
        total = sum(shares)
        resp.append([share / total for share in shares])
        densities.append(top + arithmetic.log(total))
    return resp, densities


def sums_about(rows, resp, origins, row_weights=None, arithmetic=FLOATS):
    """``sum r``, ``sum r y`` and ``sum r y y^T`` of each component, with y = row - origin."""
    k, d, zero = len(origins), len(rows[0]), arithmetic.number(0)
    s0, s1 = [zero] * k, [[zero] * d for _ in range(k)]
    s2 = [[[zero] * d for _ in range(d)] for _ in range(k)]
    for i, row in enumerate(rows):
        for c, origin in enumerate(origins):
            r = resp[i][c] if row_weights is None else resp[i][c] * row_weights[i]
            y = [row[a] - origin[a] for a in range(d)]
            s0[c] += r
            for a in range(d):
                s1[c][a] += r * y[a]
                for b in range(d):
                    s2[c][a][b] += r * y[a] * y[b]
    return s0, s1, s2


def m_step(covariance_type, rows, resp, row_weights=None, reg_covar=0.0, arithmetic=FLOATS, log_volume=None) -> Model:
    """Weights, means and covariances of largest expected likelihood, with scikit-learn's floor and regularisation.

    With the logarithm of a volume, the last of the responsibilities is that of noise.
    """
    if log_volume is not None:
        shares = [shares[-1] for shares in resp]
        noise = sum(shares if row_weights is None else (r * w for r, w in zip(shares, row_weights, strict=True)))
        gaussians = [shares[:-1] for shares in resp]
        found = m_step(covariance_type, rows, gaussians, row_weights, reg_covar, arithmetic)
        weight = noise / (len(rows) if row_weights is None else sum(row_weights))
        return found._replace(weights=[(1 - weight) * w for w in found.weights], noise=(weight, log_volume))
    k, d = len(resp[0]), len(rows[0])
    origin = [[arithmetic.number(0)] * d] * k
    s0, s1, _ = sums_about(rows, resp, origin, row_weights, arithmetic)
    nk = [s + arithmetic.number(NK_FLOOR) for s in s0]
    means = [[s1[c][a] / nk[c] for a in range(d)] for c in range(k)]
    _, _, scatters = sums_about(rows, resp, means, row_weights, arithmetic)
    covariances = _pool(covariance_type, scatters, nk, arithmetic)
    for covariance in covariances:
        for a in range(d):
            covariance[a][a] += arithmetic.number(reg_covar)
    if covariance_type not in COVARIANCE_TYPES:
        covariances = numbers(parsimonious.constrained(covariance_type, array(nk), array(covariances)), arithmetic)
    return Model([n / sum(nk) for n in nk], means, covariances)


def _pool(covariance_type, scatters, nk, arithmetic):
    k, d = len(scatters), len(scatters[0])
    if covariance_type == "tied":
        total = sum(nk)
        return [[[sum(s[a][b] for s in scatters) / total for b in range(d)] for a in range(d)] for _ in range(k)]
    covariances = [[[scatters[c][a][b] / nk[c] for b in range(d)] for a in range(d)] for c in range(k)]
    kind = get_family(covariance_type).sklearn_type
    if kind == "full":
        return covariances
    variances = [[covariance[a][a] for a in range(d)] for covariance in covariances]
    if kind == "spherical":
        variances = [[sum(of_component) / d] * d for of_component in variances]
    zero = arithmetic.number(0)
    return [[[variances[c][a] if a == b else zero for b in range(d)] for a in range(d)] for c in range(k)]


def run_em(covariance_type, X, model: Model, n_iter, reg_covar=0.0, arithmetic=FLOATS):
    """Parameters after ``n_iter`` iterations, and the mean log-likelihood before each M-step."""
    rows = numbers(X, arithmetic)
    bounds = []
    for _ in range(n_iter):
        resp, densities = e_step(rows, model, arithmetic)
        bounds.append(sum(densities) / len(rows))
        log_volume = None if model.noise is None else model.noise[1]
        model = m_step(covariance_type, rows, resp, None, reg_covar, arithmetic, log_volume)
    return parameters_of(covariance_type, model), array(bounds)


def one_row_start(covariance_type, X, indices, reg_covar, arithmetic=FLOATS) -> Model:
    """scikit-learn's start from one row a component, for diagonal types: about zero, with the floor in the weight."""
    rows = numbers(X[indices], arithmetic)
    floor, reg = arithmetic.number(NK_FLOOR), arithmetic.number(reg_covar)
    nk, d, zero = 1 + floor, X.shape[1], arithmetic.number(0)
    means = [[x / nk for x in row] for row in rows]
    variances = [[x * x / nk - (x / nk) ** 2 + reg for x in row] for row in rows]
    if covariance_type == "spherical":
        variances = [[sum(of_row) / d] * d for of_row in variances]
    matrices = [[[v[a] if a == b else zero for b in range(d)] for a in range(d)] for v in variances]
    return Model([nk / len(X)] * len(rows), means, matrices)
