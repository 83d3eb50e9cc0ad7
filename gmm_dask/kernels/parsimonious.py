"""The covariance part of the M-step of the parsimonious models: mclust's ten beyond full, tied, diag and spherical.

With weights w_k and the covariances S_k that the components would have without a constraint, the M-step minimises

    sum_k w_k [ log|Sigma_k| + tr(S_k Sigma_k^-1) ]

over the covariances ``Sigma_k = lambda_k D_k A_k D_k'`` of a model: volume lambda_k, orientation D_k, and shape A_k,
which is diagonal with determinant one (Celeux and Govaert 1995, "Gaussian parsimonious clustering models"). Each letter
of a model's name says whether the components have one volume, shape and orientation (E), their own (V), or none (I).

For EVE and VVE, whose components share their axes, D is turned in one plane of two axes after the other, to the least
value in each (Flury and Gautschi 1986, "An algorithm for simultaneous orthogonal transformation of several positive
definite symmetric matrices to nearly diagonal form"). Like the steps of Browne and McNicholas (2014), "Orthogonal
Stiefel manifold optimization for eigen-decomposed covariance parameter estimation in mixture models", it never loses
likelihood; it takes 3 to 85 sweeps where these take 360 to 8,600 steps (docs/mathematics.md). With one matrix it is
Jacobi's method for eigenvectors.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from gmm_dask.kernels.cholesky import factorise, invert_upper
from gmm_dask.kernels.compilation.jit import ZERO, callback, compiled, compiled_part
from gmm_dask.kernels.constants import (
    EEI,
    EEV,
    EII,
    EVE,
    EVI,
    EVV,
    INNER_ITERATIONS,
    INNER_TOLERANCE,
    SETTLED,
    UNSETTLED,
    UNSOUND,
    VEE,
    VEI,
    VEV,
)

Array = NDArray[np.float64]

# a plane is turned by less only through rounding
LEAST_ANGLE = 1e-15
# relative difference of variances that is rounding, and a relative change in which rounding has its share
ROUNDED, ROUNDED_CHANGE = 1e-15, 1e-6
# sweeps over all planes: Jacobi's method takes six to ten, common axes up to some tens. Of several starts each gets a
# few, which tell the optima apart
SWEEPS, FIRST_SWEEPS = 100, 5

# of the call with mixtures as vectors
MIXTURE_SIGNATURE = types.int64(*[types.int64] * 3, *[types.CPointer(types.float64), types.int64] * 2)


@compiled
def constrain(constraint: int, n_components: int, d: int, weights: Array, covariances: Array, previous: Array) -> int:
    """Replace covariances by those of the model that describe them best.

    Parameters
    ----------
    constraint : int
        One of the constants EII to EVV.
    n_components, d : int
    weights : ndarray of shape (n_components,)
        Positive; they need not add up to one.
    covariances : ndarray
        S_k, flat: (n_components,) of EII, (n_components * d,) of EEI, VEI and EVI, (n_components * d * d,) of the rest.
        Overwritten with Sigma_k.
    previous : ndarray of the same shape, or (0,)
        Covariances of the model. EVE and VVE begin at their axes: so EM's likelihood never falls, though there are
        several optima. Without them they begin at the best of the axes of each S_k and of their mean.

    Returns
    -------
    end : int
        UNSOUND where there are none such; UNSETTLED where the iterations that lead to them stopped at their bound, and
        the likelihood may rise by more of them; else SETTLED.
    """
    shares, total = np.empty(n_components), 0.0
    for k in range(n_components):
        total += weights[k]
    for k in range(n_components):
        shares[k] = weights[k] / total
    if constraint == EII:
        return _constrain_variances(constraint, shares, covariances.reshape((n_components, 1)))
    if constraint == EEI or constraint == VEI or constraint == EVI:  # noqa: SIM109 - the compiler has no tuples to build
        return _constrain_variances(constraint, shares, covariances.reshape((n_components, d)))
    matrices = covariances.reshape((n_components, d, d))
    if constraint == VEE:
        return _scale_one_matrix(shares, matrices)
    if constraint == EVV:
        return _equalise_volumes(shares, matrices)
    variances = np.empty((n_components, d))
    if constraint == EEV or constraint == VEV:  # noqa: SIM109
        axes = np.empty((n_components, d, d))
        for k in range(n_components):
            _set_identity(axes[k])
            if not _diagonalise(matrices[k], axes[k]):
                return UNSOUND
            for a in range(d):
                variances[k, a] = max(matrices[k, a, a], 0.0)
        end = _constrain_variances(EEI if constraint == EEV else VEI, shares, variances)
        if end != UNSOUND:
            for k in range(n_components):
                _compose(axes[k], variances[k], matrices[k])
        return end
    one = np.empty((d, d))
    end = _find_axes(constraint == EVE, shares, matrices, previous.reshape((len(previous) // (d * d), d, d)), one)
    if end == UNSOUND:
        return UNSOUND
    for k in range(n_components):
        for a in range(d):
            variances[k, a] = matrices[k, a, a]
    if constraint == EVE and _constrain_variances(EVI, shares, variances) == UNSOUND:
        return UNSOUND
    for k in range(n_components):
        _compose(one, variances[k], matrices[k])
    return end


@functools.cache
def constrain_address() -> int:
    """Where fits find :func:`constrain`, which is compiled when it is asked for: those of other models do without."""
    return callback(_constrain_mixture, MIXTURE_SIGNATURE)


def _constrain_mixture(
    constraint: int, n_components: int, d: int, mixture: Any, n_values: int, previous: Any, n_previous: int
) -> int:
    """:func:`constrain` for mixtures as vectors, at addresses; the second may be empty."""
    values, others = numba.carray(mixture, (n_values,)), numba.carray(previous, (n_previous,))
    first, size = n_components * (d + 1), d * d
    if constraint == EII or constraint == EEI or constraint == VEI or constraint == EVI:  # noqa: SIM109
        size = 1 if constraint == EII else d
    stop = first + n_components * size
    return constrain(constraint, n_components, d, values[:n_components], values[first:stop], others[first:stop])


# -- variances along axes that are known: EEI, VEI and EVI ----------------------------------------------------------


@compiled_part
def _constrain_variances(constraint: int, shares: Array, variances: Array) -> int:
    """Constrain variances (n_components, n_axes), in place; returns as :func:`constrain` does."""
    if constraint == VEI:
        return _scale_one_shape(shares, variances)
    n_components, d = variances.shape
    if constraint == EVI:
        # lambda = sum_k w_k |S_k|^(1/D), A_k = S_k / |S_k|^(1/D)
        volumes, volume = np.empty(n_components), 0.0
        for k in range(n_components):
            log_volume = 0.0
            for a in range(d):
                if not variances[k, a] > 0.0:
                    return UNSOUND
                log_volume += math.log(variances[k, a])
            volumes[k] = math.exp(log_volume / d)
            volume += shares[k] * volumes[k]
        for k in range(n_components):
            for a in range(d):
                variances[k, a] *= volume / volumes[k]
        return SETTLED
    for a in range(d):
        mean = 0.0
        for k in range(n_components):
            mean += shares[k] * variances[k, a]
        for k in range(n_components):
            variances[k, a] = mean
    return SETTLED


@compiled_part
def _scale_one_shape(shares: Array, variances: Array) -> int:
    """Fit ``variances[k] = lambda_k B``, by turns lambda_k = tr(S_k B^-1) / D and B = sum_k w_k S_k / lambda_k."""
    n_components, d = variances.shape
    shape, volumes, change, end = np.zeros(d), np.ones(n_components), np.inf, UNSETTLED
    for _ in range(INNER_ITERATIONS):
        for a in range(d):
            shape[a] = 0.0
            for k in range(n_components):
                shape[a] += shares[k] * variances[k, a] / volumes[k]
            if not 0.0 < shape[a] < np.inf:
                return UNSOUND
        last, change = change, 0.0
        for k in range(n_components):
            volume = 0.0
            for a in range(d):
                volume += variances[k, a] / shape[a]
            volume /= d
            if not 0.0 < volume < np.inf:
                return UNSOUND
            change = max(change, abs(volume - volumes[k]) / volume)
            volumes[k] = volume
        if _has_settled(change, last):
            end = SETTLED
            break
    for k in range(n_components):
        for a in range(d):
            variances[k, a] = volumes[k] * shape[a]
    return end


@compiled_part
def _has_settled(change: float, last: float) -> bool:
    """Whether turns may end, given the relative change of the last two: each turn raises the likelihood.

    Where covariances are ill-conditioned, rounding keeps changes from falling to the tolerance.
    """
    return change <= INNER_TOLERANCE or (change <= ROUNDED_CHANGE and change >= last)


# -- matrices of one shape and orientation (VEE), and of one volume (EVV) --------------------------------------------


@compiled_part
def _scale_one_matrix(shares: Array, matrices: Array) -> int:
    """Fit ``matrices[k] = lambda_k C``, by turns lambda_k = tr(S_k C^-1) / D and C = sum_k w_k S_k / lambda_k."""
    n_components, d = len(shares), matrices.shape[1]
    mean, volumes, change = np.empty((d, d)), np.ones(n_components), np.inf
    root, factor, end = np.empty(d * d), np.empty(d * d), UNSETTLED
    for _ in range(INNER_ITERATIONS):
        for a in range(d):
            for b in range(d):
                mean[a, b] = 0.0
                for k in range(n_components):
                    mean[a, b] += shares[k] * matrices[k, a, b] / volumes[k]
                root[a * d + b] = mean[a, b]
        if not factorise(root, d):
            return UNSOUND
        invert_upper(root, d, factor, ZERO)
        last, change = change, 0.0
        for k in range(n_components):
            # tr(S U U') = sum_c u_c' S u_c over the columns of U, which is upper triangular
            volume = 0.0
            for c in range(d):
                for a in range(c + 1):
                    product = 0.0
                    for b in range(c + 1):
                        product += matrices[k, a, b] * factor[b * d + c]
                    volume += factor[a * d + c] * product
            volume /= d
            if not 0.0 < volume < np.inf:
                return UNSOUND
            change = max(change, abs(volume - volumes[k]) / volume)
            volumes[k] = volume
        if _has_settled(change, last):
            end = SETTLED
            break
    for k in range(n_components):
        for a in range(d):
            for b in range(d):
                matrices[k, a, b] = volumes[k] * mean[a, b]
    return end


@compiled_part
def _equalise_volumes(shares: Array, matrices: Array) -> int:
    """Fit ``matrices[k] = lambda C_k``: lambda = sum_k w_k |S_k|^(1/D), C_k = S_k / |S_k|^(1/D)."""
    n_components, d = len(shares), matrices.shape[1]
    root, volumes, volume = np.empty(d * d), np.empty(n_components), 0.0
    for k in range(n_components):
        for a in range(d):
            for b in range(d):
                root[a * d + b] = matrices[k, a, b]
        if not factorise(root, d):
            return UNSOUND
        log_volume = 0.0
        for a in range(d):
            log_volume += 2.0 * math.log(root[a * d + a])
        volumes[k] = math.exp(log_volume / d)
        volume += shares[k] * volumes[k]
    for k in range(n_components):
        for a in range(d):
            for b in range(d):
                matrices[k, a, b] *= volume / volumes[k]
    return SETTLED


# -- axes ------------------------------------------------------------------------------------------------------------


@compiled_part
def _diagonalise(matrix: Array, axes: Array) -> bool:
    """Turn a symmetric matrix, and the columns of ``axes`` with it, until it is diagonal, the largest entry first."""
    d = len(matrix)
    for _ in range(SWEEPS):
        largest = 0.0
        for p in range(d):
            for q in range(p + 1, d):
                # to the angle of the largest variance along p
                difference = matrix[p, p] - matrix[q, q]
                angle = 0.5 * math.atan2(2.0 * matrix[p, q], difference)
                if not math.isfinite(angle):
                    return False
                # between variances that are equal but for rounding, any angle is as good as another
                rounding = ROUNDED * max(abs(matrix[p, p]), abs(matrix[q, q]))
                if abs(matrix[p, q]) <= rounding and difference >= -rounding:
                    continue
                if abs(angle) > LEAST_ANGLE:
                    largest = max(largest, abs(angle))
                    _turn_matrix(p, q, math.cos(angle), math.sin(angle), matrix)
                    _turn_axes(p, q, math.cos(angle), math.sin(angle), axes)
        # with Jacobi's quadratic convergence the next sweep would leave nothing
        if largest <= 1e-10:
            return True
    return False


@compiled_part
def _find_axes(equal_volumes: bool, shares: Array, matrices: Array, previous: Array, axes: Array) -> int:
    """Find the axes (d, d) that components share, and turn the matrices to them; returns as :func:`constrain` does."""
    n_components, d = len(shares), len(axes)
    turned, best = np.empty((n_components, d, d)), np.inf
    work, candidate = np.empty((d, d)), np.empty((d, d))
    n_starts = 1 if len(previous) else n_components + 1
    for start in range(n_starts):
        # the mean of previous covariances has their axes
        for a in range(d):
            for b in range(d):
                if start > 0:
                    work[a, b] = matrices[start - 1, a, b]
                else:
                    work[a, b] = 0.0
                    for k in range(n_components):
                        value = previous[k, a, b] if len(previous) else matrices[k, a, b]
                        work[a, b] += shares[k] * value
        _set_identity(candidate)
        if not _diagonalise(work, candidate):
            return UNSOUND
        for k in range(n_components):
            _turn_all(matrices[k], candidate, turned[k])
        # an axis along which a component has no variance makes no start
        value = _spread(equal_volumes, shares, turned)
        if n_starts > 1 and value < np.inf:
            end = _turn_to_optimum(equal_volumes, shares, turned, candidate, FIRST_SWEEPS)
            value = value if end == UNSOUND else _spread(equal_volumes, shares, turned)
        if value < best:
            best = value
            for a in range(d):
                for b in range(d):
                    axes[a, b] = candidate[a, b]
    if not math.isfinite(best):
        return UNSOUND
    for k in range(n_components):
        _turn_all(matrices[k], axes, turned[k])
        for a in range(d):
            for b in range(d):
                matrices[k, a, b] = turned[k, a, b]
    return _turn_to_optimum(equal_volumes, shares, matrices, axes, SWEEPS)


@compiled_part
def _spread(equal_volumes: bool, shares: Array, matrices: Array) -> float:
    """``sum_k w_k log|Sigma_k|``, least at the best axes; infinite where a variance along these is not positive."""
    d = matrices.shape[1]
    total = 0.0
    for k in range(len(shares)):
        log_volume = 0.0
        for a in range(d):
            if not matrices[k, a, a] > 0.0:
                return np.inf
            log_volume += math.log(matrices[k, a, a])
        total += shares[k] * (math.exp(log_volume / d) if equal_volumes else log_volume)
    return d * math.log(total) if equal_volumes else total


@compiled_part
def _turn_to_optimum(equal_volumes: bool, shares: Array, matrices: Array, axes: Array, sweeps: int) -> int:
    """Turn axes, and matrices with them, until no turn in a plane of two axes raises the likelihood, or for so long.

    Each turn raises the likelihood: where sweeps are left to do, the next M-step goes on with them. Returns as
    :func:`constrain` does.
    """
    n_components, d = len(shares), len(axes)
    volumes, gain, size = np.ones(n_components), 0.0, 1.0
    for _ in range(sweeps):
        largest, gain = 0.0, 0.0
        if equal_volumes:
            for k in range(n_components):
                log_volume = 0.0
                for a in range(d):
                    log_volume += math.log(matrices[k, a, a])
                volumes[k] = math.exp(log_volume / d)
            size = 0.0
            for k in range(n_components):
                size += shares[k] * volumes[k]
        for p in range(d):
            for q in range(p + 1, d):
                # with the variances v along the axes held, sum_k w_k tr(S_k Sigma_k^-1) depends on the angle t as
                # even cos 2t + odd sin 2t; v is lambda A_k, in which lambda is a factor of all
                even, odd = 0.0, 0.0
                for k in range(n_components):
                    vp, vq = matrices[k, p, p], matrices[k, q, q]
                    if not (vp > 0.0 and vq > 0.0):
                        return UNSOUND
                    difference = shares[k] * volumes[k] * (1.0 / vp - 1.0 / vq)
                    even += 0.5 * difference * (vp - vq)
                    odd += difference * matrices[k, p, q]
                angle = 0.5 * math.atan2(-odd, -even) if odd != 0.0 else 0.0
                if not math.isfinite(angle):
                    return UNSOUND
                if abs(angle) > LEAST_ANGLE:
                    largest = max(largest, abs(angle))
                    # from even to -root: the same as even + root, without cancellation
                    root = math.sqrt(even * even + odd * odd)
                    gain += even + root if even > 0.0 else odd * odd / (root - even)
                    c, s = math.cos(angle), math.sin(angle)
                    _turn_axes(p, q, c, s, axes)
                    for k in range(n_components):
                        product = matrices[k, p, p] * matrices[k, q, q]
                        _turn_matrix(p, q, c, s, matrices[k])
                        if equal_volumes:
                            volumes[k] *= (matrices[k, p, p] * matrices[k, q, q] / product) ** (1.0 / d)
        if largest <= INNER_TOLERANCE:
            return SETTLED
    # between axes of equal variances any angle is as good as another, and turns never end
    return SETTLED if gain <= INNER_TOLERANCE * size else UNSETTLED


@compiled_part
def _set_identity(axes: Array) -> None:
    for a in range(len(axes)):
        for b in range(len(axes)):
            axes[a, b] = 1.0 if a == b else 0.0


@compiled_part
def _turn_matrix(p: int, q: int, c: float, s: float, matrix: Array) -> None:
    """Turn a symmetric matrix in the plane of the axes p and q: the new p is ``c p + s q``, the new q ``c q - s p``."""
    for a in range(len(matrix)):
        one, other = matrix[a, p], matrix[a, q]
        matrix[a, p], matrix[a, q] = c * one + s * other, c * other - s * one
    for a in range(len(matrix)):
        one, other = matrix[p, a], matrix[q, a]
        matrix[p, a], matrix[q, a] = c * one + s * other, c * other - s * one


@compiled_part
def _turn_axes(p: int, q: int, c: float, s: float, axes: Array) -> None:
    """Turn the columns p and q."""
    for a in range(len(axes)):
        one, other = axes[a, p], axes[a, q]
        axes[a, p], axes[a, q] = c * one + s * other, c * other - s * one


@compiled_part
def _turn_all(matrix: Array, axes: Array, turned: Array) -> None:
    """Fill ``D' S D``."""
    d = len(axes)
    row = np.empty(d)
    for a in range(d):
        for b in range(d):
            row[b] = 0.0
            for c in range(d):
                row[b] += axes[c, a] * matrix[c, b]
        for b in range(d):
            turned[a, b] = 0.0
            for c in range(d):
                turned[a, b] += row[c] * axes[c, b]


@compiled_part
def _compose(axes: Array, variances: Array, matrix: Array) -> None:
    """Fill ``D diag(v) D'``."""
    d = len(axes)
    for a in range(d):
        for b in range(a, d):
            value = 0.0
            for c in range(d):
                value += axes[a, c] * variances[c] * axes[b, c]
            matrix[a, b] = value
            matrix[b, a] = value
