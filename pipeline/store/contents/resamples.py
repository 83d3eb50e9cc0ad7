"""What the fits to resamples say, in a result store: how sure the choice is, and standard errors of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.stability import STABILITY_NUMBERS, ResampledSearch, Stability, StandardErrors
from pipeline.store.arrays import get, new_group, open_root, put
from pipeline.store.contents.candidate_axes import CandidateAxes
from pipeline.store.places import StorePath, place_of

if TYPE_CHECKING:
    import pandas as pd

GROUP = "resamples"


def write_resamples(
    path: StorePath, table: pd.DataFrame, found: ResampledSearch, scale: NDArray[np.float64] | None = None
) -> None:
    """Write what the fits to resamples say, in place of what is there.

    Parameters
    ----------
    path : str or Path
        The result store.
    table : DataFrame
        All candidates.
    found : ResampledSearch
        With components in the order of the store.
    scale : ndarray of shape (n_features,), optional
        What the rows were divided by before the fit: errors of means are written in the user's units.
    """
    candidates = [Candidate.of(row) for row in table.to_dict("records")]
    axes = CandidateAxes.of(candidates)
    columns = {name: np.full(axes.shape, np.nan) for name in STABILITY_NUMBERS}
    for candidate in candidates:
        # a candidate that could not be fitted wins in no resample
        numbers = found.stability.get(candidate, Stability(wins=0.0))
        for name, value in zip(STABILITY_NUMBERS, numbers, strict=True):
            columns[name][axes.place(candidate)] = value
    place_of(path).remove(GROUP)
    with new_group(path, GROUP) as group:
        axes.write(group)
        for name, values in columns.items():
            put(group, name, values, axes.dimensions)
        for candidate, errors in found.errors.items():
            model = group.create_group(candidate.name)
            put(model, "weights_error", errors.weights, ("component",))
            put(model, "means_error", errors.means * (1.0 if scale is None else scale), ("component", "feature"))


def read_stability(path: StorePath, table: pd.DataFrame) -> dict[str, list[float]]:
    """The numbers of :class:`gmm_dask.selection.stability.Stability`, for each row of a table of candidates.

    Raises
    ------
    KeyError, ValueError
        If they are not those of these candidates.
    """
    group = cast(zarr.Group, open_root(path)[GROUP])
    axes = CandidateAxes.read(group)
    columns = {name: get(group, name, np.float64, axes.shape) for name in STABILITY_NUMBERS}
    places = [axes.place(Candidate.of(row)) for row in table.to_dict("records")]
    return {name: [float(values[place]) for place in places] for name, values in columns.items()}


def read_errors(path: StorePath, name: str, n_components: int, n_features: int) -> StandardErrors:
    """Standard errors of a model by its name, in the user's units; raises KeyError or ValueError if there are none."""
    group = cast(zarr.Group, open_root(path)[f"{GROUP}/{name}"])
    return StandardErrors(
        get(group, "weights_error", np.float64, (n_components,)),
        get(group, "means_error", np.float64, (n_components, n_features)),
    )
