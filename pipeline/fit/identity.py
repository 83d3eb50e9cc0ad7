"""Components that keep their numbers: which of them are those of the job's last complete store.

A refit begins with the components of the last store, and keeps their numbers. After a search the components are
matched by the distances of the Gaussians. A number is given once: a component that is new has one that no earlier store
of the job had, and that of a component that is gone is not given again.
"""

from __future__ import annotations

import math

from gmm_dask.em.loop import State
from gmm_dask.errors import UserError
from gmm_dask.formatting import joined
from gmm_dask.matching import FARTHEST, ComponentMatching, describe_pairs, match_models
from gmm_dask.passes.contingency import contingency_table
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.rows import sampled_rows
from pipeline import store
from pipeline.sources.preparation import Preparation
from pipeline.sources.rows import source_sample
from pipeline.store import Identity, Result, StoredModel
from pipeline.store.attributes import ContinuedComponent
from pipeline.store.contents.models import by_weight, order_by_weight
from pipeline.store.units import in_common_units

Numbers = tuple[int, ...]


def identify(
    result: Result, state: State, earlier: str | None, preparation: Preparation, data_summary: DataSummary
) -> tuple[Identity, Numbers]:
    """Find which components of a chosen state are those of an earlier store.

    Parameters
    ----------
    result : Result
        The store of the run, which is not complete.
    state : State
        The best start of the chosen candidate.
    earlier : str or None
        Path of the job's last complete store. That of a refresh is the store which the refresh began with.
    preparation : Preparation
        Of the rows that were fitted.
    data_summary : DataSummary
        Of these rows.

    Returns
    -------
    identity : Identity
    numbers : tuple of int
        Of the components, the largest weight first.
    """
    if result.refresh is not None:
        earlier = result.refresh.previous
    if earlier is None:
        return _begin(result, state.n_components)
    try:
        before = store.open_result(earlier)
    except UserError as error:  # it was removed meanwhile, or is damaged
        return _begin(result, state.n_components, f"the components are numbered from 0 on: {error}")
    try:
        model = _require_columns(before, tuple(result.data["columns"]))
    except UserError as error:  # also of a damaged model, which --fresh replaces
        return _begin_anew(before, state.n_components, str(error))
    try:
        matching = _match(result, before, model, state, preparation, data_summary)
    except UserError as error:
        return _begin_anew(before, state.n_components, str(error))
    assert before.identity is not None
    numbers = matching.numbers(model.numbers, before.identity.next_number)
    return _continue(before.identity, before.store, model.numbers, matching, numbers), numbers


def _begin(result: Result, n_components: int, remark: str = "") -> tuple[Identity, Numbers]:
    """Begin a line of stores."""
    line = f"{result.store}, begun {result.started}"
    return Identity(line, n_components, remark=remark), tuple(range(n_components))


def _require_columns(before: Result, columns: tuple[str, ...]) -> StoredModel:
    """Return the earlier store's model, if it is of the same columns."""
    model = before.best_model
    if model.sources != columns:
        raise UserError(f"its columns are {', '.join(model.sources)}")
    return model


def _begin_anew(before: Result, n_components: int, reason: str) -> tuple[Identity, Numbers]:
    assert before.identity is not None
    first = before.identity.next_number
    numbers = tuple(range(first, first + n_components))
    remark = f"the components cannot be compared with those of {before.store}: {reason}"
    return Identity(before.identity.line, first + n_components, before.store, new=numbers, remark=remark), numbers


def _match(
    result: Result,
    before: Result,
    model: StoredModel,
    state: State,
    preparation: Preparation,
    data_summary: DataSummary,
) -> ComponentMatching:
    """Match the earlier model with the state, whose components are taken by weight, on the sample of its rows."""
    fitted = state.family, by_weight(state)
    transform = preparation.transform
    there, here, rows = in_common_units(model, fitted, transform, source_sample(data_summary, transform))
    table = contingency_table(sampled_rows(rows), there, here)
    is_refit = result.keeps_winner and state.candidate.name == before.best
    if is_refit:
        pairs = ((i, j) for j, i in enumerate(order_by_weight(state).tolist()))
        return describe_pairs(there, here, pairs, table)
    return match_models(there, here, table)


def _continue(before: Identity, path: str, known: Numbers, matching: ComponentMatching, numbers: Numbers) -> Identity:
    far = [str(known[pair.a]) for pair in matching.pairs if pair.distance > FARTHEST]
    return Identity(
        line=before.line,
        next_number=before.next_number + len(matching.only_b),
        earlier=path,
        continued=tuple(ContinuedComponent(known[pair.a], pair.distance, pair.overlap) for pair in matching.pairs),
        new=tuple(sorted(numbers[k] for k in matching.only_b)),
        gone=tuple(known[k] for k in matching.only_a),
        changed=None if math.isnan(matching.changed) else matching.changed,
        remark=f"far from where they were: {joined(far)}" if far else "",
    )


def continued_names(result: Result) -> dict[int, str]:
    """Return the names that continuing components have in the earlier store; if that is gone, those known by now."""
    identity = result.identity
    assert identity is not None
    if identity.earlier is None or not store.is_store(identity.earlier):
        return result.names
    continued = {one.number for one in identity.continued}
    names = store.open_result(identity.earlier).names
    return {number: name for number, name in names.items() if number in continued}
