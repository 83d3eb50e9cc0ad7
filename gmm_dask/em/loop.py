"""Expectation-maximisation as a value: states, one step, and a loop that is handed its passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gmm_dask.em.acceleration import Memory, Units, accelerated
from gmm_dask.em.status import Array, Status, judge
from gmm_dask.families import Parameters, Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.model_batch import Model

__all__ = [
    "Collect",
    "Settings",
    "State",
    "Status",
    "advance",
    "best_start",
    "replace_parameters",
    "run",
    "steps",
]

# lower bounds closer than this, relatively, differ by rounding alone
TIE = 1e-12


@dataclass(frozen=True)
class Settings:
    """When EM stops, and what it adds to the covariances' diagonals; scikit-learn's defaults.

    ``reg_covar`` is a number, or one for each feature. With ``units`` steps are accelerated.
    """

    tol: float = 1e-3
    max_iter: int = 100
    reg_covar: float | Array = 1e-6
    units: Units | None = None


@dataclass(frozen=True, eq=False)
class State:
    """One start of one candidate.

    Attributes
    ----------
    candidate : Candidate
    start : int
        Number of the start, from 0.
    parameters : Parameters or None
        The newest parameters; those of the last good step if a step was singular, None if the start itself was.
    lower_bounds : tuple of float
        Mean log-likelihood a row before each M-step, but for those that were given up.
    status : Status
    prior_bound : float
        Lower bound that the first iteration is compared with; finite after a warm start.
    converged : bool
        Whether the lower bound stood still in the end, whatever is to be said of the parameters.
    falls : int
        Passes at extrapolated parameters that were given up, because the likelihood fell there.
    extrapolations : int
        Passes at extrapolated parameters, those that were given up among them.
    sample_iter : int
        Iterations over a sample in memory, before the first pass over all rows.
    memory : Memory or None
        What an accelerated fit remembers; None when it has ended.
    """

    candidate: Candidate
    start: int
    parameters: Parameters | None
    lower_bounds: tuple[float, ...] = ()
    status: Status = Status.RUNNING
    prior_bound: float = -math.inf
    converged: bool = False
    falls: int = 0
    extrapolations: int = 0
    sample_iter: int = 0
    memory: Memory | None = None

    @property
    def covariance_type(self) -> str:
        """That of the candidate."""
        return self.candidate.covariance_type

    @property
    def n_components(self) -> int:
        """That of the candidate."""
        return self.candidate.n_components

    @property
    def n_iter(self) -> int:
        """Iterations done: each took a pass."""
        return len(self.lower_bounds) + self.falls

    @property
    def lower_bound(self) -> float:
        """The last lower bound; minus infinity before the first iteration."""
        return self.lower_bounds[-1] if self.lower_bounds else -math.inf

    @property
    def is_extrapolated(self) -> bool:
        """Whether the parameters come from acceleration, not from an M-step."""
        return self.memory is not None and self.memory.plain is not None

    @property
    def usable(self) -> bool:
        """Whether it ends with parameters that describe the data."""
        return self.parameters is not None and self.status.usable

    @property
    def model(self) -> Model:
        """Family and parameters, for a pass."""
        assert self.parameters is not None
        return get_family(self.covariance_type), self.parameters


Collect = Callable[[Sequence[Model]], list[Statistics]]


def steps(
    states: Sequence[State], statistics: Sequence[Statistics], total_weight: float, settings: Settings
) -> list[State]:
    """One M-step of each state, and the decision whether to go on."""
    bounds = [one.log_likelihood / total_weight for one in statistics]
    images: dict[int, Parameters | None] = {}
    for name in dict.fromkeys(state.covariance_type for state in states):
        # all of a type at once: for small mixtures a call takes longer than what it computes
        mine = [i for i, s in enumerate(states) if s.covariance_type == name and math.isfinite(bounds[i])]
        if mine:
            found = get_family(name).maximise_all([statistics[i] for i in mine], settings.reg_covar)
            images.update(zip(mine, found, strict=True))
    return [_step(s, bounds[i], images.get(i), total_weight, settings) for i, s in enumerate(states)]


def _step(state: State, bound: float, image: Parameters | None, total_weight: float, settings: Settings) -> State:
    """The state after a pass; a singular covariance, where there is no ``image``, is a status, not an exception."""
    state = replace(state, extrapolations=state.extrapolations + 1) if state.is_extrapolated else state
    if state.is_extrapolated and (image is None or bound < state.lower_bound):
        return _fall_back(state, total_weight, settings)
    if image is None:
        kept = None if state.parameters is None else state.parameters.alone()
        return replace(state, parameters=kept, status=Status.FAILED if math.isnan(bound) else Status.SINGULAR)
    previous = state.lower_bounds[-1] if state.lower_bounds else state.prior_bound
    after = replace(state, parameters=image, lower_bounds=(*state.lower_bounds, bound), memory=None)
    if abs(bound - previous) < settings.tol and not state.is_extrapolated:
        return _stop(after, Status.CONVERGED, total_weight, settings)
    if after.n_iter >= settings.max_iter:
        return _stop(after, Status.MAX_ITER, total_weight, settings)
    return _accelerate(state, after, bound - previous, settings)


def _fall_back(state: State, total_weight: float, settings: Settings) -> State:
    """Go on from the plain step that an extrapolation replaced: the likelihood fell, or there was none."""
    assert state.memory is not None
    after = replace(state, parameters=state.memory.plain, memory=None, falls=state.falls + 1)
    return after if after.n_iter < settings.max_iter else _stop(after, Status.MAX_ITER, total_weight, settings)


def _accelerate(before: State, after: State, change: float, settings: Settings) -> State:
    """Extrapolate where that is wanted; a small change after an extrapolation is first confirmed by a plain step."""
    if settings.units is None:
        return after
    assert before.parameters is not None
    assert after.parameters is not None
    family, image = get_family(after.covariance_type), after.parameters
    parameters, memory = accelerated(family, before.memory, before.parameters, image, change, settings.units)
    if memory is not None and change < settings.tol:
        return replace(after, memory=replace(memory, plain=None))
    return replace(after, parameters=parameters, memory=memory)


def _stop(state: State, status: Status, total_weight: float, settings: Settings) -> State:
    """The state at its end, with what is to be said of its parameters."""
    assert state.parameters is not None
    verdict = judge(get_family(state.covariance_type), state.parameters, total_weight, settings.reg_covar)
    converged = status is Status.CONVERGED
    return replace(state, parameters=state.parameters.alone(), status=verdict or status, converged=converged)


def advance(states: Sequence[State], collect: Collect, total_weight: float, settings: Settings) -> list[State]:
    """One pass: every running state takes one step from the same read of the data."""
    running = [i for i, state in enumerate(states) if state.status is Status.RUNNING]
    found = collect([states[i].model for i in running])
    after = list(states)
    for i, state in zip(running, steps([states[i] for i in running], found, total_weight, settings), strict=True):
        after[i] = state
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


def best_start(states: Sequence[State], *, trusted: bool = False) -> State | None:
    """The start with the largest lower bound, the earliest among equals; None if none is usable.

    ``trusted`` passes over those whose status is not, as long as there are others.

    Bounds that differ by rounding alone are equal, so that the choice does not depend on the chunks. Without
    iterations the last start is taken, as in scikit-learn.
    """
    usable = [state for state in states if state.usable]
    if trusted:
        usable = [state for state in usable if state.status.trusted] or usable
    if not usable or not usable[0].lower_bounds:
        return usable[-1] if usable else None
    top = max(state.lower_bound for state in usable)
    return next(state for state in usable if state.lower_bound >= top - TIE * max(1.0, abs(top)))
