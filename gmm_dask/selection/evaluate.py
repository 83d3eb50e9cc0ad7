"""A sweep: many candidates over the same reads of the data."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from gmm_dask.em.loop import State
from gmm_dask.em.spurious import check_components
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import Rows, collect_totals
from gmm_dask.selection import criteria
from gmm_dask.selection.criteria import Outcome


def check_candidates(n_components: int | Iterable[int], covariance_types: str | Iterable[str]) -> list[Candidate]:
    """All pairs of covariance type and number of components, without repeats; raises :class:`UserError`."""
    ks = list(dict.fromkeys(n_components if isinstance(n_components, Iterable) else [n_components]))
    bad = [k for k in ks if not isinstance(k, Integral) or k < 1]
    if bad or not ks:
        raise UserError(f"n_components must hold integers of at least 1; got {bad or 'none'}.")
    names = [covariance_types] if isinstance(covariance_types, str) else covariance_types
    types = list(dict.fromkeys(get_family(name).name for name in names))
    if not types:
        raise UserError(f"covariance_types must name at least one of {', '.join(FAMILIES)}.")
    return [Candidate(name, int(k)) for name, k in itertools.product(types, ks)]


def generator_copies(random_state: Any) -> Callable[[], np.random.RandomState]:
    """A source of equal generators: every candidate draws the same numbers, whatever else is in the search."""
    if random_state is None:  # NumPy's global generator must move on, or every search would draw the same
        random_state = check_random_state(None).randint(2**31 - 1)
    original = copy.deepcopy(check_random_state(random_state))
    return lambda: copy.deepcopy(original)


def evaluate_states(rows: Rows, data_summary: DataSummary, states: Sequence[State]) -> list[Outcome]:
    """The closing pass: criteria of the final parameters of all states, from one read of the data.

    The log-likelihoods are of the rows before they were scaled.
    """
    usable = [state for state in states if state.usable]
    weight, held_out = (
        data_summary.total_weight,
        data_summary.held_out.total_weight if data_summary.held_out else math.nan,
    )
    judged, every = (
        check_components(usable, partial(collect_totals, rows, data_summary), weight) if usable else ([], [])
    )
    scaling = weight * data_summary.log_scale, held_out * data_summary.log_scale
    found = iter(
        (state, each._replace(log_likelihood=each.log_likelihood - scaling[0], held_out=each.held_out - scaling[1]))
        for state, each in zip(judged, every, strict=True)
    )
    pairs = [next(found) if state.usable else (state, None) for state in states]
    return [criteria.evaluate(state, rows.n_features, totals, weight, held_out) for state, totals in pairs]
