"""What a covariance family is, and the parts that all families share."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from gmm_dask.errors import SINGULAR_REMEDY, SingularError
from gmm_dask.kernels.constants import LARGEST, LOG_2PI, NK_FLOOR, ROUNDING, UNCONSTRAINED

Array = NDArray[np.float64]

# of sums that need none
NO_SCATTER = np.zeros((0, 0))


class Noise(NamedTuple):
    """A component of one density everywhere in a box, for rows that belong to none of the others.

    Attributes
    ----------
    weight : float
    log_volume : float
        Natural logarithm of the box's volume, in the data's units: minus the log density.
    """

    weight: float
    log_volume: float


@dataclass(frozen=True, eq=False)
class Parameters:
    """Parameters of one mixture, in scikit-learn's shapes and the data's units.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
        They add up to one, or to what the noise leaves of it.
    means : ndarray of shape (n_components, n_features)
    covariances, precisions_cholesky : ndarray
        full (n_components, n_features, n_features), tied (n_features, n_features),
        diag (n_components, n_features), spherical (n_components,). ``precision = U U^T`` with U upper triangular.
    noise : Noise or None
        None where all rows belong to components.
    is_settled : bool
        False where the iterations within the M-step that made them stopped at their bound.
    """

    weights: Array
    means: Array
    covariances: Array
    precisions_cholesky: Array
    # a keyword alone, so that other parameters have fields of their own
    noise: Noise | None = field(default=None, kw_only=True)
    is_settled: bool = field(default=True, kw_only=True)

    @property
    def n_densities(self) -> int:
        """How many densities the mixture adds up: those of the components, and that of the noise."""
        return len(self.weights) + (self.noise is not None)

    @property
    def all_weights(self) -> Array:
        """The weights of all densities, (n_densities,): the noise's is the last one."""
        return self.weights if self.noise is None else np.append(self.weights, self.noise.weight)

    def arrays(self) -> dict[str, Array]:
        """The arrays, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def vector(self) -> Array:
        """Weights, means and covariances, one after another."""
        return np.concatenate([self.weights, self.means.ravel(), self.covariances.ravel()])

    def alone(self) -> Self:
        """The same in memory of its own: parts of what several mixtures share would keep all of it."""
        copies: dict[str, Any] = {name: value.copy() for name, value in self.arrays().items()}
        return replace(self, **copies)

    def log_weights(self) -> Array:
        """What is added to each component's log density, (n_components,); minus infinity for an empty component."""
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.weights)
        return logs


@dataclass(frozen=True, eq=False)
class JoinedParameters(Parameters):
    """Several mixtures as one, their components one after another; ``logs`` are their log weights."""

    logs: Array

    def log_weights(self) -> Array:
        return self.logs


@dataclass(frozen=True, eq=False)
class NoiseSums:
    """What the noise adds up: ``sum r``, and ``sum r y`` (n_features,) with y = x - origin.

    The M-step needs the first alone; with the second, the sums of all densities are those of all rows.
    """

    s0: float
    s1: Array
    origin: Array

    def __add__(self, other: NoiseSums) -> NoiseSums:
        return NoiseSums(self.s0 + other.s0, self.s1 + other.s1, self.origin)


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
    noise : NoiseSums or None
        None without noise.
    """

    s0: Array
    s1: Array
    s2: Array
    origins: Array
    log_likelihood: float = math.nan
    noise: NoiseSums | None = None

    def moments(self) -> tuple[Array, Array, Array]:
        """Return the rows of each component, their means and the means' distances from the origins.

        As in scikit-learn each component has 10 eps of a row more, at zero.
        """
        # the mean is sum r x / nk; with x = origin + y that is origin s0 / nk + s1 / nk
        nk = self.s0 + NK_FLOOR
        shift = self.s1 / nk[:, None]
        return nk, self.origins * (self.s0 / nk)[:, None] + shift, shift

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            s0=self.s0 + other.s0,
            s1=self.s1 + other.s1,
            s2=self.s2 + other.s2,
            origins=self.origins,
            log_likelihood=self.log_likelihood + other.log_likelihood,
            noise=self.noise + other.noise if self.noise and other.noise else None,
        )


class Family(ABC):
    """A covariance family: everything that differs between covariance types.

    Its densities are linear in a slice of the feature map; its M-step needs the sums over that slice alone.
    """

    name: str
    description: str  # what the covariances have in common, for a report
    # volume, shape and orientation of the covariances: E equal, V varying, I the identity (mclust's name of the model)
    structure: str
    kind: int  # the number of its arrays' shapes in gmm_dask.kernels.m_step
    constraint: int = UNCONSTRAINED  # its number in gmm_dask.kernels.parsimonious
    sklearn_type: str  # the covariance type whose arrays have its shapes
    is_shared = False  # whether one covariance is that of all components

    @property
    def is_constrained(self) -> bool:
        """Whether covariances have something in common beyond the shapes of their arrays."""
        return self.constraint != UNCONSTRAINED

    @property
    def gaussians(self) -> Family:
        """The family of the Gaussians alone: itself, unless noise stands beside them."""
        return self

    def beside_noise(self, gaussians: Parameters, statistics: Statistics) -> Parameters:
        """The mixture that an M-step makes: its Gaussians, whose weights add up to one, beside the noise, if any."""
        return gaussians

    # -- shapes ----------------------------------------------------------------------------------------------
    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances`` and ``precisions_cholesky``."""

    def shape_of_one(self, n_features: int) -> tuple[int, ...]:
        """Shape of one component's covariance."""
        shape = self.covariance_shape(1, n_features)
        return shape if self.is_shared else shape[1:]

    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters in the covariances."""
        # a volume is one number, a shape of determinant one D - 1, an orientation one for each pair of axes
        sizes = 1, n_features - 1, n_features * (n_features - 1) // 2
        counts = {"I": 0, "E": 1, "V": n_components}
        return sum(counts[letter] * size for letter, size in zip(self.structure, sizes, strict=True))

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Number of free parameters: covariances, means and weights."""
        covariances = self.n_covariance_parameters(n_components, n_features)
        return covariances + n_components * n_features + n_components - 1

    # -- the feature map -------------------------------------------------------------------------------------
    @abstractmethod
    def density_columns(self, n_features: int) -> slice:
        """Part of the feature map in which each row's log density is linear."""

    def fit_columns(self, n_features: int) -> slice:
        """Part of the feature map that a fit's passes need: what all components share may be left out."""
        return self.density_columns(n_features)

    def in_memory_columns(self, n_features: int) -> slice:
        """Part of the feature map that a fit over rows in memory needs, which runs compiled as a whole."""
        return self.fit_columns(n_features)

    @abstractmethod
    def natural(self, parameters: Parameters, center: Array) -> Array:
        """Coefficients (n_components, n_density_columns) of ``log weight + log density`` in the feature map."""

    def naturals(self, models: Sequence[Parameters], center: Array, answers: bool) -> Array:
        """Coefficients of several mixtures, one below the other, in the columns of answers or of a fit."""
        every = self.density_columns(len(center))
        columns = every if answers else self.fit_columns(len(center))
        return self.natural(joined(models), center)[:, columns.start - every.start : columns.stop - every.start]

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

    def log_norm(self, parameters: Parameters) -> Array:
        """Logarithm of each density's normalising constant, (n_components,) or a scalar array."""
        d = parameters.means.shape[1]
        norm: Array = self.log_det(parameters.precisions_cholesky, d) - 0.5 * d * LOG_2PI
        return norm

    def expected_log_joint(self, statistics: Statistics, parameters: Parameters) -> float:
        """``sum r (log weight + log density)`` over the rows and the components, given the statistics of these r."""
        d = parameters.means.shape[1]
        columns = self.natural(parameters, statistics.origins)
        one = 1 - self.density_columns(d).start  # the position of the monomial 1, before those of z
        constant, linear = columns[:, one], columns[:, one + 1 : one + 1 + d]
        occupied = statistics.s0 > 0.0  # the log weight of an empty component may be infinite
        quadratic = np.sum(self.precisions(parameters.precisions_cholesky) * statistics.s2)
        found = statistics.s0[occupied] @ constant[occupied] + np.sum(statistics.s1 * linear) - 0.5 * quadratic
        return float(found)

    def own_origins(self, parameters: Parameters) -> Array:
        """Where a feature map for each density is taken about, (n_densities, n_features): the components' means."""
        return parameters.means

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
    @property
    def constrain_address(self) -> int:
        """Where a compiled M-step finds what gives the covariances of the family their common parts; 0 for none."""
        return 0

    def maximise(
        self, statistics: Statistics, reg_covar: float | Array, previous: Parameters | None = None
    ) -> Parameters:
        """The M-step: parameters of largest expected likelihood, in scikit-learn's form.

        Parameters
        ----------
        statistics : Statistics
        reg_covar : float or ndarray of shape (n_features,)
            Added to the diagonals of the covariances that the components would have each for itself; what they have in
            common is found after that.
        previous : Parameters, optional
            Those that the statistics were taken at: where an M-step has several optima, it goes on from them.

        Raises
        ------
        SingularError
            If a covariance is not positive definite.
        """
        (found,) = self.maximise_all([statistics], reg_covar, [previous])
        if found is None:
            raise SingularError(SINGULAR_REMEDY)
        return found

    def maximise_all(
        self,
        statistics: Sequence[Statistics],
        reg_covar: float | Array,
        previous: Sequence[Parameters | None] | None = None,
    ) -> list[Parameters | None]:
        """:meth:`maximise` of several mixtures at once; None where a covariance is not positive definite."""
        edges = edges_of([len(one.s0) for one in statistics])
        s0, s1 = (np.concatenate([getattr(one, name) for one in statistics]) for name in ("s0", "s1"))
        origins = np.concatenate([one.origins for one in statistics])
        nk, means, shift = Statistics(s0, s1, NO_SCATTER, origins).moments()
        weights = nk / np.repeat(np.add.reduceat(nk, edges[:-1]), np.diff(edges))
        added = at_least_rounding(reg_covar, means)
        covariances = self._covariances_of([one.s2 for one in statistics], nk, shift, edges, added)
        covariances, settled = self._constrained(covariances, weights, edges, previous or [None] * len(statistics))
        factors = self.precisions_cholesky(covariances)
        found = []
        for place, piece, is_settled in zip(slices_of(edges), self._pieces(edges), settled, strict=True):
            # a factor is NaN where a covariance is not positive definite, and NaN is not below any number
            sound = np.abs(factors[piece]).max() < LARGEST
            made = Parameters(weights[place], means[place], covariances[piece], factors[piece], is_settled=is_settled)
            found.append(made if sound else None)
        return found

    def _covariances_of(
        self, s2: Sequence[Array], nk: Array, shift: Array, edges: NDArray[np.int64], reg_covar: float | Array
    ) -> Array:
        """Covariances of several mixtures, whose components are between the edges."""
        return self.covariances(np.concatenate(s2), nk, shift, reg_covar)

    def _constrained(
        self, covariances: Array, weights: Array, edges: NDArray[np.int64], previous: Sequence[Parameters | None]
    ) -> tuple[Array, list[bool]]:
        """Covariances with what those of each mixture have in common; NaN where there are none such.

        Also whether the iterations that find them, if any, came to their end in each mixture.
        """
        return covariances, [True] * (len(edges) - 1)

    def _pieces(self, edges: NDArray[np.int64]) -> Sequence[slice | int]:
        """Where the covariances of each of several mixtures are."""
        return slices_of(edges)

    def parameters(self, weights: Array, means: Array, covariances: Array) -> Parameters:
        """Parameters with the Cholesky factors of their precisions, given the weights of all densities.

        Raises
        ------
        SingularError
            If a covariance is not positive definite.
        """
        factors = self.precisions_cholesky(covariances)
        if not np.abs(factors).max() < LARGEST:
            raise SingularError(SINGULAR_REMEDY)
        return Parameters(weights, means, covariances, factors)

    def common(self, weights: Array, covariances: Array, like: Parameters | None = None) -> Array:
        """Covariances of the family that describe others best, given the components' weights; NaN if there are none.

        The others have the family's shape, but not what its components have in common. ``like`` are some of the family
        that may be near.
        """
        return covariances

    def nearest(self, weights: Array, means: Array, covariances: Array, like: Parameters | None = None) -> Parameters:
        """Parameters with :meth:`common` covariances; raises :class:`SingularError`."""
        # singular ones count as such, though what they have in common may be positive definite
        given = self.parameters(weights, means, covariances)
        common = self.common(weights, covariances, like)
        return given if common is covariances else self.parameters(weights, means, common)

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
    def log_wishart_integral(self, degrees_of_freedom: Array | float, log_det: Array | float, n_features: int) -> Array:
        """Logarithm of the integral of ``|P|^((nu - D - 1) / 2) exp(-tr(P S) / 2)`` over the family's precisions P.

        It is the inverse of the normalising constant of a Wishart distribution (Bishop 2006, B.79); of precisions that
        are numbers, of the Gamma distributions of as many rows.

        Parameters
        ----------
        degrees_of_freedom : ndarray
            nu, in rows.
        log_det : ndarray
            Logarithm of the determinant of the scatter S, as a matrix (n_features, n_features).
        n_features : int
        """

    def numbers_per_row(self, n_features: int) -> int:
        """How many numbers of a row tell of each variance."""
        return 1

    def numbers_per_covariance(self, nk: Array, n_features: int) -> Array:
        """How many numbers, in rows, tell of each covariance, given the rows of each component."""
        return np.asarray(nk.sum()) if self.is_shared else nk * self.numbers_per_row(n_features)

    @abstractmethod
    def mode_numbers(self, n_components: int, n_features: int) -> int:
        """How many numbers the densities of conjugate priors of means and covariances count as at their mode.

        They are those of each covariance beside the degrees of freedom of its prior (Fraley and Raftery 2007, tables 1
        and 2).
        """

    @abstractmethod
    def from_matrix(self, matrix: Array) -> Array:
        """One component's covariance of the family: what it keeps of a matrix (n_features, n_features)."""

    @abstractmethod
    def full_covariances(self, parameters: Parameters) -> Array:
        """The covariances as matrices, (n_components, n_features, n_features)."""

    def without(self, parameters: Parameters, k: int) -> Parameters:
        """The mixture of all components but k."""
        others: dict[str, Any] = {name: np.delete(value, k, axis=0) for name, value in parameters.arrays().items()}
        return Parameters(**{**others, "weights": others["weights"] / others["weights"].sum()})

    def unscaled(self, parameters: Parameters, center: Array, scale: Array) -> tuple[str, Parameters]:
        """The mixture of rows ``z * scale + center`` for one of rows z, with the name of the family that it is of."""
        return self.name, replace(
            parameters,
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
    names = ("weights", "means", "covariances", "precisions_cholesky")
    every: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in models]) for name in names}
    if all(type(p) is Parameters for p in models):  # a call takes longer than what it computes
        with np.errstate(divide="ignore"):
            logs = np.log(every["weights"])
    else:
        logs = np.concatenate([p.log_weights() for p in models])
    return JoinedParameters(**every, logs=logs)


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
    return np.array([0, *itertools.accumulate(sizes)], dtype=np.int64)


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
