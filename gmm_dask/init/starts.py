"""The registry of starts: each is one value, from which everything that names them derives.

To add a start, add a value here. The estimators' ``init_params``, the job's config, its documentation and the checks of
both follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.auto import Report, search_states
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
        :func:`first_states`, ``effort``, ``report`` and ``rows`` for a search alone. No candidate has more components
        than there are rows in the sample.
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
    effort: float = 1.0,
    report: Report = lambda text: None,
    rows: OpenRows | None = None,
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
    effort : float
        How many times its usual work a search may do; 1 for other starts.
    report : callable
        Is told in words what a search is doing.
    rows : callable
        Opens all rows, for each pass of a search over them. Without it the sample is all of them.

    Returns
    -------
    states : list of State
        Candidate by candidate, start by start. Those of a candidate with more components than there are rows have
        failed.

    Raises
    ------
    UserError
        If another effort is asked for of a start that is no search.
    """
    start = STARTS[init_params]
    if effort != 1.0 and not start.is_search:
        raise UserError(
            f"start_effort={effort:g} is of no effect with init_params={init_params!r}: it is how long a search for "
            "starts may take, that of init_params='auto'. Leave start_effort at 1, or take 'auto'."
        )
    possible = [candidate for candidate in candidates if candidate.n_components <= len(data_summary.sample)]
    options = {"effort": effort, "report": report, "rows": rows} if start.is_search else {}
    states = start.states(possible, data_summary, n_init, random_state, reg_covar, **options) if possible else []
    found = iter(states)
    return [
        next(found) if candidate in possible else State(candidate, start, None, status=Status.FAILED)
        for candidate in candidates
        for start in range(n_init)
    ]


def require_rows(n_rows: int, n_components: int) -> None:
    """Raise :class:`UserError` if there are fewer rows than components."""
    if n_rows < n_components:
        raise UserError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, n_samples = {n_rows}: "
            "ask for fewer components or bring more rows."
        )
