"""Checkpoints: the states of an unfinished run, bit for bit.

All states share a few flat arrays, because many small ones would take a second to write. A checkpoint is a new
group; one attribute write makes it the current one; then the one before goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.em.acceleration import History
from gmm_dask.em.loop import State, Status
from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES, Parameters
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import DataSummary, Unusable
from gmm_dask.passes.holdout import HeldOut
from pipeline.store.arrays import StorePath, get, open_root, put
from pipeline.store.lifecycle import read_attributes, require_store, update_attributes

Array = NDArray[np.float64]
# arrays of a checkpoint by name, and the names of their dimensions
Arrays = Mapping[str, NDArray[Any]]
_DIMENSIONS = {
    "total_weight": ("total",),
    "log_scale": ("total",),
    "unusable_rows": ("chunk",),
    "unusable_values": ("feature",),
    "unusable_weights": ("total",),
    "held_out_rows": ("total",),
    "held_out_weight": ("total",),
    "held_out_center": ("feature",),
    "center": ("feature",),
    "scatter": ("feature", "feature_other"),
    "minimum": ("feature",),
    "maximum": ("feature",),
    "sample": ("sample", "feature"),
    "chunk_rows": ("chunk",),
    "waves": ("wave",),
    "lower_bounds": ("iteration",),
    "parameters": ("value",),
    "history": ("remembered",),
}


class DamagedError(UserError):
    """A checkpoint that is not whole."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run between two passes.

    Attributes
    ----------
    states : sequence of State
        In the batch's order.
    data_summary : DataSummary
        With the rows that pictures show as its sample; their weights are not kept.
    passes : int
        Reads of the data so far.
    waves : tuple of int
        How many states are fitted at a time, one wave after the other.
    widened : int
        How often the grid was widened so far; each time took the closing pass and pass 0 once more.
    """

    states: Sequence[State]
    data_summary: DataSummary
    passes: int
    waves: tuple[int, ...]
    widened: int = 0


def save_checkpoint(path: StorePath, checkpoint: Checkpoint) -> None:
    """Save the state of a run in its result store; a crash at any moment leaves this checkpoint or the one before."""
    before = read_attributes(path).checkpoint
    number = 1 if before is None else before + 1
    checkpoints = open_root(path, "r+").require_group("checkpoint")
    group = checkpoints.create_group(str(number), overwrite=True)
    waves = np.array(checkpoint.waves, dtype=np.int64)
    arrays = {**_summary_arrays(checkpoint.data_summary), **_state_arrays(checkpoint.states), "waves": waves}
    for name, values in arrays.items():
        put(group, name, values, _DIMENSIONS.get(name, ("state",)))
    counts = {"passes": checkpoint.passes, "n_rows": checkpoint.data_summary.n_rows, "widened": checkpoint.widened}
    group.update_attributes({**counts, "sha256": _digest(arrays)})
    update_attributes(path, checkpoint=number, passes=checkpoint.passes)
    if before is not None:
        del checkpoints[str(before)]


def load_checkpoint(path: StorePath, number: int | None = None) -> Checkpoint:
    """Load the current checkpoint of a result store, or the one of a number, which a run at work may have replaced.

    Raises
    ------
    UserError
        If the store has no checkpoint, or (:class:`DamagedError`) one that is not as it was saved.
    """
    number = _current(path) if number is None else number
    try:
        group = cast(zarr.Group, open_root(path)[f"checkpoint/{number}"])
        attributes: dict[str, Any] = group.attrs.asdict()
        arrays = {name: get(group, name) for name in group.array_keys()}
    except (KeyError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, number) from error
    if _digest(arrays) != attributes.get("sha256"):
        raise _damaged(path, number)
    data_summary = _summary_of(arrays, attributes["n_rows"])
    states = list(_states_of(arrays, len(data_summary.center)))
    waves = tuple(arrays["waves"].tolist())
    return Checkpoint(states, data_summary, attributes["passes"], waves, attributes.get("widened", 0))


def load_waves(path: StorePath) -> tuple[int, ...]:
    """The waves of the current checkpoint, without its states; :class:`UserError` as :func:`load_checkpoint`."""
    number = _current(path)
    try:
        group = cast(zarr.Group, open_root(path)[f"checkpoint/{number}"])
        return tuple(get(group, "waves").tolist())
    except (KeyError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, number) from error


def _current(path: StorePath) -> int:
    require_store(path, unfinished=True)
    number = read_attributes(path).checkpoint
    if number is None:
        raise UserError(f"the result store {path} has no checkpoint to go on from. Run the job with --fresh.")
    return number


def _damaged(path: StorePath, number: int) -> DamagedError:
    return DamagedError(
        f"the checkpoint {number} of the result store {path} is damaged: its files are not as the run wrote them. "
        "Run the job with --fresh to start anew."
    )


def _digest(arrays: Arrays) -> str:
    """A hash of all arrays: a chunk that is lost would be read as zeros."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        is_text = values.dtype.kind in "TUO"
        found.update(f"{name} {'text' if is_text else values.dtype.str} {values.shape}\n".encode())
        found.update("\n".join(values.tolist()).encode() if is_text else np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


# -- the data summary ---------------------------------------------------------------------------------------


def _summary_arrays(data_summary: DataSummary) -> dict[str, NDArray[Any]]:
    return {
        **(_unusable_arrays(data_summary.unusable) if data_summary.unusable else {}),
        **(_held_out_arrays(data_summary.held_out) if data_summary.held_out else {}),
        "log_scale": np.array([data_summary.log_scale]),
        "total_weight": np.array([data_summary.total_weight]),
        "center": data_summary.center,
        "scatter": data_summary.scatter,
        "minimum": data_summary.minimum,
        "maximum": data_summary.maximum,
        "sample": data_summary.sample,
        "chunk_rows": np.array(data_summary.chunk_rows, dtype=np.int64),
    }


def _unusable_arrays(unusable: Unusable) -> dict[str, NDArray[Any]]:
    return {
        "unusable_rows": np.array(unusable.chunk_rows, dtype=np.int64),
        "unusable_values": np.asarray(unusable.columns, dtype=np.int64),
        "unusable_weights": np.array([unusable.weights], dtype=np.int64),
    }


def _held_out_arrays(held_out: HeldOut) -> dict[str, NDArray[Any]]:
    return {
        "held_out_rows": np.array([held_out.n_rows], dtype=np.int64),
        "held_out_weight": np.array([held_out.total_weight]),
        "held_out_center": held_out.center,
    }


def _summary_of(arrays: Arrays, n_rows: int) -> DataSummary:
    return DataSummary(
        n_rows=n_rows,
        total_weight=float(arrays["total_weight"][0]),
        center=arrays["center"],
        scatter=arrays["scatter"],
        minimum=arrays["minimum"],
        maximum=arrays["maximum"],
        chunk_rows=tuple(arrays["chunk_rows"].tolist()),
        sample=arrays["sample"],
        sample_weights=None,
        unusable=_unusable_of(arrays) if "unusable_rows" in arrays else None,
        log_scale=float(arrays["log_scale"][0]) if "log_scale" in arrays else 0.0,
        held_out=_held_out_of(arrays) if "held_out_rows" in arrays else None,
    )


def _unusable_of(arrays: Arrays) -> Unusable:
    rows, weights = arrays["unusable_rows"], arrays["unusable_weights"]
    return Unusable(tuple(rows.tolist()), arrays["unusable_values"], int(weights[0]))


def _held_out_of(arrays: Arrays) -> HeldOut:
    n_rows, weight = arrays["held_out_rows"], arrays["held_out_weight"]
    return HeldOut(int(n_rows[0]), float(weight[0]), arrays["held_out_center"])


# -- the states ----------------------------------------------------------------------------------------------


def _state_arrays(states: Sequence[State]) -> dict[str, NDArray[Any]]:
    bounds = [np.asarray(s.lower_bounds, dtype=np.float64) for s in states]
    values = [_flatten(s.parameters) for s in states if s.parameters is not None]
    return {
        "covariance_type": _text([s.covariance_type for s in states]),
        "status": _text([s.status.value for s in states]),
        "n_components": np.array([s.n_components for s in states], dtype=np.int64),
        "start": np.array([s.start for s in states], dtype=np.int64),
        "n_iter": np.array([s.n_iter for s in states], dtype=np.int64),
        "prior_bound": np.array([s.prior_bound for s in states], dtype=np.float64),
        "falls": np.array([s.falls for s in states], dtype=np.int64),
        "sample_iter": np.array([s.sample_iter for s in states], dtype=np.int64),
        "extrapolations": np.array([s.extrapolations for s in states], dtype=np.int64),
        "converged": np.array([s.converged for s in states], dtype=bool),
        "has_parameters": np.array([s.parameters is not None for s in states], dtype=bool),
        "lower_bounds": np.concatenate([np.empty(0), *bounds]),
        "parameters": np.concatenate([np.empty(0), *values]),
        "n_remembered": np.array([len(s.history.points) if s.history else 0 for s in states], dtype=np.int64),
        "is_extrapolated": np.array([s.is_extrapolated for s in states], dtype=bool),
        "history": np.concatenate([np.empty(0), *(_flatten_history(s.history) for s in states if s.history)]),
    }


def _text(values: list[str]) -> NDArray[Any]:
    return np.array(values, dtype=np.dtypes.StringDType())


def _flatten(parameters: Parameters) -> Array:
    arrays = parameters.weights, parameters.means, parameters.covariances, parameters.precisions_cholesky
    return np.concatenate([np.ravel(array) for array in arrays])


def _flatten_history(history: History) -> Array:
    plain = np.empty(0) if history.plain is None else _flatten(history.plain)
    return np.concatenate([np.ravel(history.points), np.ravel(history.images), plain])


@dataclass
class _Tape:
    """Values that are taken off one after another."""

    values: Array
    position: int = 0

    def take(self, *shape: int) -> Array:
        """The next values, as a new array of this shape."""
        begin, self.position = self.position, self.position + prod(shape)
        return self.values[begin : self.position].reshape(shape).copy()


def _states_of(arrays: Arrays, n_features: int) -> Iterator[State]:
    tapes = [_Tape(arrays[name]) for name in ("lower_bounds", "parameters", "history")]
    bounds, parameters, histories = tapes
    names = ["covariance_type", "n_components", "start", "prior_bound", "converged", "falls", "extrapolations"]
    names += [name for name in ("sample_iter",) if name in arrays]  # earlier versions did not know it
    others = ("status", "n_iter", "has_parameters", "n_remembered", "is_extrapolated")
    columns = [arrays[name].tolist() for name in (*names, *others)]
    for values in zip(*columns, strict=True):
        kept = dict(zip(names, values, strict=False))
        status, n_iter, has_parameters, n_remembered, is_extrapolated = values[len(names) :]
        shape = kept["covariance_type"], kept["n_components"], n_features
        yield State(
            candidate=Candidate(kept.pop("covariance_type"), kept.pop("n_components")),
            **kept,
            parameters=_take_parameters(parameters, *shape) if has_parameters else None,
            lower_bounds=tuple(bounds.take(n_iter - kept["falls"]).tolist()),
            status=Status(status),
            history=_take_history(histories, n_remembered, is_extrapolated, *shape) if n_remembered else None,
        )


def _take_history(
    tape: _Tape, n_remembered: int, is_extrapolated: bool, covariance_type: str, n_components: int, n_features: int
) -> History:
    covariances = FAMILIES[covariance_type].covariance_shape(n_components, n_features)
    shape = n_remembered, n_components * (1 + n_features) + prod(covariances)
    points, images = tape.take(*shape), tape.take(*shape)
    plain = _take_parameters(tape, covariance_type, n_components, n_features) if is_extrapolated else None
    return History(points, images, plain)


def _take_parameters(tape: _Tape, covariance_type: str, n_components: int, n_features: int) -> Parameters:
    shape = FAMILIES[covariance_type].covariance_shape(n_components, n_features)
    return Parameters(
        weights=tape.take(n_components),
        means=tape.take(n_components, n_features),
        covariances=tape.take(*shape),
        precisions_cholesky=tape.take(*shape),
    )
