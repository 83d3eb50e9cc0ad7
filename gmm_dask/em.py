"""Expectation-maximisation as a value: states, one step, and a loop that is handed its passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gmm_dask.errors import SINGULAR_REMEDY, SingularError
from gmm_dask.families import Parameters, Statistics, get_family
from gmm_dask.stack import Model

# lower bounds closer than this, relatively, differ by rounding alone
TIE = 1e-12


class Status(StrEnum):
    """How a start of a candidate stands."""

    RUNNING = "running"
    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    SINGULAR = "singular"

    @property
    def remedy(self) -> str:
        """What it means, and what to do about it."""
        return {
            Status.RUNNING: "the fit was interrupted; run it again to go on.",
            Status.CONVERGED: "the mean log-likelihood changed by less than tol.",
            Status.MAX_ITER: "max_iter was reached before the change fell below tol; increase max_iter or tol.",
            Status.SINGULAR: SINGULAR_REMEDY,
        }[self]


@dataclass(frozen=True)
class Settings:
    """When EM stops, and what it adds to the covariances' diagonals; scikit-learn's defaults."""

    tol: float = 1e-3
    max_iter: int = 100
    reg_covar: float = 1e-6


@dataclass(frozen=True, eq=False)
class State:
    """One start of one candidate.

    Attributes
    ----------
    covariance_type : str
    n_components : int
    start : int
        Number of the start, from 0.
    parameters : Parameters or None
        The newest parameters; those of the last good step if a step was singular, None if the start itself was.
    lower_bounds : tuple of float
        Mean log-likelihood a row before each M-step.
    status : Status
    prior_bound : float
        Lower bound that the first iteration is compared with; finite after a warm start.
    """

    covariance_type: str
    n_components: int
    start: int
    parameters: Parameters | None
    lower_bounds: tuple[float, ...] = ()
    status: Status = Status.RUNNING
    prior_bound: float = -math.inf

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.lower_bounds)

    @property
    def lower_bound(self) -> float:
        """The last lower bound; minus infinity before the first iteration."""
        return self.lower_bounds[-1] if self.lower_bounds else -math.inf

    @property
    def usable(self) -> bool:
        """Whether it ends with parameters that describe the data."""
        return self.parameters is not None and self.status is not Status.SINGULAR

    @property
    def model(self) -> Model:
        """Family and parameters, for a pass."""
        assert self.parameters is not None
        return get_family(self.covariance_type), self.parameters


Collect = Callable[[Sequence[Model]], list[Statistics]]


def step(state: State, statistics: Statistics, total_weight: float, settings: Settings) -> State:
    """One M-step, and the decision whether to go on; a singular covariance is a status, not an exception."""
    bound = statistics.log_likelihood / total_weight
    previous = state.lower_bounds[-1] if state.lower_bounds else state.prior_bound
    if not math.isfinite(bound):
        return replace(state, status=Status.SINGULAR)
    try:
        parameters = get_family(state.covariance_type).maximise(statistics, settings.reg_covar)
    except SingularError:
        return replace(state, status=Status.SINGULAR)
    bounds = (*state.lower_bounds, bound)
    status = _next_status(abs(bound - previous), len(bounds), settings)
    return replace(state, parameters=parameters, lower_bounds=bounds, status=status)


def _next_status(change: float, n_iter: int, settings: Settings) -> Status:
    if change < settings.tol:
        return Status.CONVERGED
    return Status.MAX_ITER if n_iter >= settings.max_iter else Status.RUNNING


def advance(states: Sequence[State], collect: Collect, total_weight: float, settings: Settings) -> list[State]:
    """One pass: every running state takes one step from the same read of the data."""
    running = [i for i, state in enumerate(states) if state.status is Status.RUNNING]
    found = collect([states[i].model for i in running])
    after = list(states)
    for i, statistics in zip(running, found, strict=True):
        after[i] = step(states[i], statistics, total_weight, settings)
    return after


def run(
    states: Sequence[State],
    collect: Collect,
    total_weight: float,
    settings: Settings,
    on_pass: Callable[[list[State]], None] = lambda states: None,
) -> list[State]:
    """Advance until no state is running; ``on_pass`` sees the states after each pass."""
    states = list(states)
    if settings.max_iter == 0:
        return [replace(s, status=Status.MAX_ITER) if s.status is Status.RUNNING else s for s in states]
    while any(state.status is Status.RUNNING for state in states):
        states = advance(states, collect, total_weight, settings)
        on_pass(states)
    return states


def replace_parameters(state: State, change: Callable[[Parameters], Parameters]) -> State:
    """The state with changed parameters; a singular one stays as it is."""
    return state if state.parameters is None else replace(state, parameters=change(state.parameters))


def best_start(states: Sequence[State]) -> State | None:
    """The start with the largest lower bound, the earliest among equals; None if none is usable.

    Bounds that differ by rounding alone are equal, so that the choice does not depend on the chunks. Without
    iterations the last start is taken, as in scikit-learn.
    """
    usable = [state for state in states if state.usable]
    if not usable or not usable[0].lower_bounds:
        return usable[-1] if usable else None
    top = max(state.lower_bound for state in usable)
    return next(state for state in usable if state.lower_bound >= top - TIE * max(1.0, abs(top)))
