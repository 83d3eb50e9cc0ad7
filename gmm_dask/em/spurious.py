"""Components that describe an accident of the data instead of a group of rows.

The likelihood of a Gaussian mixture is unbounded: a component that shrinks onto a few rows which are equal, or lie in
line, gains without limit, and there are many local maxima on the way (McLachlan and Peel 2000, "Finite mixture models",
section 3.10, who call them spurious). They must not win a comparison by BIC. Two checks find them:

1. :func:`check_parameters` looks at the parameters alone, whenever a fit ends: components of one row, and components
   that only ``reg_covar`` holds open in a direction in which the data vary, whatever their number of rows. Their
   likelihood is what ``reg_covar`` makes of it. Rows that are rounded lie in such planes.
2. :func:`check_components` looks at the data, in the final pass: among enough rows some always lie in line, and a
   slim component over them raises the likelihood a little. It has to raise it by more than the best of all the places
   where such a component could lie does by chance; how much it does is known from the mixture without it, over the
   same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from gmm_dask import kernels
from gmm_dask.em.status import Status
from gmm_dask.families import Family, Parameters
from gmm_dask.families.noise import gaussians_of
from gmm_dask.kernels.constants import SOUND, SPURIOUS, UNDECIDED
from gmm_dask.passes.model_batch import Model, Totals

if TYPE_CHECKING:
    from gmm_dask.em.loop import State

Array = NDArray[np.float64]
Evaluate = Callable[[Sequence[Model]], list[Totals]]

# a component of one row, but for rounding, or of less, is degenerate
ONE_ROW = 1.0 + 1e-6
# a component of fewer rows than this many times n_features + 1 may owe its shape to chance
FEW_ROWS = 10.0
# reg_covar is the lower bound of every variance; up to twice that, the variance is what reg_covar added
BOUNDED = 2.0
# and where the data's own variance is more than three times reg_covar, they vary: a column of two values rounded to
# their distance, which has the smallest such ratio, has four
VARYING = 3.0
# values that are rounded to a step h, for which reg_covar is h^2 / 12, are told apart from h on: in units of reg_covar
STEP = 12.0
# 0.1 is a third of the others' width: such a component has to show that it gains what it costs
SLIM = 0.1
# how often chance may lay a component that pays, among rows that have none
FALSE_ALARMS = 0.01
# a slim component of more rows than this many times its price is not checked: a gain of 1/4 a row has paid for it
ROWS_PER_PRICE = 4.0
# weights that add up to less than this share of the number of rows hardly count rows
COUNTED = 0.05
# nodes and weights for the mean of a function of a standard normal number (Gauss-Hermite)
_HERMITE = np.polynomial.hermite_e.hermegauss(40)
NODES = _HERMITE[0], _HERMITE[1] / _HERMITE[1].sum()


def weights_warning(total_weight: float, n_rows: int) -> str:
    """Return a warning of weights that add up to far less than the number of rows; empty for others."""
    if total_weight >= COUNTED * n_rows:
        return ""
    return (
        f"The weights add up to {total_weight:.4g} for {n_rows:,} rows. A weight of 1 counts as one row, so criteria "
        "and statuses are those of so few rows. Scale the weights so that they add up to the number of rows, unless "
        "they do count rows."
    )


# -- from the parameters alone -------------------------------------------------------------------------------------


def check_parameters(
    family: Family, parameters: Parameters, total_weight: float, reg_covar: Array | float
) -> Status | None:
    """Check the parameters that a fit ends with: None where nothing speaks against them.

    A component is spurious if only ``reg_covar`` holds it open in a direction in which the data vary, and it would not
    pay as a component as wide as the others there. So rows that share a fill value far from all others are a group,
    and the planes of rounded rows, or the zeros in the midst of other values, are none. Nor is a component that is held
    open in every direction: its rows are copies of one.
    """
    if parameters.noise is not None and parameters.weights.max() * total_weight <= ONE_ROW:
        return Status.ALL_NOISE
    if parameters.weights.min() * total_weight <= ONE_ROW:
        return Status.DEGENERATE
    if parameters.noise is not None:  # its rows are no component's
        total_weight *= 1.0 - parameters.noise.weight
    family, parameters = gaussians_of(family, parameters)
    verdict = quick_verdict(family, parameters, total_weight, reg_covar)
    if verdict == UNDECIDED:
        verdict = slow_verdict(family, parameters, total_weight, reg_covar)
    return Status.SPURIOUS if verdict == SPURIOUS else None


def quick_verdict(family: Family, parameters: Parameters, total_weight: float, reg_covar: Array | float) -> int:
    """Return what :func:`slow_verdict` does, or UNDECIDED where it takes eigenvectors."""
    k, d = parameters.means.shape
    verdict: int = kernels.judge_held_open(
        parameters.weights,
        parameters.means,
        np.array(family.full_covariances(parameters), order="C"),  # a view of a tied one cannot be written
        _of_each_feature(reg_covar, d),
        BOUNDED,
        VARYING,
        STEP,
        FEW_ROWS * (d + 1) / total_weight,
        least_gain(family, k, d, total_weight) / total_weight,
        *NODES,
    )
    return verdict


def slow_verdict(family: Family, parameters: Parameters, total_weight: float, reg_covar: Array | float) -> int:
    """Return SPURIOUS or SOUND, as :func:`check_parameters` explains."""
    try:
        held = HeldOpen.of(parameters, family.full_covariances(parameters), reg_covar)
    except np.linalg.LinAlgError:  # so close to singular that the check cannot be computed
        return SOUND
    if held is None:
        return SOUND
    k, d = parameters.means.shape
    copies = held.everywhere & (parameters.weights * total_weight < FEW_ROWS * (d + 1))
    pay = held.all_pay(least_gain(family, k, d, total_weight) / total_weight)
    return SPURIOUS if copies.any() or not pay else SOUND


def is_beyond_doubt(weights: Array, total_weight: float, trace: float) -> bool:
    """Whether :func:`check_parameters` has no objection, by numbers that cost little.

    ``trace`` is the largest of the components' ``tr(precision R)``, with ``reg_covar`` on the diagonal of R. It is at
    least the inverse of the smallest variance in units of ``reg_covar``.
    """
    return bool(weights.min() * total_weight > ONE_ROW) and 0.0 <= trace < 1.0 / BOUNDED


def held_open_shares(parameters: Parameters, matrices: Array, reg_covar: Array | float) -> Array:
    """Return how much of each column's direction ``reg_covar`` holds open in each component, where the data vary.

    Parameters
    ----------
    parameters : Parameters
    matrices : ndarray of shape (n_components, n_features, n_features)
        The components' covariances.
    reg_covar : float or ndarray of shape (n_features,)

    Returns
    -------
    shares : ndarray of shape (n_components, n_features)
        1 if the column's direction is held open, 0 if none is that has a part of it.

    Raises
    ------
    LinAlgError
        If the matrices are too close to singular.
    """
    held = HeldOpen.of(parameters, matrices, reg_covar)
    if held is None:
        return np.zeros_like(parameters.means)
    whole = np.diagonal(_covariance_of_mixture(held.weights, held.means, held.matrices))
    shares: Array = np.diagonal(held.bounded, axis1=1, axis2=2) * (whole > VARYING)
    return shares


@dataclass(frozen=True, eq=False)
class HeldOpen:
    """The components of a mixture that ``reg_covar`` holds open, with all lengths in units of its square root.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
    matrices : ndarray of shape (n_components, n_features, n_features)
        Their covariances.
    bounded : ndarray of shape (n_components, n_features, n_features)
        Projections on the directions that are held open and in which the data vary; zero where there is none.
    components : ndarray of bool, shape (n_components,)
        Whether there is one.
    everywhere : ndarray of bool, shape (n_components,)
        Whether every direction is held open.
    """

    weights: Array
    means: Array
    matrices: Array
    bounded: Array
    components: NDArray[np.bool_]
    everywhere: NDArray[np.bool_]

    @classmethod
    def of(cls, parameters: Parameters, matrices: Array, reg_covar: Array | float) -> Self | None:
        """Return them; None if no component is held open."""
        unit = np.sqrt(_of_each_feature(reg_covar, parameters.means.shape[1]))
        if len(matrices) == 1 or not unit.all():
            return None
        scaled = matrices / np.outer(unit, unit)
        variances, vectors = np.linalg.eigh(scaled)
        means = parameters.means / unit
        whole = _covariance_of_mixture(parameters.weights, means, scaled)
        # the projections V V' on each component's directions V of a variance that is no more than reg_covar's, and
        # in them the data's covariance: its largest eigenvalue shows whether the data vary there
        chosen = vectors * (variances <= BOUNDED)[:, None, :]
        projections = chosen @ chosen.transpose(0, 2, 1)
        varying = np.linalg.eigvalsh(projections @ whole @ projections)[:, -1] > VARYING
        if not varying.any():
            return None
        everywhere = varying & (variances[:, -1] <= BOUNDED)
        return cls(parameters.weights, means, scaled, projections * varying[:, None, None], varying, everywhere)

    def all_pay(self, price: float) -> bool:
        """Return whether all would pay, as a share of all rows, if they were as wide as the others where held open.

        Each is compared with its merger with each other component: it would pay if the least of the gains over these
        exceeds the price.
        """
        pay: bool = kernels.all_gain(self.weights, self.means, self._common_width(), self.components, price, *NODES)
        return pay

    def _common_width(self) -> Array:
        """Return the mean covariance (n_features, n_features) of the components that are not held open.

        If all are, it is that of all of them, with no telling apart in the directions that are held open: the data's
        covariance is added there. In either case no step of rounded values is told from the next.
        """
        free = self.weights * ~self.components
        if free.any():
            mean = _weighted_mean(free / free.sum(), self.matrices)
        else:
            whole = _covariance_of_mixture(self.weights, self.means, self.matrices)
            mean = _weighted_mean(self.weights, self.matrices + self.bounded @ whole @ self.bounded)
        return mean + (STEP - 1.0) * np.eye(len(mean))


def _of_each_feature(reg_covar: Array | float, n_features: int) -> Array:
    return np.array(np.broadcast_to(reg_covar, (n_features,)), dtype=np.float64)


def slim_components(family: Family, parameters: Parameters, chosen: NDArray[np.intp]) -> list[int]:
    """Return those of the chosen components that are slimmer than the others and have to show that they gain."""
    matrices = family.full_covariances(parameters)
    within = _weighted_mean(parameters.weights, matrices)
    # relative to the covariance within components the components' variances in any direction have the mean 1, so that
    # their median is at most 2
    is_narrow = np.empty(len(chosen), dtype=bool)
    kernels.find_narrower(matrices[chosen], within, 2.0 * SLIM, is_narrow)
    narrow = chosen[is_narrow]
    if not len(narrow):
        return []
    try:
        slim = _slimness(parameters.weights, matrices, within, narrow) < SLIM
    except np.linalg.LinAlgError:  # so close to singular that the check cannot be computed
        return []
    found: list[int] = narrow[slim].tolist()
    return found


def _slimness(weights: Array, matrices: Array, within: Array, chosen: NDArray[np.intp]) -> Array:
    """Return the chosen components' variances as shares of the median component's, in their narrowest directions."""
    # a direction is narrow relative to the others' widths: in coordinates in which the covariance within components is
    # the identity, the check does not depend on units, nor on how far the components are apart. With the Cholesky
    # factor L of that covariance they are L^-1 x
    inverse = np.linalg.inv(np.linalg.cholesky(within))
    variances, vectors = np.linalg.eigh(inverse @ matrices[chosen] @ inverse.T)
    # a narrowest direction v is L^-T v in the data's units; then the variance of every component j in that of k
    narrowest = vectors[:, :, 0] @ inverse
    across = np.sum((narrowest @ matrices) * narrowest, axis=2).T
    slimness: Array = variances[:, 0] / _weighted_medians(across, weights)
    return slimness


def _covariance_of_mixture(weights: Array, means: Array, matrices: Array) -> Array:
    """Return the whole mixture's covariance (n_features, n_features): within components, and between their means."""
    offsets = means - weights @ means
    return _weighted_mean(weights, matrices) + (offsets.T * weights) @ offsets


def _weighted_mean(weights: Array, matrices: Array) -> Array:
    """Return ``sum_k weights[k] matrices[k]``."""
    mean: Array = (weights @ matrices.reshape(len(weights), -1)).reshape(matrices.shape[1:])
    return mean


def _weighted_medians(values: Array, weights: Array) -> Array:
    """Return the weighted median of each line of values (n_lines, n_values)."""
    order = np.argsort(values, axis=1)
    shares = np.cumsum(weights[order], axis=1)
    lines = np.arange(len(values))
    medians: Array = values[lines, order[lines, np.argmax(shares >= 0.5 * shares[:, -1:], axis=1)]]
    return medians


# -- from the data -------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the slim component of a mixture that gains least gains: see :func:`check_components`.

    Attributes
    ----------
    component : int
        Its number, with the components sorted by weight, the largest first; -1 where there was none to check.
    gain : float
        The log-likelihood of the mixture minus that of the same without it; where rows are copies, of distinct rows.
    price : float
        The least gain with which it is kept.
    """

    component: int
    gain: float
    price: float

    @property
    def is_kept(self) -> bool:
        """Whether the component gains its price."""
        return self.gain >= self.price


NO_VERDICT = Verdict(-1, math.nan, math.nan)


def check_components(
    states: Sequence[State],
    evaluate: Evaluate,
    total_weight: float,
    distinct_share: float = 1.0,
    by_likelihood: bool = True,
) -> tuple[list[State], list[Totals], list[Verdict]]:
    """Check slim components against the data: return the states, some of them now spurious, and all totals.

    Parameters
    ----------
    states : sequence of State
        All of them usable.
    evaluate : callable
        Gives the log-likelihoods of models over the rows that the states are fitted to, from one pass.
    total_weight : float
        Of these rows.
    distinct_share : float
        Share of the rows that are not copies of others. Copies count once: a gain over rows of which each is there m
        times is m times the gain over the distinct ones.
    by_likelihood : bool
        Whether the mixtures are those of largest likelihood; in others no component is doubtful.

    Returns
    -------
    states : list of State
    totals : list of Totals
        Of the states' models, in the same order.
    verdicts : list of Verdict
        Likewise.
    """
    n = total_weight * distinct_share
    doubtful = states if by_likelihood else []
    to_check = [(i, k) for i, state in enumerate(doubtful) for k in _unproven_components(state, n)]
    models = [state.model for state in states]
    # the mixtures without a component share the pass of the whole ones: the check costs no read of the data
    evaluated = evaluate([*models, *(_without(models[i], k) for i, k in to_check)])
    totals, reduced = evaluated[: len(states)], evaluated[len(states) :]
    checked = list(states)
    verdicts = [NO_VERDICT] * len(states)
    for (i, k), other in zip(to_check, reduced, strict=True):
        gain = distinct_share * (totals[i].log_likelihood - other.log_likelihood)
        verdict = Verdict(_rank(models[i], k), gain, _price(states[i], n))
        verdicts[i] = min(verdict, verdicts[i], key=lambda one: math.inf if math.isnan(one.gain) else one.gain)
        if not verdict.is_kept:
            checked[i] = replace(states[i], status=Status.SPURIOUS)
    return checked, totals, verdicts


def _unproven_components(state: State, n_distinct: float) -> list[int]:
    """Return the slim components of so few rows that they may gain less than their price."""
    family, parameters = state.model
    if state.n_components == 1 or not state.status.trusted:
        return []
    most = ROWS_PER_PRICE * _price(state, n_distinct)
    if parameters.weights.min() * n_distinct >= most:
        return []
    few = np.flatnonzero(parameters.weights * n_distinct < most)
    return slim_components(*gaussians_of(family, parameters), few) if len(few) else []


def _without(model: Model, k: int) -> Model:
    family, parameters = model
    return family, family.without(parameters, k)


def _rank(model: Model, k: int) -> int:
    """Return the number of component k with the components sorted by weight."""
    return int(np.flatnonzero(np.argsort(-model[1].weights, kind="stable") == k)[0])


def _price(state: State, n: float) -> float:
    (family, parameters), d = state.model, state.model[1].means.shape[1]
    return least_gain(family, len(parameters.weights), d, n)


@lru_cache(maxsize=1024)
def least_gain(family: Family, n_components: int, n_features: int, total_weight: float) -> float:
    """Return what a component has to gain in log-likelihood: its price by BIC, and for the choice of its place.

    BIC charges (p_k - p_(k-1)) / 2 log n for its parameters. A slim component through some n_features + 1 of n rows
    may lie in C(n, n_features + 1) places, and the best of so many gains about the logarithm of their number more than
    one that is given in advance. The logarithm of the share of false alarms keeps chance below that share.
    """
    n = max(1.0, total_weight)
    free = family.n_parameters(n_components, n_features) - family.n_parameters(n_components - 1, n_features)
    m = min(n_features + 1.0, n)
    log_places = gammaln(n + 1.0) - gammaln(m + 1.0) - gammaln(n - m + 1.0)
    return 0.5 * free * math.log(n) + float(log_places) - math.log(FALSE_ALARMS)
