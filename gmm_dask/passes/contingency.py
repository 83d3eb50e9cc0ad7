"""How often each two labels meet: a row's label by one mixture, and its label by another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.holdout import usable_rows
from gmm_dask.passes.map_reduce import map_reduce
from gmm_dask.passes.model_batch import Model, ModelBatch
from gmm_dask.passes.predict import finite_rows, predict_chunk, prediction_batch
from gmm_dask.passes.row_outputs import LABEL
from gmm_dask.passes.rows import Rows


def contingency_table(rows: Rows, one: Model, other: Model) -> NDArray[np.int64]:
    """Count the rows by their labels in two mixtures, from one read.

    Parameters
    ----------
    rows : Rows
        In the units of both mixtures. Weights are not used.
    one, other : (Family, Parameters)

    Returns
    -------
    table : ndarray of shape (n_components of one, n_components of other)
        With noise, its rows are counted last.

    Raises
    ------
    UserError
        If a row has NaN or infinity, unless rows may have gaps; those without any value are not counted.
    """
    batches = prediction_batch(*one, gaps=rows.gaps), prediction_batch(*other, gaps=rows.gaps)
    return map_reduce(rows, _count_chunk, batches, "contingency")


def _count_chunk(rows: Any, weights: Any, batches: tuple[ModelBatch, ModelBatch], number: int) -> NDArray[np.int64]:
    array = finite_rows(rows, batches[0].gaps)
    array = array[usable_rows(array, gaps=True)] if batches[0].gaps else array
    shape = tuple(batch.models[0][1].n_densities for batch in batches)
    labels = [predict_chunk(array, batch, (LABEL.name,))[LABEL.name] for batch in batches]
    return count_pairs(labels[0], labels[1], shape)


def count_pairs(one: NDArray[np.int64], other: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Count rows by their labels (n_rows,) in two mixtures of so many densities; -1, the noise, is the last."""
    cells = np.ravel_multi_index((one, other), shape, mode="wrap")
    return np.bincount(cells, minlength=math.prod(shape)).reshape(shape)
