"""A pass over one chunk of rows, for the mixtures of one group, without Python in between."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import compiled, compiled_part
from gmm_dask.kernels.e_step import softmax
from gmm_dask.kernels.products import add_sums, log_densities


@compiled
def fill_lines(rows: NDArray[Any], center: NDArray[np.float64], z: NDArray[Any], n_rows: int) -> None:
    """Fill the lines of a block: ``1 | row - center | |row - center|^2``.

    Parameters
    ----------
    rows : ndarray of shape (n_given, n_features)
    center : ndarray of shape (n_features,)
    z : ndarray of shape (n_features + 1, n_block_rows) or (n_features + 2, n_block_rows)
        Without or with the last line; float64 or float32.
    n_rows : int
        Rows in use: those given, then rows of zeros.
    """
    n_given, n_features = rows.shape
    # rows of zeros fill the block up: their weight is 0, so that they add nothing to any sum
    z[:, n_given:n_rows] = 0.0
    z[0, :n_given] = 1.0
    for a in range(n_features):
        for i in range(n_given):
            z[a + 1, i] = rows[i, a] - center[a]
    if len(z) > n_features + 1:
        # |z|^2 by features, not by rows: every loop runs along the rows, which the compiler turns into vectors
        z[n_features + 1, :n_given] = 0.0
        for a in range(1, n_features + 1):
            for i in range(n_given):
                z[n_features + 1, i] += z[a, i] * z[a, i]


@compiled_part
def fill_weights(
    row_weights: NDArray[np.float64], start: int, n_given: int, weights: NDArray[Any], n_rows: int
) -> None:
    """Fill the weights of a block: those of its rows, or 1 if none are given, then 0 for the rows that fill it up."""
    weights[:n_given] = 1.0
    weights[n_given:n_rows] = 0.0
    for i in range(min(n_given, len(row_weights) - start)):
        weights[i] = row_weights[start + i]


@compiled
def add_chunk(
    rows: NDArray[Any],
    row_weights: NDArray[np.float64],
    origins: NDArray[np.float64],
    eta: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    edges: NDArray[np.int64],
    z: NDArray[Any],
    logits: NDArray[Any],
    shares: NDArray[Any],
    row_multiple: int,
    totals: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Add the log-likelihoods and sufficient statistics of a chunk, block by block.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    row_weights : ndarray of shape (n_rows,), or (0,)
        Of the rows; all are 1 if there are none.
    origins : ndarray of shape (n_origins, n_features)
        Of the feature map: one for all components, or its mean for each. Differences come first: rows and mean may
        agree in most of their digits.
    eta : ndarray of shape (n_parts, n_monomials, part_size)
        Coefficients of the log densities. A part is the components of one origin, or, with one origin for all, as many
        as stay in the second-level cache while a block passes; the last one may have columns to spare.
    first, second, edges
        As in the kernels that are called.
    z : ndarray of shape (n_lines, n_block_rows)
    logits : ndarray of shape (n_components, n_block_rows)
    shares : ndarray of shape (2 n_mixtures + 1, n_block_rows)
        Memory for a block; its last line is for the weights.
    row_multiple : int
        Blocks are filled up to a multiple of so many rows.
    totals : ndarray of shape (2, n_mixtures)
        Each mixture's log-likelihood, and ``sum w log max_k r_k``; added to.
    sums : ndarray of shape (n_components, n_monomials), or (0, n_monomials)
        Added to; without components, no statistics are taken.
    """
    n_mixtures, n_block_rows, size = len(edges) - 1, z.shape[1], eta.shape[2]
    log_density, log_top, weights = shares[:n_mixtures], shares[n_mixtures:-1], shares[-1]
    for start in range(0, len(rows), n_block_rows):
        block = rows[start : start + n_block_rows]
        n_rows = -(-len(block) // row_multiple) * row_multiple
        fill_weights(row_weights, start, len(block), weights, n_rows)
        # E-step: L = H' Phi', then R = softmax(L) in its place; M-step: S += R Phi. All three work on the same block,
        # which stays in the second-level cache, so that the rows come from memory once
        fill_logits(block, origins, eta, first, second, z, logits, n_rows)
        softmax(logits, edges, weights, log_density, log_top, n_rows)
        for m in range(n_mixtures):
            totals[0, m] += _weighted_sum(log_density[m], weights, n_rows)
            totals[1, m] += _weighted_sum(log_top[m], weights, n_rows)
        for g in range(-(-len(sums) // size)):
            if len(origins) > 1:  # the lines are those about the last one
                fill_lines(block, origins[g], z, n_rows)
            mine = slice(g * size, (g + 1) * size)
            add_sums(logits[mine], first, second, z, sums[mine], n_rows)


@compiled_part
def fill_logits(
    block: NDArray[Any],
    origins: NDArray[np.float64],
    eta: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    z: NDArray[Any],
    logits: NDArray[Any],
    n_rows: int,
) -> None:
    """Fill the log densities of a block; see :func:`add_chunk`."""
    size = eta.shape[2]
    for g in range(len(eta)):
        if g < len(origins):
            fill_lines(block, origins[g], z, n_rows)
        log_densities(eta[g], first, second, z, logits[g * size : (g + 1) * size], n_rows)


@compiled_part
def _weighted_sum(values: NDArray[Any], weights: NDArray[Any], n_rows: int) -> float:
    """``sum_i weights[i] values[i]`` in float64, four rows at a time."""
    # four sums that do not wait for each other, always added up in the same order: the same bits in every run
    a = b = c = d = 0.0
    for i in range(0, n_rows, 4):
        a += np.float64(weights[i]) * values[i]
        b += np.float64(weights[i + 1]) * values[i + 1]
        c += np.float64(weights[i + 2]) * values[i + 2]
        d += np.float64(weights[i + 3]) * values[i + 3]
    return (a + b) + (c + d)


@compiled
def predict_chunk(
    rows: NDArray[Any],
    origins: NDArray[np.float64],
    eta: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    z: NDArray[Any],
    logits: NDArray[Any],
    shares: NDArray[Any],
    row_multiple: int,
    label: NDArray[np.int64],
    log_density: NDArray[np.float64],
    responsibility: NDArray[np.float64],
) -> None:
    """Answers about the rows of a chunk, block by block.

    Parameters
    ----------
    rows, origins, eta, first, second, z, logits, shares, row_multiple
        As in :func:`add_chunk`, of one mixture.
    label : ndarray of shape (n_rows,), or (0,)
        Receives the most probable component, unless it is empty; so do the others.
    log_density : ndarray of shape (n_rows,), or (0,)
    responsibility : ndarray of shape (n_rows, n_components), or (0, n_components)
    """
    n_components, n_block_rows = logits.shape
    edges = np.array([0, n_components])
    shares[2] = 1.0
    for start in range(0, len(rows), n_block_rows):
        block = rows[start : start + n_block_rows]
        stop, n_rows = start + len(block), -(-len(block) // row_multiple) * row_multiple
        fill_logits(block, origins, eta, first, second, z, logits, n_rows)
        predict_block(
            logits, edges, shares, n_rows, label[start:stop], log_density[start:stop], responsibility[start:stop]
        )


@compiled_part
def predict_block(
    logits: NDArray[Any],
    edges: NDArray[np.int64],
    shares: NDArray[Any],
    n_rows: int,
    label: NDArray[np.int64],
    log_density: NDArray[np.float64],
    responsibility: NDArray[np.float64],
) -> None:
    """Answers about the rows of a block from their log densities, which are lost; see :func:`predict_chunk`."""
    if len(label):
        for i in range(len(label)):
            label[i], shares[0, i] = 0, logits[0, i]
        for k in range(1, len(logits)):
            for i in range(len(label)):
                better = logits[k, i] > shares[0, i]
                shares[0, i] = logits[k, i] if better else shares[0, i]
                label[i] = k if better else label[i]
    softmax(logits, edges, shares[2], shares[:1], shares[1:2], n_rows)
    for i in range(len(log_density)):
        log_density[i] = shares[0, i]
    for i in range(len(responsibility)):
        for k in range(len(logits)):
            responsibility[i, k] = logits[k, i]
