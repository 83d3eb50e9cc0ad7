"""How a fit stands, and whether its result describes the data or an accident of them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import SINGULAR_ADVICE, SINGULAR_CAUSE
from gmm_dask.families import Family, Parameters

Array = NDArray[np.float64]

# a component of one row, but for rounding, or of less
ONE_ROW = 1.0 + 1e-6
# weights that add up to less than this share of the rows hardly count rows
COUNTED = 0.05
# a component of fewer rows than this many times n_features + 1 may owe its shape to chance
FEW = 10.0
# a variance so much smaller than the others', in some direction, is out of proportion: 1/30 of their width
NARROW = 1e-3
# a variance of this many times reg_covar or less is reg_covar's work
HELD_OPEN = 2.0
# a component so much slimmer than the others has to show that it is no accident: a third of their width
SLIM = 0.1


class Status(StrEnum):
    """How a start of a candidate stands."""

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    SINGULAR = "singular"
    DEGENERATE = "degenerate"
    SPURIOUS = "spurious"
    FAILED = "failed"

    @property
    def cause(self) -> str:
        """What happened, in words."""
        return _WORDS[self][0]

    @property
    def advice(self) -> str:
        """What to do about it; empty if there is nothing to do."""
        return _WORDS[self][1]

    @property
    def remedy(self) -> str:
        """What happened, and what to do about it."""
        return f"{self.cause}. {self.advice}".strip()

    @property
    def usable(self) -> bool:
        """Whether parameters of this status have a density."""
        return self not in (Status.SINGULAR, Status.FAILED)

    @property
    def trusted(self) -> bool:
        """Whether parameters of this status may win: others do only where there are none."""
        return self in (Status.RUNNING, Status.CONVERGED, Status.MAX_ITER)


_WORDS = {
    Status.RUNNING: ("the fit was interrupted", "Run it again to go on."),
    Status.CONVERGED: ("the mean log-likelihood changed by less than tol", ""),
    Status.MAX_ITER: ("max_iter was reached before the change fell below tol", "Increase max_iter or tol."),
    Status.SINGULAR: (SINGULAR_CAUSE, SINGULAR_ADVICE),
    Status.DEGENERATE: (
        "a component holds one row or less (its weight is not above 1/n), so that it describes no group of rows",
        "Ask for fewer components, or bring more rows; weights, if there are any, count rows: they are to add up to "
        "about as many as there are.",
    ),
    Status.SPURIOUS: (
        "a component is a spike: in some direction it is far narrower than the others, as few rows that are equal or "
        "in line by chance or by rounding make it, and without it the rows would be described about as well, or its "
        "likelihood hangs on reg_covar",
        "Ask for fewer components, raise reg_covar to the square of the data's resolution, or take tied covariances.",
    ),
    Status.FAILED: (
        "there are fewer rows than components, or the numbers left the range of float64",
        "Ask for fewer components, or scale the data to standard deviations of about one.",
    ),
}


def weights_note(total_weight: float, n_rows: int) -> str:
    """What is to be said of weights that add up to far less than the number of rows; empty of others."""
    if total_weight >= COUNTED * n_rows:
        return ""
    return (
        f"The weights add up to {total_weight:.4g} for {n_rows:,} rows, and a weight counts as so many rows: criteria "
        "and statuses are those of so few. Multiply the weights, so that they add up to the number of rows, unless "
        "they do count rows."
    )


def judge(family: Family, parameters: Parameters, total_weight: float, reg_covar: Array | float) -> Status | None:
    """What speaks against the parameters that a fit has ended with: degenerate, spurious, or None.

    Spikes are local maxima that mean nothing (McLachlan and Peel 2000, "Finite mixture models", section 3.10). A
    component of few rows is taken for one if, in some direction, its variance is far below the median component's, or
    far below the data's and no more than what ``reg_covar`` added.
    """
    rows = parameters.weights * total_weight
    if rows.min() <= ONE_ROW:
        return Status.DEGENERATE
    few = np.flatnonzero(rows < FEW * (parameters.means.shape[1] + 1))
    if len(few) == 0:
        return None
    matrices = family.full_covariances(parameters)
    try:
        few = few[_may_be_narrow(parameters, matrices, few)]
        if len(few) == 0:
            return None
        narrow = _slimness(parameters, matrices, few) < NARROW
        spurious = narrow | is_held_open(parameters, matrices, reg_covar, few)
    except np.linalg.LinAlgError:  # so close to singular that nothing can be said
        return None
    return Status.SPURIOUS if spurious.any() else None


def _may_be_narrow(parameters: Parameters, matrices: Array, chosen: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of the chosen components may have a variance out of proportion; cheap, and certain of the others.

    ``tr(S_k^-1 S)``, with S the whole mixture's covariance, is at least the inverse of the component's smallest share
    of S in any direction. A median component's share there is at most 2, as shares of the components' mean, which is
    no more than S, average to one.
    """
    try:
        inverses = np.linalg.inv(matrices[chosen])
    except np.linalg.LinAlgError:
        return np.ones(len(chosen), dtype=bool)
    traces = np.einsum("kab,ab->k", inverses, _covariance(parameters, matrices))
    # a matrix that is not positive definite but for rounding has any trace
    narrow: NDArray[np.bool_] = ~((traces > 0.0) & (traces < 0.5 / NARROW))
    return narrow


def _covariance(parameters: Parameters, matrices: Array) -> Array:
    """The whole mixture's covariance (n_features, n_features), from its components' matrices."""
    offsets = parameters.means - parameters.weights @ parameters.means
    within: Array = np.tensordot(parameters.weights, matrices, axes=1)
    return within + (offsets.T * parameters.weights) @ offsets


def slim_components(family: Family, parameters: Parameters, chosen: NDArray[np.intp]) -> list[int]:
    """Those of the chosen components that are slimmer than the others, so that they may be accidents."""
    try:
        slim = _slimness(parameters, family.full_covariances(parameters), chosen) < SLIM
    except np.linalg.LinAlgError:  # so close to singular that nothing can be said
        return []
    found: list[int] = chosen[slim].tolist()
    return found


def _slimness(parameters: Parameters, matrices: Array, chosen: NDArray[np.intp]) -> Array:
    """Chosen components' variances as shares of the median component's, each in its own narrowest direction."""
    whitened = _whitener(np.tensordot(parameters.weights, matrices, axes=1))(matrices)
    variances, vectors = np.linalg.eigh(whitened[chosen])
    narrowest = vectors[:, :, 0]
    across = np.einsum("ka,jab,kb->kj", narrowest, whitened, narrowest)
    slimness: Array = variances[:, 0] / _weighted_medians(across, parameters.weights)
    return slimness


def is_held_open(
    parameters: Parameters,
    matrices: Array,
    reg_covar: Array | float,
    chosen: NDArray[np.intp] | slice = slice(None),
) -> NDArray[np.bool_]:
    """Which components have, in a direction in which the data vary, the variance that ``reg_covar`` gave them.

    Parameters
    ----------
    parameters : Parameters
    matrices : ndarray of shape (n_components, n_features, n_features)
        Their covariances.
    reg_covar : float or ndarray of shape (n_features,)
    chosen : ndarray of int, or slice
        The components that are asked about; all of them if it is left out.

    Raises
    ------
    LinAlgError
        If they are so close to singular that nothing can be said.
    """
    d = parameters.means.shape[1]
    whiten = _whitener(_covariance(parameters, matrices))
    variances, vectors = np.linalg.eigh(whiten(matrices[chosen]))
    narrowest = vectors[:, :, 0]
    added = whiten(np.diag(np.broadcast_to(np.asarray(reg_covar, dtype=np.float64), (d,)))[None])[0]
    held: NDArray[np.bool_] = variances[:, 0] <= HELD_OPEN * np.einsum("ka,ab,kb->k", narrowest, added, narrowest)
    return held & (variances[:, 0] < NARROW)


def _whitener(reference: Array) -> Callable[[Array], Array]:
    """Takes matrices (n, n_features, n_features) to the coordinates in which the reference is the identity."""
    inverse = np.linalg.inv(np.linalg.cholesky(reference))
    return lambda matrices: inverse @ matrices @ inverse.T


def _weighted_medians(values: Array, weights: Array) -> Array:
    """The weighted median of each line of values (n_lines, n_values)."""
    order = np.argsort(values, axis=1)
    shares = np.cumsum(weights[order], axis=1)
    middle = np.argmax(shares >= 0.5 * shares[:, -1:], axis=1)
    medians: Array = np.take_along_axis(values, np.take_along_axis(order, middle[:, None], axis=1), axis=1)[:, 0]
    return medians
