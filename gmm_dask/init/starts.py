"""The registry of starts: each is one value, from which everything that names them derives.

To add a start, add a value here. The estimators' ``init_params``, the job's config, its documentation and the checks of
both follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.inference import MAXIMUM_LIKELIHOOD, Inference
from gmm_dask.em.loop import Settings, State, Status
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.auto import Report, search_states
from gmm_dask.init.completion import with_complete_sample
from gmm_dask.init.noise import states_beside_noise
from gmm_dask.init.rare import OpenRows
from gmm_dask.init.responsibilities import kmeans, kmeans_plus_plus, random_from_data, random_shares, start_states
from gmm_dask.passes.data_summary import DataSummary

RandomState = Callable[[], np.random.RandomState]
RegCovar = float | NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """A way to find the first parameters of a fit.

    Attributes
    ----------
    name : str
        The value of ``init_params``.
    description : str
        What it does, for the documentation: a sentence without a full stop.
    states : callable
        Makes the first states of candidates, candidate by candidate and start by start; the arguments are those of
        :func:`first_states`, ``effort``, ``report`` and ``rows`` for a search alone, ``inference`` for the others.
        No candidate has more components than there are rows in the sample.
    is_search : bool
        Whether it compares many fits over a subsample in memory. Such a start takes more memory and time, and passes
        over fits whose status is not trusted.
    """

    name: str
    description: str
    states: Callable[..., list[State]]
    is_search: bool = False


_STARTS = (
    Start("kmeans", "each row belongs to its k-means cluster", partial(start_states, kmeans)),
    Start("k-means++", "each component is one row, far from the others", partial(start_states, kmeans_plus_plus)),
    Start("random", "each row belongs to all components, in random shares", partial(start_states, random_shares)),
    Start("random_from_data", "each component is one row, drawn at random", partial(start_states, random_from_data)),
    Start("auto", "the best of many short runs on a subsample in memory", search_states, is_search=True),
)
STARTS = {start.name: start for start in _STARTS}
INIT_PARAMS = tuple(STARTS)


def first_states(
    candidates: Sequence[Candidate],
    data_summary: DataSummary,
    *,
    init_params: str,
    n_init: int,
    random_state: RandomState,
    reg_covar: RegCovar,
    inference: Inference = MAXIMUM_LIKELIHOOD,
    effort: float = 1.0,
    report: Report = lambda text: None,
    rows: OpenRows | None = None,
    noise_log_volume: float | None = None,
) -> list[State]:
    """Return the first states of all candidates, each with ``n_init`` starts.

    Parameters
    ----------
    candidates : sequence of Candidate
    data_summary : DataSummary
        Of the rows, with the sample of them that starts are made from.
    init_params : str
        A name of :data:`STARTS`.
    n_init : int
    random_state : callable
        Gives the generator that starts are drawn from, an equal one with each call.
    reg_covar : float or ndarray of shape (n_features,)
    inference : Inference
        That of the fits. The states of a search are those of maximum likelihood, whatever it is.
    effort : float
        How many times its usual work a search may do; 1 for other starts.
    report : callable
        Is told in words what a search is doing.
    rows : callable
        Opens all rows, for each pass of a search over them. Without it the sample is all of them.
    noise_log_volume : float
        Of the box that noise is uniform in, for candidates with noise.

    Returns
    -------
    states : list of State
        Candidate by candidate, start by start. Those of a candidate with more components than there are rows have
        failed.

    """
    start = STARTS[init_params]
    if data_summary.gaps is not None:
        data_summary = with_complete_sample(data_summary, candidates, reg_covar)
    options: dict[str, Any] = {"effort": effort, "report": report} if start.is_search else {"inference": inference}

    def states_of(some: Sequence[Candidate], summary: DataSummary, **more: Any) -> list[State]:
        possible = [candidate for candidate in some if candidate.n_components <= len(summary.sample)]
        made = start.states(possible, summary, n_init, random_state, reg_covar, **options, **more) if possible else []
        states = iter(made)
        return [
            next(states) if candidate in possible else State(candidate, number, None, status=Status.FAILED)
            for candidate in some
            for number in range(n_init)
        ]

    # those with noise take part without it: both forms of a candidate share the search
    twins = list(dict.fromkeys(candidate._replace(noise=False) for candidate in candidates))
    plain = states_of(twins, data_summary, **({"rows": rows} if start.is_search else {}))
    found = [state for state in plain if state.candidate in candidates]
    if noisy := [candidate for candidate in candidates if candidate.noise]:
        assert noise_log_volume is not None
        theirs = [state for state in plain if state.candidate._replace(noise=True) in noisy]
        settings = Settings(reg_covar=reg_covar, inference=inference)
        found += states_beside_noise(noisy, theirs, data_summary, noise_log_volume, settings, states_of)
    return sorted(found, key=lambda state: candidates.index(state.candidate))


def require_search(init_params: str, effort: float) -> None:
    """Raise :class:`UserError` if another effort than the usual one is asked for of a start that is no search."""
    if effort != 1.0 and not STARTS[init_params].is_search:
        raise UserError(
            f"start_effort={effort:g} is of no effect with init_params={init_params!r}: it is how long a search for "
            "starts may take, that of init_params='auto'. Leave start_effort at 1, or take 'auto'."
        )


def require_rows(n_rows: int, n_components: int) -> None:
    """Raise :class:`UserError` if there are fewer rows than components."""
    if n_rows < n_components:
        raise UserError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, n_samples = {n_rows}: "
            "ask for fewer components or bring more rows."
        )
