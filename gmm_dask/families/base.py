"""What a covariance family is, and the parts that all families share."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from gmm_dask.errors import SINGULAR_REMEDY, SingularError
from gmm_dask.kernels.constants import LARGEST, LOG_2PI, NK_FLOOR, ROUNDING

Array = NDArray[np.float64]

# of sums that need none
NO_SCATTER = np.zeros((0, 0))


@dataclass(frozen=True, eq=False)
class Parameters:
    """Parameters of one mixture, in scikit-learn's shapes and the data's units.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
    covariances, precisions_cholesky : ndarray
        full (n_components, n_features, n_features), tied (n_features, n_features),
        diag (n_components, n_features), spherical (n_components,). ``precision = U U^T`` with U upper triangular.
    """

    weights: Array
    means: Array
    covariances: Array
    precisions_cholesky: Array

    def alone(self) -> Parameters:
        """The same in memory of its own: parts of what several mixtures share would keep all of it."""
        return Parameters(**{name: value.copy() for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sufficient statistics of one mixture: what an M-step needs, all of it additive.

    With responsibilities r (times the row's weight) and y = x - origin:

    Attributes
    ----------
    s0 : ndarray of shape (n_components,)
        ``sum r``.
    s1 : ndarray of shape (n_components, n_features)
        ``sum r y``.
    s2 : ndarray
        ``sum r`` of: full ``y y^T`` (n_components, n_features, n_features); tied ``y y^T`` over all components too
        (n_features, n_features); diag ``y_a^2`` (n_components, n_features); spherical ``|y|^2`` (n_components,).
    origins : ndarray of shape (n_components, n_features)
        Where each component's sums are taken about.
    log_likelihood : float
        Total over the rows, each times its weight.
    """

    s0: Array
    s1: Array
    s2: Array
    origins: Array
    log_likelihood: float = math.nan

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            s0=self.s0 + other.s0,
            s1=self.s1 + other.s1,
            s2=self.s2 + other.s2,
            origins=self.origins,
            log_likelihood=self.log_likelihood + other.log_likelihood,
        )


class Family(ABC):
    """A covariance family: everything that differs between covariance types.

    Its densities are linear in a slice of the feature map; its M-step needs the sums over that slice alone.
    """

    name: str
    description: str  # what the covariances have in common, for a report
    kind: int  # its number in gmm_dask.kernels.m_step

    # -- shapes ----------------------------------------------------------------------------------------------
    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances`` and ``precisions_cholesky``."""

    @abstractmethod
    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters in the covariances."""

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters: covariances, means and weights."""
        covariances = self.n_covariance_parameters(n_components, n_features)
        return covariances + n_components * n_features + n_components - 1

    # -- the feature map -------------------------------------------------------------------------------------
    @abstractmethod
    def density_columns(self, n_features: int) -> slice:
        """Part of the feature map in which each row's log density is linear."""

    def fit_columns(self, n_features: int) -> slice:
        """Part of the feature map that a fit needs; a beginning of :meth:`density_columns`."""
        return self.density_columns(n_features)

    @abstractmethod
    def natural(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients (n_components, n_density_columns) of ``log weight + log density`` in the feature map."""

    def naturals(self, models: Sequence[Parameters], center: Array, answers: bool) -> Array:
        """Coefficients of several mixtures, one below the other, in the columns of answers or of a fit."""
        d = len(center)
        columns, every = self.fit_columns(d), self.density_columns(d)
        n_columns = (every if answers else columns).stop - every.start
        return self.natural(joined(models), center)[:, :n_columns]

    @abstractmethod
    def unpack(self, sums: Array, center: Array, scatter: Array) -> Statistics:
        """Read statistics from sums (n_components, n_fit_columns) over the feature map about ``center``."""

    def unpack_centred(self, sums: Array, means: Array) -> Statistics:
        """Read statistics from sums (n_components, n_density_columns) over the map about each component's own mean."""
        return self.unpack(sums, means, NO_SCATTER)

    def unpack_all(self, sums: Array, edges: NDArray[np.int64], center: Array, scatter: Array) -> list[Statistics]:
        """:meth:`unpack` for several mixtures, whose components are between the edges."""
        every = self.unpack(sums, center, scatter)
        parts = [[getattr(every, name)[place] for name in ("s0", "s1", "s2", "origins")] for place in slices_of(edges)]
        return [Statistics(*part) for part in parts]

    def log_likelihood_correction(self, parameters: Parameters, scatter: Array) -> float:
        """What the fit's columns leave out of the total log-likelihood, given the data's scatter about its centre."""
        return 0.0

    def start_s2(self, s2: Array, origins: Array, unassigned: Callable[[], Array]) -> Array:
        """``s2`` of a start, with what scikit-learn's uncentred formulas count there beyond the assigned rows.

        ``unassigned`` returns the raw second moment (n_features, n_features) of the rows that no component was given.
        """
        return s2

    # -- densities -------------------------------------------------------------------------------------------
    @abstractmethod
    def log_det(self, precisions_cholesky: Array, n_features: int) -> Array:
        """Logarithm of the determinant of U, (n_components,) or a scalar array."""

    @abstractmethod
    def precision_diagonals(self, parameters: Parameters) -> Array:
        """Diagonals of the precisions, (n_components or 1, n_features or 1)."""

    @staticmethod
    def log_weights(parameters: Parameters) -> Array:
        """Logarithm of the weights; minus infinity for an empty component."""
        with np.errstate(divide="ignore"):
            logs: Array = np.log(parameters.weights)
        return logs

    def log_norm(self, parameters: Parameters) -> Array:
        """Logarithm of each density's normalising constant, (n_components,) or a scalar array."""
        d = parameters.means.shape[1]
        norm: Array = self.log_det(parameters.precisions_cholesky, d) - 0.5 * d * LOG_2PI
        return norm

    def kappa(self, parameters: Parameters, center: Array) -> float:
        """Bound on the condition of the feature map for these parameters.

        The map's relative rounding error is about ``kappa * 1e-16``, with kappa the largest
        ``(sum_a |mean_a - center_a| sqrt(precision_aa))^2``: the terms that cancel in a squared Mahalanobis distance
        are no larger in sum, whatever the units of the features.
        """
        return float(self._component_kappas(parameters, center).max())

    def kappas(self, models: Sequence[Parameters], center: Array) -> Array:
        """:meth:`kappa` of several mixtures, (n_models,)."""
        sizes = [len(parameters.weights) for parameters in models]
        found: Array = np.maximum.reduceat(self._component_kappas(joined(models), center), edges_of(sizes)[:-1])
        return found

    def _component_kappas(self, parameters: Parameters, center: Array) -> Array:
        with np.errstate(over="ignore"):
            terms = np.abs(parameters.means - center) * np.sqrt(self.precision_diagonals(parameters))
            kappas: Array = np.sum(terms, axis=1) ** 2
        return kappas

    # -- the M-step ------------------------------------------------------------------------------------------
    def maximise(self, statistics: Statistics, reg_covar: float | Array) -> Parameters:
        """The M-step: parameters of largest expected likelihood, in scikit-learn's form.

        ``reg_covar`` is added to the covariances' diagonals: a number, or one for each feature.

        Raises
        ------
        SingularError
            If a covariance is not positive definite.
        """
        (found,) = self.maximise_all([statistics], reg_covar)
        if found is None:
            raise SingularError(SINGULAR_REMEDY)
        return found

    def maximise_all(self, statistics: Sequence[Statistics], reg_covar: float | Array) -> list[Parameters | None]:
        """:meth:`maximise` of several mixtures at once; None where a covariance is not positive definite."""
        edges = edges_of([len(one.s0) for one in statistics])
        s0, s1 = (np.concatenate([getattr(one, name) for one in statistics]) for name in ("s0", "s1"))
        origins = np.concatenate([one.origins for one in statistics])
        # scikit-learn's nk = s0 + 10 eps. Its mean is sum r x / nk; with x = origin + y that is
        # origin s0 / nk + s1 / nk, and the scatter about it follows from that about the origin
        nk = s0 + NK_FLOOR
        shift = s1 / nk[:, None]
        means = origins * (s0 / nk)[:, None] + shift
        weights = nk / np.repeat(np.add.reduceat(nk, edges[:-1]), np.diff(edges))
        added = at_least_rounding(reg_covar, means)
        covariances = self._covariances_of([one.s2 for one in statistics], nk, shift, edges, added)
        factors = self.precisions_cholesky(covariances)
        found = []
        for place, piece in zip(slices_of(edges), self._pieces(edges), strict=True):
            # a factor is NaN where a covariance is not positive definite, and NaN is not below any number
            sound = np.abs(factors[piece]).max() < LARGEST
            made = Parameters(weights[place], means[place], covariances[piece], factors[piece])
            found.append(made if sound else None)
        return found

    def _covariances_of(
        self, s2: Sequence[Array], nk: Array, shift: Array, edges: NDArray[np.int64], reg_covar: float | Array
    ) -> Array:
        """Covariances of several mixtures, whose components are between the edges."""
        return self.covariances(np.concatenate(s2), nk, shift, reg_covar)

    def _pieces(self, edges: NDArray[np.int64]) -> Sequence[slice | int]:
        """Where the covariances of each of several mixtures are."""
        return slices_of(edges)

    def parameters(self, weights: Array, means: Array, covariances: Array) -> Parameters:
        """Parameters with the Cholesky factors of their precisions; raises :class:`SingularError`."""
        factors = self.precisions_cholesky(covariances)
        if not np.abs(factors).max() < LARGEST:
            raise SingularError(SINGULAR_REMEDY)
        return Parameters(weights, means, covariances, factors)

    @abstractmethod
    def covariances(self, s2: Array, nk: Array, shift: Array, reg_covar: float | Array) -> Array:
        """Covariances from ``s2``, the components' weights and the means relative to the origins."""

    @abstractmethod
    def precisions_cholesky(self, covariances: Array) -> Array:
        """The factors U of ``precision = U U^T``; NaN where a covariance is not positive definite."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """Precisions from their factors."""

    @abstractmethod
    def from_precisions(self, precisions: Array) -> tuple[Array, Array]:
        """Covariances and precision factors from precisions, which must be positive definite."""

    @abstractmethod
    def whitening_error(self, parameters: Parameters) -> float:
        """Largest entry of ``U^T covariance U - I``: rounding, unless a covariance and its factor U differ.

        NaN or infinite where the density is not defined: with a diagonal of U that is not positive.
        """

    # -- other forms -----------------------------------------------------------------------------------------
    @abstractmethod
    def full_covariances(self, parameters: Parameters) -> Array:
        """The covariances as matrices, (n_components, n_features, n_features)."""

    def without(self, parameters: Parameters, k: int) -> Parameters:
        """The mixture of all components but k."""
        weights, *others = (np.delete(value, k, axis=0) for value in vars(parameters).values())
        return Parameters(weights / weights.sum(), *others)

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        """The mixture of rows ``z * scale + center`` for one of rows z, with the name of the family that it is of."""
        return self.name, Parameters(
            weights=parameters.weights,
            means=parameters.means * scale + center,
            covariances=parameters.covariances * np.outer(scale, scale),
            precisions_cholesky=parameters.precisions_cholesky / scale[:, None],
        )

    @abstractmethod
    def standardized(self, sums: Array, origins: Array, parameters: Parameters) -> Array:
        """Sums over rows as each component sees them: of ``r``, ``r u`` and ``r (u u^T - I)``, with u = U^T (x - mean).

        Over rows that a component describes, all but the first are zero.

        Parameters
        ----------
        sums : ndarray of shape (n_components, n_density_columns)
            Over the feature map about the origins.
        origins : ndarray of shape (n_components, n_features)
        parameters : Parameters

        Returns
        -------
        standardized : ndarray of shape (n_components, 1 + n_features + n_numbers)
            Of the matrix, the numbers that the density columns give: those on and above the diagonal, the diagonal, or
            its mean.
        """

    @abstractmethod
    def draw(self, rng: np.random.RandomState, parameters: Parameters, k: int, n_rows: int) -> Array:
        """Draw rows (n_rows, n_features) of component k, consuming the generator as scikit-learn does."""


def joined(models: Sequence[Parameters]) -> Parameters:
    """Mixtures with a covariance a component as one, their components one after another."""
    if len(models) == 1:
        return models[0]
    return Parameters(**{name: np.concatenate([getattr(p, name) for p in models]) for name in vars(models[0])})


def at_least_rounding(reg_covar: float | Array, means: Array) -> float | Array:
    """Return what is added to the variances of each component: ``reg_covar``, or what rounding a mean takes.

    A mean is known to about an ulp. Rows that all have the component's one large value, such as a fill value of 1e20,
    are an ulp or two from it, and a variance that is far smaller than the square would give them no density.

    Parameters
    ----------
    reg_covar : float or ndarray of shape (n_features,)
    means : ndarray of shape (n_components, n_features)

    Returns
    -------
    added : float or ndarray
        ``reg_covar`` itself where it is zero or large enough for all components, (n_components, n_features) otherwise.
    """
    rounding = ROUNDING * np.spacing(np.abs(means)) ** 2
    if not np.all(reg_covar) or (rounding <= reg_covar).all():
        return reg_covar
    return np.maximum(reg_covar, rounding)


def slices_of(edges: NDArray[np.int64]) -> list[slice]:
    """The parts between the edges."""
    return [slice(start, stop) for start, stop in itertools.pairwise(edges.tolist())]


def edges_of(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Where each of several parts begins, and where the last one ends."""
    return np.cumsum([0, *sizes])


def upper_factor(precision: Array) -> Array:
    """U (n_features, n_features), upper triangular, with ``U U^T = precision``."""
    # with J the reversal of the order, J P J = L L' gives P = (J L J)(J L J)', and J L J is upper triangular
    lower: Array = linalg.cholesky(precision[::-1, ::-1], lower=True)
    return lower[::-1, ::-1]


def require_positive(variances: Array) -> None:
    """Raise :class:`SingularError` unless every variance is a positive number."""
    if not (np.isfinite(variances).all() and (variances > 0.0).all()):
        raise SingularError(SINGULAR_REMEDY)


def invert(matrices: Array) -> Array:
    """Inverses of matrices (..., n_features, n_features)."""
    return np.asarray(np.linalg.inv(matrices), dtype=np.float64)
