"""Mixtures from responsibilities, as a search makes them by the thousand: the sums of parts, and their assembly.

A part is what may become a component: a column of responsibilities. Proposals that differ in one or two components
share the sums of the others. Each part is summed about its own mean, so that tight ones far from each other lose no
digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.arguments import Model, Prior
from gmm_dask.kernels.chunks import fill_logits
from gmm_dask.kernels.compilation.jit import ZERO, compiled
from gmm_dask.kernels.constants import TIED, UNSOUND
from gmm_dask.kernels.e_step import softmax
from gmm_dask.kernels.m_step import fill_coefficients, fill_scatter, maximise
from gmm_dask.kernels.products import add_sums

Array = NDArray[np.float64]


@compiled
def fill_responsibilities(
    kind: int,
    rows: Array,
    origins: Array,
    mixture: Array,
    factors: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    z: Array,
    logits: Array,
    shares: Array,
    row_multiple: int,
    resp: Array,
) -> float:
    """Fill the responsibilities (n_components, n_rows) of a mixture; returns its kappa.

    The arguments are those of :func:`gmm_dask.kernels.fit.fit_many`.
    """
    d, n_components, n_block_rows = rows.shape[1], *logits.shape
    edges = np.array([0, n_components])
    eta = np.zeros((1, len(first), n_components))
    kappa = fill_coefficients(kind, n_components, d, mixture, factors, origins, eta)
    shares[2] = 1.0
    for start in range(0, len(rows), n_block_rows):
        block = rows[start : start + n_block_rows]
        n_rows = -(-len(block) // row_multiple) * row_multiple
        fill_logits(block, origins, eta, first, second, z, logits, n_rows)
        softmax(logits, edges, shares[2], shares[:1], shares[1:2], n_rows)
        for k in range(n_components):
            for i in range(len(block)):
                resp[k, start + i] = logits[k, i]
    return kappa


@compiled
def add_parts(
    rows: Array,
    row_weights: Array,
    resp: Array,
    negligible: float,
    means: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    z: Array,
    weights: Array,
    row_multiple: int,
    sums: Array,
) -> None:
    """Add each part's sums over the feature map about its own mean.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    row_weights : ndarray of shape (n_rows,), or (0,)
    resp : ndarray of shape (n_parts, n_rows)
        Responsibilities; rows with no more than ``negligible`` are left out.
    means : ndarray of shape (n_parts, n_features)
    first, second : ndarray of shape (n_monomials,)
    z : ndarray of shape (n_lines, n_block_rows)
    weights : ndarray of shape (1, n_block_rows)
        Memory for a block.
    row_multiple : int
    sums : ndarray of shape (n_parts, n_monomials)
    """
    n_features, n_block_rows = rows.shape[1], z.shape[1]
    for p in range(len(resp)):
        n_rows, i = 0, 0
        while i < len(rows) or n_rows > 0:
            if i < len(rows) and n_rows < n_block_rows:
                if resp[p, i] > negligible:
                    weights[0, n_rows] = resp[p, i] * (row_weights[i] if len(row_weights) else 1.0)
                    square = 0.0
                    for a in range(n_features):
                        y = rows[i, a] - means[p, a]
                        z[a + 1, n_rows] = y
                        square += y * y
                    z[0, n_rows] = 1.0
                    if len(z) > n_features + 1:
                        z[n_features + 1, n_rows] = square
                    n_rows += 1
                i += 1
                continue
            stop = -(-n_rows // row_multiple) * row_multiple
            weights[0, n_rows:stop] = 0.0
            z[:, n_rows:stop] = 0.0
            add_sums(weights, first, second, z, sums[p : p + 1], stop)
            n_rows = 0


@compiled
def assemble(
    model: Model,
    chosen: NDArray[np.int64],
    sums: Array,
    means: Array,
    reg_covar: Array,
    mixtures: Array,
    factors: Array,
    sound: NDArray[np.bool_],
) -> None:
    """Fill the mixtures that parts make together, with their factors.

    Parameters
    ----------
    model : Model
    chosen : ndarray of shape (n_mixtures, n_components)
        The parts of each mixture.
    sums : ndarray of shape (n_parts, n_monomials)
        Of :func:`add_parts`; of tied covariances over the columns of full ones.
    means : ndarray of shape (n_parts, n_features)
    reg_covar : ndarray of shape (n_features,)
    mixtures : ndarray of shape (n_mixtures, n_values)
    factors : ndarray of shape (n_mixtures, n_factor_values)
    sound : ndarray of bool, shape (n_mixtures,)
        Receives whether all covariances are positive definite.
    """
    n_components, d = model.n_components, model.n_features
    mine, origins = np.empty((n_components, sums.shape[1])), np.empty((n_components, d))
    within, none = np.zeros((d, d)), np.empty(0)
    no_prior = Prior(ZERO, ZERO, False, none)
    for i in range(len(chosen)):
        for k in range(n_components):
            for p in range(sums.shape[1]):
                mine[k, p] = sums[chosen[i, k], p]
            for a in range(d):
                origins[k, a] = means[chosen[i, k], a]
        if model.kind == TIED:
            fill_scatter(n_components, d, mine, within)
        end = maximise(model, no_prior, reg_covar, mine, origins, within, none, mixtures[i], factors[i])
        sound[i] = end != UNSOUND
