"""Two result stores compared: their candidates, their chosen models, and which component is which."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.matching import (
    ComponentMatching,
    bhattacharyya_distances,
    describe_known,
    match_models,
    match_overlaps,
)
from gmm_dask.passes.contingency import contingency_table, count_pairs
from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.row_outputs import LABEL
from gmm_dask.passes.rows import sampled_rows
from pipeline.store import Result, StoredModel, of_group, open_result, place_of
from pipeline.store.contents.criteria import names_of
from pipeline.store.places import StorePath
from pipeline.store.units import carried, in_common_units

Array = NDArray[np.float64]

# how the components of two stores are paired
BY_NUMBER = "their numbers, which one line of stores gave them"
BY_ROWS = "the rows that they share: both stores are of the same rows"
BY_DISTANCE = "the distances of their Gaussians"


@dataclass(frozen=True)
class ComponentDifference:
    """A component of one store, of the other, or of both.

    Attributes
    ----------
    a, b : int or None
        Its number in each store; None in one that does not have it.
    name : str or None
        Its name in ``b``, or else in ``a``.
    weight_a, weight_b : float or None
    distance : float or None
        Bhattacharyya distance of the two Gaussians, 0 if they are equal; None if only one store has it, or if the
        transform of one store drops or clips what that of the other keeps.
    overlap : float or None
        Of the rows of ``b``'s sample that either model labels so, the share that both do.
    """

    a: int | None
    b: int | None
    name: str | None
    weight_a: float | None
    weight_b: float | None
    distance: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class CandidateDifference:
    """A candidate's criterion in each store; None where it is not known."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True, eq=False)
class StoreDifference:
    """What differs between two complete stores.

    Attributes
    ----------
    a, b : Result
    criterion : str
        Of ``b``, by which the candidates are compared.
    candidates : tuple of CandidateDifference
        All of either store, the best of ``b`` first.
    components : tuple of ComponentDifference
        Those that both have, then those of ``a`` alone, then those of ``b`` alone.
    matched_by : str or None
        How the components were paired; None if nothing tells which is which, as they are of other rows and of what
        other transforms leave.
    agreement : float
        Share of the rows of ``b``'s sample that the two models give the same component; NaN if these are not paired.
    same_rows : bool
        Whether both stores are of the same rows. Criteria cannot be compared unless they are.
    same_densities : bool
        Whether the densities of both are of the same values. They are not if one transform drops dimensions or clips
        values, and the other does not do the same; criteria cannot be compared then.
    """

    a: Result
    b: Result
    criterion: str
    candidates: tuple[CandidateDifference, ...]
    components: tuple[ComponentDifference, ...]
    matched_by: str | None
    agreement: float
    same_rows: bool
    same_densities: bool


def compare_stores(a: StorePath, b: StorePath, group: str | None = None) -> StoreDifference:
    """Compare two complete stores of the same columns; the labels of both models are compared on ``b``'s sample.

    Of stores with a search for each group (``data.by``), ``group`` is the value of the one that is compared.

    Raises
    ------
    UserError
        If a store is not complete, or their columns differ.
    """
    one, other = (of_group(open_result(place_of(path).resolved().path), group) for path in (a, b))
    models = one.best_model, other.best_model
    if models[0].sources != models[1].sources:
        raise UserError(
            f"{one.store} has the columns {', '.join(models[0].sources)}, and {other.store} has "
            f"{', '.join(models[1].sources)}: only stores of the same columns, in the same order, can be compared."
        )
    same_rows = _are_of_the_same_rows(one, other)
    matching, matched_by = _match(one, other, same_rows)
    return StoreDifference(
        a=one,
        b=other,
        criterion=other.criterion,
        candidates=_candidates(one, other),
        components=_components(matching, *models),
        matched_by=matched_by,
        agreement=math.nan if matched_by is None else 1.0 - matching.changed,
        same_rows=same_rows,
        same_densities=models[0].transform.has_densities_of(models[1].transform),
    )


def _are_of_the_same_rows(one: Result, other: Result) -> bool:
    """Whether pass 0 found the same rows: their number and moments, and the sample that it drew."""
    known = "n_rows", "sample" if one.by is None and other.by is None else "means"
    found = [{name: result.data["contents"].get(name) for name in known} for result in (one, other)]
    return bool(found[0] == found[1])


def _match(one: Result, other: Result, same_rows: bool) -> tuple[ComponentMatching, str | None]:
    assert other.sample is not None
    a, b, rows = one.best_model, other.best_model, other.sample.rows
    models: tuple[Model, Model] | None
    if a.transform.folds and b.transform.folds:
        there, here, rows = in_common_units(a, b.model, b.transform, rows)
        models, table = (there, here), contingency_table(sampled_rows(rows), there, here)
    else:
        models, table = _in_units_of_one(a, b), _labels_of_both(a, b, rows)
    distances = bhattacharyya_distances(*models) if models else np.full((len(a.numbers), len(b.numbers)), math.nan)
    assert one.identity is not None
    assert other.identity is not None
    if one.identity.line == other.identity.line:
        both = set(a.numbers) & set(b.numbers)
        paired = [(a.numbers.index(number), b.numbers.index(number)) for number in both]
        return describe_known(paired, distances, table), BY_NUMBER
    if same_rows:
        return match_overlaps(distances, table), BY_ROWS
    if models is None:
        return describe_known([], distances, table), None
    return match_models(*models, table), BY_DISTANCE


def _in_units_of_one(a: StoredModel, b: StoredModel) -> tuple[Model, Model] | None:
    """Return both mixtures in the units of ``a``; None if directions are lost on the way, either way."""
    try:
        carried(a.model, a.transform, b.transform)
        return a.model, carried(b.model, b.transform, a.transform)
    except UserError:
        return None


def _labels_of_both(a: StoredModel, b: StoredModel, rows: Array) -> NDArray[np.int64]:
    """Count rows of the columns by the labels of two models, each in its own units; those that both take."""
    images, complete = [model.transform.rows(rows) for model in (a, b)], usable_rows(rows)
    taken = [usable_rows(one) | (~complete & usable_rows(one, gaps=True)) for one in images]
    usable, shape = taken[0] & taken[1], (a.model[1].n_densities, b.model[1].n_densities)
    if not usable.any():
        return np.zeros(shape, dtype=np.int64)
    one, other = (
        predict_rows(sampled_rows(image[usable]), *model.model, [LABEL.name])[LABEL.name]
        for image, model in zip(images, (a, b), strict=True)
    )
    return count_pairs(one, other, shape)


def _components(matching: ComponentMatching, a: StoredModel, b: StoredModel) -> tuple[ComponentDifference, ...]:
    weights = [model.model[1].weights.tolist() for model in (a, b)]
    pairs = [(pair.a, pair.b, pair.distance, pair.overlap) for pair in matching.pairs]
    alone = [(k, None, None, None) for k in matching.only_a], [(None, k, None, None) for k in matching.only_b]
    found = []
    for i, j, distance, overlap in (*pairs, *alone[0], *alone[1]):
        number_a, number_b = None if i is None else a.numbers[i], None if j is None else b.numbers[j]
        name_a = None if number_a is None else a.component_names.get(number_a)
        name_b = None if number_b is None else b.component_names.get(number_b)
        found.append(
            ComponentDifference(
                a=number_a,
                b=number_b,
                name=name_b or name_a,
                weight_a=None if i is None else weights[0][i],
                weight_b=None if j is None else weights[1][j],
                distance=_known(distance),
                overlap=overlap,
            )
        )
    return tuple(found)


def _candidates(one: Result, other: Result) -> tuple[CandidateDifference, ...]:
    tables = one.table, other.table
    values = [dict(zip(names_of(table), table[other.criterion].tolist(), strict=True)) for table in tables]
    names = dict.fromkeys((*sorted(values[1], key=lambda name: _largest_last(values[1][name])), *values[0]))
    return tuple(CandidateDifference(name, *(_known(value.get(name)) for value in values)) for name in names)


def _largest_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
