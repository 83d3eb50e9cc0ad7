"""Spikes of chance: slim components that the mixture would lose next to nothing without.

Among enough rows some always lie in line, and a slim component that is laid over them raises the likelihood a little:
there are many such optima, and none describes the data. A group that is real pays for its own parameters, by what BIC
charges for them; how much a component pays is known from a mixture without it, over the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gmm_dask.em.loop import State
from gmm_dask.em.status import Status, slim_components
from gmm_dask.families import get_family
from gmm_dask.passes.model_batch import Model, Totals

Evaluate = Callable[[Sequence[Model]], list[Totals]]

# a slim component of more rows than so many times its price has paid: they gain more than a quarter each
ROWS_A_PRICE = 4.0


def verdicts_and_totals(
    states: Sequence[State], evaluate: Evaluate, total_weight: float
) -> tuple[list[State], list[Totals]]:
    """States, of which those with a spike of chance are now spurious, and the log-likelihoods of all, from one pass.

    Parameters
    ----------
    states : sequence of State
        All of them usable.
    evaluate : callable
        The log-likelihoods of models, over the rows that the states are fitted to, from one pass.
    total_weight : float
        Of these rows.
    """
    doubtful = [(i, k) for i, state in enumerate(states) for k in _doubtful(state, total_weight)]
    models = [state.model for state in states]
    found = evaluate([*models, *(_without(models[i], k) for i, k in doubtful)])
    totals, others = found[: len(states)], found[len(states) :]
    judged = list(states)
    for (i, _), without in zip(doubtful, others, strict=True):
        if totals[i].log_likelihood - without.log_likelihood < _price(states[i], total_weight):
            judged[i] = replace(states[i], status=Status.SPURIOUS)
    return judged, totals


def _doubtful(state: State, total_weight: float) -> list[int]:
    """Components that have to show that they pay."""
    family, parameters = state.model
    if state.n_components == 1 or not state.status.trusted:
        return []
    few = np.flatnonzero(parameters.weights * total_weight < ROWS_A_PRICE * _price(state, total_weight))
    return slim_components(family, parameters, few) if len(few) else []


def _without(model: Model, k: int) -> Model:
    family, parameters = model
    return family, family.without(parameters, k)


def _price(state: State, total_weight: float) -> float:
    """What BIC charges for a component, in log-likelihood."""
    family, (k, d) = get_family(state.covariance_type), state.model[1].means.shape
    return 0.5 * (family.n_parameters(k, d) - family.n_parameters(k - 1, d)) * math.log(max(1.0, total_weight))
