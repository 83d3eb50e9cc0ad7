"""Narrow components: which there are, and what those gain that only a bound holds open.

:mod:`gmm_dask.em.spurious` explains the checks. A search makes them some thousand times on few components, where calls
of NumPy would take most of its time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise, invert_upper
from gmm_dask.kernels.compilation.jit import ZERO, compiled
from gmm_dask.kernels.constants import SOUND, SPURIOUS, UNDECIDED

Array = NDArray[np.float64]


@compiled
def find_narrower(matrices: Array, reference: Array, share: float, found: NDArray[np.bool_]) -> None:
    """Find which matrices have, in some direction, no more than ``share`` times the variance of the reference.

    Parameters
    ----------
    matrices : ndarray of shape (n, n_features, n_features)
    reference : ndarray of shape (n_features, n_features)
    share : float
    found : ndarray of bool, shape (n,)
        Receives the answers.
    """
    n, d = len(matrices), len(reference)
    work = np.empty(d * d)
    for i in range(n):
        for a in range(d):
            for b in range(d):
                work[a * d + b] = matrices[i, a, b] - share * reference[a, b]
        # a matrix is positive definite if it has a Cholesky factor
        found[i] = not factorise(work, d)


@compiled
def judge_held_open(
    weights: Array,
    means: Array,
    matrices: Array,
    reg_covar: Array,
    bounded: float,
    varying: float,
    step: float,
    least_weight: float,
    least_gain: float,
    nodes: Array,
    node_weights: Array,
) -> int:
    """Whether a mixture is spurious by its parameters: SOUND, SPURIOUS, or UNDECIDED where eigenvectors have to tell.

    Parameters
    ----------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
    matrices : ndarray of shape (n_components, n_features, n_features)
        The components' covariances.
    reg_covar : ndarray of shape (n_features,)
    bounded, varying, step : float
        Of :mod:`gmm_dask.em.spurious`, in units of ``reg_covar``.
    least_weight : float
        Of a component that is held open in every direction.
    least_gain, nodes, node_weights
        As in :func:`all_gain`.
    """
    k, d = means.shape
    held, n_held = np.zeros(k, dtype=np.bool_), 0
    added = np.zeros((d, d))
    for a in range(d):
        added[a, a] = reg_covar[a]
        if reg_covar[a] == 0.0:
            return SOUND
    find_narrower(matrices, added, bounded, held)
    for i in range(k):
        n_held += held[i]
    if k == 1 or n_held == 0:
        return SOUND
    mean, work = np.zeros(d), np.empty(d * d)
    for i in range(k):
        for a in range(d):
            mean[a] += weights[i] * means[i, a]
    free, total = np.zeros((d, d)), 0.0
    for i in range(k):
        total += 0.0 if held[i] else weights[i]
    for a in range(d):
        for b in range(d):
            whole = -varying * added[a, b]
            for i in range(k):
                whole += weights[i] * (matrices[i, a, b] + (means[i, a] - mean[a]) * (means[i, b] - mean[b]))
                free[a, b] += 0.0 if held[i] else weights[i] * matrices[i, a, b]
            work[a * d + b] = whole
            free[a, b] = free[a, b] / total + (step - 1.0) * added[a, b]
    # where the data vary in every direction, they do in the narrow ones; and where a component is wide, its width is
    # that of the others
    if n_held == k or not factorise(work, d):
        return UNDECIDED
    for i in range(k):
        if held[i] and weights[i] < least_weight:
            for a in range(d):
                for b in range(d):
                    work[a * d + b] = bounded * added[a, b] - matrices[i, a, b]
            if factorise(work, d):
                return SPURIOUS
    return SOUND if all_gain(weights, means, free, held, least_gain, nodes, node_weights) else SPURIOUS


@compiled
def all_gain(
    weights: Array,
    means: Array,
    covariance: Array,
    chosen: NDArray[np.bool_],
    least_gain: float,
    nodes: Array,
    node_weights: Array,
) -> bool:
    """Whether chosen components gain more than ``least_gain`` over a merger with any other one.

    Parameters
    ----------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
    covariance : ndarray of shape (n_features, n_features)
        That all components are taken to have.
    chosen : ndarray of bool, shape (n_components,)
    least_gain : float
        In log-likelihood, as a share of all rows'.
    nodes, node_weights : ndarray
        For the mean of a function of a standard normal number.
    """
    k, d = means.shape
    work, factor, start = np.empty(d * d), np.empty(d * d), ZERO
    for a in range(d):
        for b in range(d):
            work[a * d + b] = covariance[a, b]
    if not factorise(work, d):
        return True
    invert_upper(work, d, factor, start)
    squared = np.empty(k)
    for i in range(k):
        if not chosen[i]:
            continue
        nearest = -1
        for j in range(k):
            # the precision is U U'
            squared[j] = 0.0
            for b in range(d):
                along = 0.0
                for a in range(b + 1):
                    along += factor[a * d + b] * (means[j, a] - means[i, a])
                squared[j] += along * along
            if j != i and (nearest < 0 or squared[j] < squared[nearest]):
                nearest = j
        # the nearest first: if one gain is too small, it mostly is that one
        for step in range(-1, k):
            j = nearest if step < 0 else step
            if j == i or step == nearest:
                continue
            pair = weights[i] + weights[j]
            if not pair * gain_of_two(weights[i] / pair, squared[j], nodes, node_weights) > least_gain:
                return False
    return True


@compiled
def gain_of_two(share: float, squared_distance: float, nodes: Array, node_weights: Array) -> float:
    """How much two normal components of equal covariance gain over one, in log-likelihood per row of theirs.

    ``share`` is that of the first component in the two's rows, ``squared_distance`` the squared Mahalanobis distance
    d^2 of their means. With shares p and q = 1 - p, one normal distribution of the same moments has a determinant that
    is larger by 1 + p q d^2. What is lost beside is the information I that a row has of its component, the entropy of
    the shares less that of the responsibilities: the gain is log(1 + p q d^2) / 2 - I.
    """
    p, q, d = share, 1.0 - share, math.sqrt(squared_distance)
    odds = math.log(p / q)
    # along the line of the means, rows of the first are N(d, 1), those of the second N(0, 1); minus the logarithm of
    # the responsibility of a row's own component is log(1 + the odds of the other)
    of_first, of_second = 0.0, 0.0
    for i in range(len(nodes)):
        one, other = -odds - d * nodes[i] - 0.5 * d * d, odds + d * nodes[i] - 0.5 * d * d
        of_first += node_weights[i] * (max(one, 0.0) + math.log1p(math.exp(-abs(one))))
        of_second += node_weights[i] * (max(other, 0.0) + math.log1p(math.exp(-abs(other))))
    information = -p * math.log(p) - q * math.log(q) - (p * of_first + q * of_second)
    return 0.5 * math.log1p(p * q * squared_distance) - information
