"""Components that describe an accident of the data instead of a group of rows.

The likelihood of a Gaussian mixture is unbounded: a component that shrinks onto a few rows which are equal, or lie in
line, gains without limit, and there are many local maxima on the way (McLachlan and Peel 2000, "Finite mixture models",
section 3.10, who call them spurious). They must not win a comparison by BIC. Two checks find them:

1. :func:`check_parameters` looks at the parameters alone, whenever a fit ends: components of one row, and components of
   few rows whose width is far out of proportion.
2. :func:`check_components` looks at the data, in the final pass: among enough rows some always lie in line, and a
   slim component over them raises the likelihood a little. A real group gains at least what BIC charges for its
   parameters; how much a component gains is known from the same mixture without it, over the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.status import Status
from gmm_dask.families import Family, Parameters, get_family
from gmm_dask.passes.model_batch import Model, Totals

if TYPE_CHECKING:
    from gmm_dask.em.loop import State

Array = NDArray[np.float64]
Evaluate = Callable[[Sequence[Model]], list[Totals]]

# a component of one row, but for rounding, or of less, is degenerate
ONE_ROW = 1.0 + 1e-6
# a component of fewer rows than this many times n_features + 1 may owe its shape to chance
FEW_ROWS = 10.0
# variances are compared as ratios: 1e-3 is 1/30 of the others' width, out of proportion for a component of few rows
NARROW = 1e-3
# 0.1 is a third of the others' width: such a component has to show that it gains what it costs
SLIM = 0.1
# reg_covar is the lower bound of every variance; up to twice that, the variance is what reg_covar added
BOUNDED = 2.0
# a slim component of more rows than this many times its price is not checked: a gain of 1/4 a row has paid for it
ROWS_PER_PRICE = 4.0
# weights that add up to less than this share of the number of rows hardly count rows
COUNTED = 0.05


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
    """Check the parameters that a fit ends with: degenerate, spurious, or None where nothing speaks against them.

    A component of few rows is spurious if, in some direction, its variance is far below the median component's, or far
    below the data's and no more than what ``reg_covar`` added.
    """
    rows = parameters.weights * total_weight
    if rows.min() <= ONE_ROW:
        return Status.DEGENERATE
    few = np.flatnonzero(rows < FEW_ROWS * (parameters.means.shape[1] + 1))
    if len(few) == 0:
        return None
    matrices = family.full_covariances(parameters)
    try:
        few = few[_may_be_narrow(parameters, matrices, few)]
        if len(few) == 0:
            return None
        narrow = _slimness(parameters, matrices, few) < NARROW
        spurious = narrow | is_bounded_by_reg_covar(parameters, matrices, reg_covar, few)
    except np.linalg.LinAlgError:  # so close to singular that the check cannot be computed
        return None
    return Status.SPURIOUS if spurious.any() else None


def is_beyond_doubt(weights: Array, total_weight: float, trace: float) -> bool:
    """Whether :func:`check_parameters` has no objection, by numbers that cost little: see :func:`_may_be_narrow`.

    ``trace`` is the largest of the components' ``tr(precision S)``, with S the covariance of the whole mixture.
    """
    return bool(weights.min() * total_weight > ONE_ROW) and 0.0 < trace < 0.5 / NARROW


def _may_be_narrow(parameters: Parameters, matrices: Array, chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which chosen components may have a variance out of proportion: a cheap bound that misses none.

    Let S be the covariance of the whole mixture. In the coordinates in which S is the identity, the component's
    precision has the trace tr(S_k^-1 S), which is at least its largest eigenvalue: the inverse of the component's
    smallest variance, as a share of S, in any direction. The components' shares of S, averaged by weight, are at most 1
    in each direction (S is the mean of the S_k, plus the spread of the means), so their median there is at most 2
    (Markov's inequality). With a trace below 1 / (2 NARROW), then, no variance is below NARROW times the median, nor
    below NARROW times that of S.
    """
    try:
        inverses = np.linalg.inv(matrices[chosen])
    except np.linalg.LinAlgError:
        return np.ones(len(chosen), dtype=bool)
    traces = np.einsum("kab,ab->k", inverses, _covariance_of_mixture(parameters, matrices))
    # rounding can leave a matrix that is not positive definite, whose trace may be anything: the bound tells nothing
    narrow: NDArray[np.bool_] = ~((traces > 0.0) & (traces < 0.5 / NARROW))
    return narrow


def is_bounded_by_reg_covar(
    parameters: Parameters,
    matrices: Array,
    reg_covar: Array | float,
    chosen: NDArray[np.intp] | slice = slice(None),
) -> NDArray[np.bool_]:
    """Return which components have, in a direction in which the data vary, the variance that ``reg_covar`` added.

    Parameters
    ----------
    parameters : Parameters
    matrices : ndarray of shape (n_components, n_features, n_features)
        The components' covariances.
    reg_covar : float or ndarray of shape (n_features,)
    chosen : ndarray of int, or slice
        The components to check; all of them by default.

    Raises
    ------
    LinAlgError
        If the matrices are too close to singular.
    """
    d = parameters.means.shape[1]
    # in coordinates in which the data's covariance is the identity, variances are shares of the data's
    whiten = _whitening(_covariance_of_mixture(parameters, matrices))
    variances, vectors = np.linalg.eigh(whiten(matrices[chosen]))
    narrowest = vectors[:, :, 0]
    # v' R v: what reg_covar, a diagonal matrix R in the original coordinates, adds in the narrowest direction v
    added = whiten(np.diag(np.broadcast_to(np.asarray(reg_covar, dtype=np.float64), (d,)))[None])[0]
    bounded: NDArray[np.bool_] = variances[:, 0] <= BOUNDED * np.einsum("ka,ab,kb->k", narrowest, added, narrowest)
    return bounded & (variances[:, 0] < NARROW)


def slim_components(family: Family, parameters: Parameters, chosen: NDArray[np.intp]) -> list[int]:
    """Return those of the chosen components that are slimmer than the others and have to show that they gain."""
    try:
        slim = _slimness(parameters, family.full_covariances(parameters), chosen) < SLIM
    except np.linalg.LinAlgError:  # so close to singular that the check cannot be computed
        return []
    found: list[int] = chosen[slim].tolist()
    return found


def _slimness(parameters: Parameters, matrices: Array, chosen: NDArray[np.intp]) -> Array:
    """Return the chosen components' variances as shares of the median component's, in their narrowest directions."""
    # a direction is narrow relative to the others' widths: whitened by the mean within-component covariance, so that
    # the check does not depend on units, nor on how far the components are apart
    whitened = _whitening(np.tensordot(parameters.weights, matrices, axes=1))(matrices)
    variances, vectors = np.linalg.eigh(whitened[chosen])
    narrowest = vectors[:, :, 0]
    # v_k' S_j v_k: the variance of every component j in the narrowest direction of component k
    across = np.einsum("ka,jab,kb->kj", narrowest, whitened, narrowest)
    slimness: Array = variances[:, 0] / _weighted_medians(across, parameters.weights)
    return slimness


def _covariance_of_mixture(parameters: Parameters, matrices: Array) -> Array:
    """Return the whole mixture's covariance (n_features, n_features): within components, and between their means."""
    offsets = parameters.means - parameters.weights @ parameters.means
    within: Array = np.tensordot(parameters.weights, matrices, axes=1)
    return within + (offsets.T * parameters.weights) @ offsets


def _whitening(reference: Array) -> Callable[[Array], Array]:
    """Return the map of matrices (n, n_features, n_features) to coordinates in which the reference is the identity.

    With the Cholesky factor L of the reference, y = L^-1 x has the identity as its covariance, and a matrix A of x
    becomes L^-1 A L^-T.
    """
    inverse = np.linalg.inv(np.linalg.cholesky(reference))
    return lambda matrices: inverse @ matrices @ inverse.T


def _weighted_medians(values: Array, weights: Array) -> Array:
    """Return the weighted median of each line of values (n_lines, n_values)."""
    order = np.argsort(values, axis=1)
    shares = np.cumsum(weights[order], axis=1)
    middle = np.argmax(shares >= 0.5 * shares[:, -1:], axis=1)
    medians: Array = np.take_along_axis(values, np.take_along_axis(order, middle[:, None], axis=1), axis=1)[:, 0]
    return medians


# -- from the data -------------------------------------------------------------------------------------------------


def check_components(
    states: Sequence[State], evaluate: Evaluate, total_weight: float
) -> tuple[list[State], list[Totals]]:
    """Check slim components against the data: return the states, some of them now spurious, and all totals.

    Parameters
    ----------
    states : sequence of State
        All of them usable.
    evaluate : callable
        Gives the log-likelihoods of models over the rows that the states are fitted to, from one pass.
    total_weight : float
        Of these rows.

    Returns
    -------
    states : list of State
    totals : list of Totals
        Of the states' models, in the same order.
    """
    to_check = [(i, k) for i, state in enumerate(states) for k in _unproven_components(state, total_weight)]
    models = [state.model for state in states]
    # the mixtures without a component share the pass of the whole ones: the check costs no read of the data
    evaluated = evaluate([*models, *(_without(models[i], k) for i, k in to_check)])
    totals, reduced = evaluated[: len(states)], evaluated[len(states) :]
    checked = list(states)
    for (i, _), other in zip(to_check, reduced, strict=True):
        if totals[i].log_likelihood - other.log_likelihood < component_price(states[i], total_weight):
            checked[i] = replace(states[i], status=Status.SPURIOUS)
    return checked, totals


def _unproven_components(state: State, total_weight: float) -> list[int]:
    """Return the slim components of so few rows that they may gain less than their price."""
    family, parameters = state.model
    if state.n_components == 1 or not state.status.trusted:
        return []
    few = np.flatnonzero(parameters.weights * total_weight < ROWS_PER_PRICE * component_price(state, total_weight))
    return slim_components(family, parameters, few) if len(few) else []


def _without(model: Model, k: int) -> Model:
    family, parameters = model
    return family, family.without(parameters, k)


def component_price(state: State, total_weight: float) -> float:
    """Return what BIC charges for one component, in log-likelihood: (p_k - p_(k-1)) / 2 log n."""
    family, (k, d) = get_family(state.covariance_type), state.model[1].means.shape
    return 0.5 * (family.n_parameters(k, d) - family.n_parameters(k - 1, d)) * math.log(max(1.0, total_weight))
