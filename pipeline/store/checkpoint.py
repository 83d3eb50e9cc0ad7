"""Checkpoints: the state of an unfinished run, bit for bit.

A checkpoint is a new group. When it is on the disk, one attribute write makes it the current one; then the one before
is removed. So a crash or a loss of power at any moment leaves one that is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import zarr

from gmm_dask.em.loop import State
from gmm_dask.em.resamples import Refit
from gmm_dask.errors import UserError
from gmm_dask.memory import release_freed
from gmm_dask.passes.data_summary import DataSummary, Moments
from pipeline.store.arrays import as_json, get, open_root, put
from pipeline.store.dataclass_arrays import digest, from_columns, pack, to_columns, unpack
from pipeline.store.groups.models import GroupCheckpoint
from pipeline.store.integrity import damaged, reading
from pipeline.store.lifecycle import read_attributes, require_store, update_attributes
from pipeline.store.places import StorePath, place_of


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run between two passes.

    Attributes
    ----------
    states : sequence of State
        In the order of the batch.
    data_summary : DataSummary
        With the rows that pictures show as its sample.
    passes : int
        Reads of the data so far.
    waves : tuple of int
        The number of states that are fitted at a time, one wave after the other.
    widened : int
        How often the grid was widened so far; each time took the final pass and pass 0 once more.
    resamples : tuple of Moments
        Of each resample, once they are known.
    refits : sequence of Refit
        The fits to resamples, in the order of their batch.
    refit_waves : tuple of int
        The number of those that are fitted at a time.
    """

    states: Sequence[State]
    data_summary: DataSummary
    passes: int
    waves: tuple[int, ...]
    widened: int = 0
    resamples: tuple[Moments, ...] = ()
    refits: Sequence[Refit] = ()
    refit_waves: tuple[int, ...] = ()


AnyCheckpoint = TypeVar("AnyCheckpoint", Checkpoint, GroupCheckpoint)


def save_checkpoint(path: StorePath, checkpoint: Checkpoint | GroupCheckpoint, *, bytes_read: int = 0) -> None:
    """Save the state of a run in its result store; a crash at any moment leaves this checkpoint or the one before.

    ``bytes_read`` were read since the count in the store was last raised.
    """
    release_freed()
    attributes = read_attributes(path)
    before, bytes_read = attributes.checkpoint, attributes.bytes_read + bytes_read
    number = 1 if before is None else before + 1
    checkpoints = open_root(path, "r+").require_group("checkpoint")
    group = checkpoints.create_group(str(number), overwrite=True)
    arrays, layout = pack(to_columns(checkpoint))
    for name, values in arrays.items():
        put(group, name, values, (f"{name}_value",))
    group.update_attributes(as_json({"layout": layout, "sha256": digest(arrays, layout)}))
    place = place_of(path)
    place.sync(f"checkpoint/{number}")
    place.sync_files(["checkpoint", ""])
    update_attributes(path, checkpoint=number, passes=checkpoint.passes, bytes_read=bytes_read)
    if before is not None:
        del checkpoints[str(before)]


def load_checkpoint(path: StorePath, number: int | None = None) -> Checkpoint:
    """Load the current checkpoint of a result store, or the one of a number, which a run at work may have replaced.

    Raises
    ------
    UserError
        If the store has no checkpoint, or (:class:`DamagedError`) one that is not as it was saved.
    """
    return _load(path, number, Checkpoint)


def load_group_checkpoint(path: StorePath) -> GroupCheckpoint:
    """Load the current checkpoint of a run over groups; errors are those of :func:`load_checkpoint`."""
    return _load(path, None, GroupCheckpoint)


def _load(path: StorePath, number: int | None, kind: type[AnyCheckpoint]) -> AnyCheckpoint:
    number = _current(path) if number is None else number
    name = f"checkpoint/{number}"
    with reading(path, name):
        group = cast(zarr.Group, open_root(path)[name])
        attributes: dict[str, Any] = group.attrs.asdict()
        arrays = {name: get(group, name, shape=(None,)) for name in group.array_keys()}
        if digest(arrays, attributes["layout"]) == attributes["sha256"]:
            return from_columns(kind, unpack(arrays, attributes["layout"]))
    raise damaged(path, f"{name} is not as it was written")


def _current(path: StorePath) -> int:
    number = require_store(path, unfinished=True).checkpoint
    if number is None:
        raise UserError(f"the result store {path} has no checkpoint to resume. Run the job with --fresh.")
    return number
