"""Checkpoints: the states of an unfinished run, bit for bit.

All states share a few flat arrays, because many small ones would take a second to write. A checkpoint is a new
group; one attribute write makes it the current one; then the one before goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.em import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters
from gmm_dask.profile import Profile
from pipeline.store.groups import StorePath, get, get_text, open_root, put
from pipeline.store.lifecycle import open_store, update_attributes

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run between two passes.

    Attributes
    ----------
    states : sequence of State
        In the stack's order.
    profile : Profile
        With the rows that pictures show as its sample; their weights are not kept.
    passes : int
        Reads of the data so far.
    waves : tuple of int
        How many states are fitted at a time, one wave after the other.
    """

    states: Sequence[State]
    profile: Profile
    passes: int
    waves: tuple[int, ...]


def save_checkpoint(path: StorePath, checkpoint: Checkpoint) -> None:
    """Save the state of a run in its result store; a crash at any moment leaves this checkpoint or the one before."""
    before = open_store(path, unfinished=True).checkpoint
    number = 1 if before is None else before + 1
    checkpoints = open_root(path, "r+").require_group("checkpoint")
    group = checkpoints.create_group(str(number), overwrite=True)
    _put_profile(group, checkpoint.profile)
    _put_states(group, checkpoint.states)
    put(group, "waves", np.array(checkpoint.waves, dtype=np.int64), ("wave",))
    group.update_attributes({"passes": checkpoint.passes, "n_rows": checkpoint.profile.n_rows})
    update_attributes(path, checkpoint=number, passes=checkpoint.passes)
    if before is not None:
        del checkpoints[str(before)]


def load_checkpoint(path: StorePath) -> Checkpoint:
    """The current checkpoint of a result store.

    Raises
    ------
    UserError
        If the store has no checkpoint.
    """
    number = open_store(path, unfinished=True).checkpoint
    if number is None:
        raise UserError(f"the result store {path} has no checkpoint to go on from. Run the job with --fresh.")
    group = cast(zarr.Group, open_root(path)[f"checkpoint/{number}"])
    profile = _get_profile(group)
    return Checkpoint(
        states=list(_get_states(group, len(profile.center))),
        profile=profile,
        passes=cast(int, group.attrs["passes"]),
        waves=tuple(get(group, "waves").tolist()),
    )


# -- the profile ---------------------------------------------------------------------------------------------


def _put_profile(group: zarr.Group, profile: Profile) -> None:
    put(group, "total_weight", [profile.total_weight], ("total",))
    put(group, "center", profile.center, ("feature",))
    put(group, "scatter", profile.scatter, ("feature", "feature_other"))
    put(group, "minimum", profile.minimum, ("feature",))
    put(group, "maximum", profile.maximum, ("feature",))
    put(group, "sample", profile.sample, ("sample", "feature"))
    put(group, "chunk_rows", np.asarray(profile.chunk_rows, dtype=np.int64), ("chunk",))


def _get_profile(group: zarr.Group) -> Profile:
    center = get(group, "center")
    return Profile(
        n_rows=cast(int, group.attrs["n_rows"]),
        total_weight=float(get(group, "total_weight")[0]),
        center=center,
        scatter=get(group, "scatter"),
        minimum=get(group, "minimum"),
        maximum=get(group, "maximum"),
        chunk_rows=tuple(get(group, "chunk_rows").tolist()),
        sample=get(group, "sample"),
        sample_weights=None,
    )


# -- the states ----------------------------------------------------------------------------------------------


def _put_states(group: zarr.Group, states: Sequence[State]) -> None:
    put(group, "covariance_type", _text([s.covariance_type for s in states]), ("state",))
    put(group, "status", _text([s.status.value for s in states]), ("state",))
    put(group, "n_components", np.array([s.n_components for s in states], dtype=np.int64), ("state",))
    put(group, "start", np.array([s.start for s in states], dtype=np.int64), ("state",))
    put(group, "n_iter", np.array([s.n_iter for s in states], dtype=np.int64), ("state",))
    put(group, "prior_bound", np.array([s.prior_bound for s in states], dtype=np.float64), ("state",))
    put(group, "has_parameters", np.array([s.parameters is not None for s in states], dtype=bool), ("state",))
    bounds = [np.asarray(s.lower_bounds, dtype=np.float64) for s in states]
    put(group, "lower_bounds", np.concatenate([np.empty(0), *bounds]), ("iteration",))
    values = [_flatten(s.parameters) for s in states if s.parameters is not None]
    put(group, "parameters", np.concatenate([np.empty(0), *values]), ("value",))


def _text(values: list[str]) -> NDArray[Any]:
    return np.array(values, dtype=np.dtypes.StringDType())


def _flatten(parameters: Parameters) -> Array:
    arrays = parameters.weights, parameters.means, parameters.covariances, parameters.precisions_cholesky
    return np.concatenate([np.ravel(array) for array in arrays])


@dataclass
class _Tape:
    """Values that are taken off one after another."""

    values: Array
    position: int = 0

    def take(self, *shape: int) -> Array:
        """The next values, as a new array of this shape."""
        begin, self.position = self.position, self.position + prod(shape)
        return self.values[begin : self.position].reshape(shape).copy()


def _get_states(group: zarr.Group, n_features: int) -> Iterator[State]:
    bounds, parameters = _Tape(get(group, "lower_bounds")), _Tape(get(group, "parameters"))
    numbers = [get(group, name).tolist() for name in ("n_components", "start", "n_iter", "prior_bound")]
    columns = [get_text(group, "covariance_type"), get_text(group, "status"), *numbers]
    has_parameters = get(group, "has_parameters").tolist()
    for kind, status, n_components, start, n_iter, prior_bound, has in zip(*columns, has_parameters, strict=True):
        yield State(
            covariance_type=kind,
            n_components=n_components,
            start=start,
            parameters=_take_parameters(parameters, kind, n_components, n_features) if has else None,
            lower_bounds=tuple(bounds.take(n_iter).tolist()),
            status=Status(status),
            prior_bound=prior_bound,
        )


def _take_parameters(tape: _Tape, covariance_type: str, n_components: int, n_features: int) -> Parameters:
    shape = FAMILIES[covariance_type].covariance_shape(n_components, n_features)
    return Parameters(
        weights=tape.take(n_components),
        means=tape.take(n_components, n_features),
        covariances=tape.take(*shape),
        precisions_cholesky=tape.take(*shape),
    )
