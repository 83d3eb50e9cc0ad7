"""What compiled fits take, by name: Numba passes named tuples as it passes their members. NumPy alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Model(NamedTuple):
    """Which mixtures are fitted.

    Attributes
    ----------
    kind : int
        The covariance type: FULL, TIED, DIAG or SPHERICAL of :mod:`gmm_dask.kernels.constants`.
    constraint : int
        What covariances have in common: UNCONSTRAINED, or a model of :mod:`gmm_dask.kernels.parsimonious`.
    constrain_at : int
        The :func:`~gmm_dask.kernels.parsimonious.constrain_address` of the latter: other fits compile nothing of it.
    n_components, n_features : int
    is_noisy : bool
        Whether noise is one density more than there are components.
    log_volume : float
        Minus the log density of the noise.
    """

    kind: int
    constraint: int
    constrain_at: int
    n_components: int
    n_features: int
    is_noisy: bool = False
    log_volume: float = 0.0


class Prior(NamedTuple):
    """A prior, or none; see :mod:`gmm_dask.kernels.priors`.

    Attributes
    ----------
    move_at, terms_at : int
        The addresses of what moves the parameters of an M-step towards the prior, and of what the prior adds to the
        bound; 0 without one.
    is_posterior : bool
        Whether mixtures are variational posteriors.
    values : ndarray
        The numbers of the prior.
    """

    move_at: int
    terms_at: int
    is_posterior: bool
    values: Array


NO_PRIOR = Prior(0, 0, False, np.zeros(0))


class FitRows(NamedTuple):
    """Rows in memory, and what their fits take of them.

    Attributes
    ----------
    x : ndarray of shape (n_rows, n_features)
    weights : ndarray of shape (n_rows,), or (0,)
    total_weight : float
    center, scatter : ndarray
        The origin of the feature map, and the scatter about it.
    reg_covar : ndarray of shape (n_features,)
        Added to the variances.
    """

    x: NDArray[Any]
    weights: Array
    total_weight: float
    center: Array
    scatter: Array
    reg_covar: Array


class Monomials(NamedTuple):
    """The lines (n_monomials,) of a block whose products are the monomials, filled up to a multiple of 3."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]


class Block(NamedTuple):
    """Memory of a block: ``z`` of the rows' lines, ``logits`` of the densities, ``shares`` of the mixture.

    Blocks are filled up to a multiple of ``row_multiple`` rows.
    """

    z: NDArray[Any]
    logits: NDArray[Any]
    shares: NDArray[Any]
    row_multiple: int


class FitSettings(NamedTuple):
    """What a fit does not learn from the rows.

    Attributes
    ----------
    tol : float
    max_kappa, max_single : float
        Where the feature map about one centre would lose too much, components are computed about their own means; a fit
        ends where single precision would.
    begin, order, regularization : float, int, float
        Of the acceleration, as in :mod:`gmm_dask.em.acceleration`; an order of 0 is plain EM.
    origin, unit : ndarray of shape (n_values,)
        Extrapolation works on ``(mixture - origin) / unit``.
    """

    tol: float
    max_kappa: float
    max_single: float
    begin: float
    order: int
    regularization: float
    origin: Array
    unit: Array
