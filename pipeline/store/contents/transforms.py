"""The fitted transforms of a job in its result store, a group for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np
import zarr

from pipeline.store.arrays import get, new_group, open_root, put
from pipeline.store.places import StorePath, place_of
from pipeline.transforms import TRANSFORMS, Chain
from pipeline.transforms.base import Transform

GROUP = "transform"


def write_transform(path: StorePath, chain: Chain) -> None:
    """Write the chain of a job, in place of what is there."""
    place_of(path).remove(GROUP)
    if not chain.steps:
        return
    with new_group(path, GROUP, {"steps": [step.kind for step in chain.steps]}) as group:
        for i, step in enumerate(chain.steps):
            of_step = group.create_group(str(i), attributes={"kind": step.kind})
            for field in fields(step):  # type: ignore[arg-type]
                value = getattr(step, field.name)
                if isinstance(value, str):
                    of_step.update_attributes({field.name: value})
                else:
                    put(of_step, field.name, value, step.dimensions[field.name])


def read_transform(path: StorePath, columns: Sequence[str]) -> Chain | None:
    """Read the chain of a job of these columns; None where the store has none.

    Raises
    ------
    KeyError, ValueError
        If it is not that of such columns.
    """
    root = open_root(path)
    if GROUP not in root:
        return None
    group = cast(zarr.Group, root[GROUP])
    kinds, n_columns, steps = group.attrs["steps"], len(columns), list[Transform]()
    if not (isinstance(kinds, list) and kinds and set(map(str, kinds)) <= set(TRANSFORMS)):
        raise ValueError(f"its steps are {kinds}")
    for i, kind in enumerate(kinds):
        step = _read_step(cast(zarr.Group, group[str(i)]), TRANSFORMS[str(kind)])
        n_columns = step.check(n_columns)
        steps.append(step)
    return Chain(tuple(steps))


def _read_step(group: zarr.Group, kind: type[Transform]) -> Transform:
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in kind.dimensions:
            values[field.name] = str(group.attrs[field.name])
            continue
        dtype = np.int64 if field.name == "columns" else np.float64
        values[field.name] = get(group, field.name, dtype, (None,) * len(kind.dimensions[field.name]))
    return kind(**values)
