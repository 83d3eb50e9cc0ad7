"""Names of components: given by people, stored by number, and carried to the later stores of a job."""

from __future__ import annotations

from collections.abc import Mapping

from gmm_dask.errors import UserError
from gmm_dask.formatting import listed
from pipeline.store.lifecycle import update_attributes
from pipeline.store.locks import lock
from pipeline.store.places import StorePath, place_of
from pipeline.store.result import Result, open_result

# longer ones would not fit a table
LONGEST = 60


def name_component(path: StorePath, number: int, name: str) -> Result:
    """Name a component of the chosen model of a complete store; an empty name takes the present one away.

    Parameters
    ----------
    path : str or Path
        The result store. A link to one is followed once.
    number : int
        The component's, as labels hold it.
    name : str

    Returns
    -------
    Result
        With the new names.

    Raises
    ------
    LockedError
        If a run is at work on the store.
    UserError
        If the store is not complete, has no component of this number, or another one of this name, or the name cannot
        be shown on a line.
    """
    store, name = place_of(path).resolved().path, name.strip()
    open_result(store)  # before a lock is made where there is no store
    with lock(store):
        result = open_result(store)
        if result.by is not None:
            raise UserError(f"{store} has a model for each group (data.by), and their components take no names.")
        numbers = result.best_model.numbers
        if number not in numbers:
            raise UserError(
                f"{store} has no component {number}; those of its model {result.best} are "
                f"{listed(list(map(str, numbers)))}."
            )
        others = {other: known for other, known in result.names.items() if other != number}
        if name:
            _require_name(name, others)
        update_attributes(store, names=dict(sorted({**others, **({number: name} if name else {})}.items())))
    return open_result(store)


def _require_name(name: str, others: Mapping[int, str]) -> None:
    if len(name) > LONGEST or not name.isprintable():
        raise UserError(
            f"expected a name of up to {LONGEST} characters that can be shown on a line, not {name!r}. Write a shorter "
            "one, without control characters."
        )
    taken = [number for number, known in others.items() if known == name]
    if taken:
        raise UserError(f"component {taken[0]} has the name {name!r} already. Take it away first, or choose another.")
