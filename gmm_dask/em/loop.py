"""Expectation-maximisation as a value: a state, one step, and a loop that is handed its passes.

Many states run side by side. A pass gives the sufficient statistics of all that are running, from one read of the data
(the E-step, whoever computes it: a :data:`Collect`); :func:`steps` turns them into the next states (the M-step, and the
decision whether a state has ended). Nothing here knows where the data are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.acceleration import FeatureScale, History, extrapolate
from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.status import Status
from gmm_dask.families import Family, Parameters, Posterior, Statistics, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.noise import family_of
from gmm_dask.passes.bounding_box import Box
from gmm_dask.passes.model_batch import Model

__all__ = ["Collect", "Settings", "State", "Status", "best_start", "run", "run_pass", "steps"]

Array = NDArray[np.float64]

# lower bounds closer than this, relatively, differ by rounding alone: which chunks were merged must not decide
TIE = 1e-12


@dataclass(frozen=True)
class Settings:
    """When a fit stops, and how its parameters are estimated; the defaults are scikit-learn's.

    Attributes
    ----------
    tol : float
        A fit has converged when the bound per row, the mean log-likelihood of EM, changes by less.
    max_iter : int
    reg_covar : float or ndarray of shape (n_features,)
    acceleration : FeatureScale or None
        The scale in which parameters are extrapolated; None for plain EM.
    inference : Inference
    noise : Box or None
        What the noise is uniform in, of candidates that have it.
    """

    tol: float = 1e-3
    max_iter: int = 100
    reg_covar: float | Array = 1e-6
    acceleration: FeatureScale | None = None
    inference: Inference = MAXIMUM_LIKELIHOOD
    noise: Box | None = None


@dataclass(frozen=True, eq=False)
class State:
    """One start of one candidate.

    Attributes
    ----------
    candidate : Candidate
    start : int
        Number of the start, from 0.
    parameters : Parameters, Posterior or None
        The newest parameters; those of the last good step if a step was singular, None if the start itself was.
    lower_bounds : tuple of float
        The bound per row of each iteration, without the rejected extrapolations: by maximum likelihood the mean
        log-likelihood before each M-step.
    status : Status
    prior_bound : float
        Lower bound that the first iteration is compared with; finite after a warm start.
    converged : bool
        Whether the change of the lower bound fell below ``tol``, whatever the status of the parameters.
    falls : int
        Passes at extrapolated parameters that were rejected, because the likelihood fell there.
    extrapolations : int
        Passes at extrapolated parameters, the rejected ones included.
    sample_iter : int
        Iterations on a subsample in memory, before the first pass over all rows.
    history : History or None
        The last steps of an accelerated fit; None when it has ended.
    """

    candidate: Candidate
    start: int
    parameters: Parameters | Posterior | None
    lower_bounds: tuple[float, ...] = ()
    status: Status = Status.RUNNING
    prior_bound: float = -math.inf
    converged: bool = False
    falls: int = 0
    extrapolations: int = 0
    sample_iter: int = 0
    history: History | None = None

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
        """The number of iterations, each of which took a pass."""
        return len(self.lower_bounds) + self.falls

    @property
    def lower_bound(self) -> float:
        """The last lower bound; minus infinity before the first iteration."""
        return self.lower_bounds[-1] if self.lower_bounds else -math.inf

    @property
    def is_extrapolated(self) -> bool:
        """Whether the parameters are extrapolated, not those of an M-step."""
        return self.history is not None and self.history.plain is not None

    @property
    def usable(self) -> bool:
        """Whether there are parameters, and they have a density."""
        return self.parameters is not None and self.status.usable

    @property
    def family(self) -> Family:
        """The covariance family, beside noise where the parameters have it."""
        kind = self.covariance_type
        return get_family(kind) if self.parameters is None else family_of(kind, self.parameters)

    @property
    def model(self) -> Model:
        """Family and parameters, for a pass."""
        assert self.parameters is not None
        return self.family, self.parameters


Collect = Callable[[Sequence[Model]], list[Statistics]]


def run(
    states: Sequence[State],
    collect: Collect,
    total_weight: float,
    settings: Settings,
    on_pass: Callable[[list[State]], None] = lambda states: None,
) -> list[State]:
    """Run passes until no state is running; ``on_pass`` gets the states after each of them."""
    states = list(states)
    if settings.max_iter == 0:
        return [replace(s, status=Status.MAX_ITER) if s.status is Status.RUNNING else s for s in states]
    while any(state.status is Status.RUNNING for state in states):
        states = run_pass(states, collect, total_weight, settings)
        on_pass(states)
    return states


def run_pass(states: Sequence[State], collect: Collect, total_weight: float, settings: Settings) -> list[State]:
    """Let every running state take one step, all from the same read of the data."""
    running = [i for i, state in enumerate(states) if state.status is Status.RUNNING]
    statistics = collect([states[i].model for i in running])
    after = list(states)
    for i, state in zip(running, steps([states[i] for i in running], statistics, total_weight, settings), strict=True):
        after[i] = state
    return after


def steps(
    states: Sequence[State], statistics: Sequence[Statistics], total_weight: float, settings: Settings
) -> list[State]:
    """Let each state take one step, given the statistics at its parameters."""
    maximised: dict[int, Parameters | None] = {}
    families = [state.family for state in states]
    for family in dict.fromkeys(families):
        # all of a type at once: for small mixtures a call takes longer than what it computes
        mine = [i for i, own in enumerate(families) if own is family and math.isfinite(statistics[i].log_likelihood)]
        if mine:
            chosen = [statistics[i] for i in mine]
            previous = [states[i].parameters for i in mine]
            gaussians = settings.inference.maximise_all(family.gaussians, chosen, settings.reg_covar, previous)
            found = [one and family.beside_noise(one, sums) for one, sums in zip(gaussians, chosen, strict=True)]
            maximised.update(zip(mine, found, strict=True))
    return [
        _step(s, one, maximised.get(i), total_weight, settings)
        for i, (s, one) in enumerate(zip(states, statistics, strict=True))
    ]


def _step(
    state: State, statistics: Statistics, image: Parameters | None, total_weight: float, settings: Settings
) -> State:
    """Return the state after a pass.

    ``statistics`` are those at its parameters, ``image`` what the M-step makes of them: None where a covariance is
    singular, which is a status, not an exception.
    """
    bound = _bound(state, statistics, image, settings.inference) / total_weight
    state = replace(state, extrapolations=state.extrapolations + 1) if state.is_extrapolated else state
    if state.is_extrapolated and (image is None or bound < state.lower_bound):
        return _reject_extrapolation(state, total_weight, settings)
    if image is None:
        # alone(): the parameters may be views of arrays of a whole batch, which must not stay in memory with them
        last = None if state.parameters is None else state.parameters.alone()
        return replace(state, parameters=last, status=Status.FAILED if math.isnan(bound) else Status.SINGULAR)
    previous = state.lower_bounds[-1] if state.lower_bounds else state.prior_bound
    after = replace(state, parameters=image, lower_bounds=(*state.lower_bounds, bound), history=None)
    # as in scikit-learn, the bound is that of the parameters before the M-step: the last M-step is not evaluated. An
    # extrapolation may have made the change small by accident, so only a plain step decides
    if abs(bound - previous) < settings.tol and not state.is_extrapolated:
        status = Status.CONVERGED if image.is_settled else Status.INNER_MAX_ITER
        return end(after, status, total_weight, settings)
    if after.n_iter >= settings.max_iter:
        return end(after, Status.MAX_ITER, total_weight, settings)
    return _accelerate(state, after, bound - previous, settings)


def _bound(state: State, statistics: Statistics, image: Parameters | None, inference: Inference) -> float:
    """Return the bound of a step; NaN if no log-likelihood could be computed."""
    if image is None:
        return statistics.log_likelihood
    family, before = state.model
    return inference.bound(family, statistics, before, image)


def _reject_extrapolation(state: State, total_weight: float, settings: Settings) -> State:
    """Resume from the plain step that the extrapolation replaced: EM's likelihood never falls."""
    assert state.history is not None
    after = replace(state, parameters=state.history.plain, history=None, falls=state.falls + 1)
    return after if after.n_iter < settings.max_iter else end(after, Status.MAX_ITER, total_weight, settings)


def _accelerate(before: State, after: State, change: float, settings: Settings) -> State:
    """Replace the parameters of a plain step by extrapolated ones, where the settings ask for it."""
    if settings.acceleration is None:
        return after
    assert before.parameters is not None
    assert after.parameters is not None
    family, image = after.family, after.parameters
    parameters, history = extrapolate(family, before.history, before.parameters, image, change, settings.acceleration)
    # a change below tol at an extrapolated point is confirmed by a plain step before the fit counts as converged
    if history is not None and change < settings.tol:
        return replace(after, history=replace(history, plain=None))
    return replace(after, parameters=settings.inference.restored(parameters), history=history)


def end(state: State, status: Status, total_weight: float, settings: Settings) -> State:
    """Return the state at its end: degenerate or spurious parameters count more than how EM stopped."""
    assert state.parameters is not None
    objection = settings.inference.objection(*state.model, total_weight, settings.reg_covar)
    converged = status is not Status.MAX_ITER
    return replace(state, parameters=state.parameters.alone(), status=objection or status, converged=converged)


def best_start(states: Sequence[State], *, trusted: bool = False) -> State | None:
    """Return the start with the largest lower bound, the earliest among equals; None if none is usable.

    ``trusted`` leaves out those whose status is not trusted, as long as there are others. Without iterations the last
    start is taken, as in scikit-learn.
    """
    usable = [state for state in states if state.usable]
    if trusted:
        usable = [state for state in usable if state.status.trusted] or usable
    if not usable or not usable[0].lower_bounds:
        return usable[-1] if usable else None
    top = max(state.lower_bound for state in usable)
    return next(state for state in usable if state.lower_bound >= top - TIE * max(1.0, abs(top)))
