"""Row outputs of DataFrames: pandas objects with the index of the rows, and Dask's with the same partitions."""

from __future__ import annotations

import warnings
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Family, Parameters
from gmm_dask.passes.model_batch import ModelBatch
from gmm_dask.passes.predict import finite_rows, predict_chunk, prediction_batch
from gmm_dask.passes.row_outputs import ROW_OUTPUTS


def with_index(values: NDArray[Any], name: str, index: Any, noise: bool = False) -> Any:
    """A row output as a pandas Series, or as a DataFrame with a column for each component.

    Parameters
    ----------
    values : ndarray of shape (n_rows,) or (n_rows, n_components)
    name : str
        A name of :data:`gmm_dask.passes.row_outputs.ROW_OUTPUTS`, from which those of columns follow.
    index : pandas.Index of length n_rows
    noise : bool
        Whether the last of the components is the noise.
    """
    import pandas as pd

    if not ROW_OUTPUTS[name].per_component:
        return pd.Series(values, index=index, name=name)
    columns = ROW_OUTPUTS[name].columns(range(values.shape[1] - noise), noise)
    return pd.DataFrame(values, index=index, columns=columns)


def predict_partitions(frame: Any, family: Family, parameters: Parameters, name: str, gaps: bool = False) -> Any:
    """A row output of a Dask DataFrame, lazy, with its partitions, its divisions and its index.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        Its columns are the features, in order.
    family : Family
    parameters : Parameters
    name : str
    gaps : bool
        Whether rows may have missing values.

    Returns
    -------
    output : dask.dataframe.Series or dask.dataframe.DataFrame
        As :func:`with_index` makes them.

    Warns
    -----
    UserWarning
        If Dask fuses partitions of the frame, which it may put beside others then.
    """
    output = ROW_OUTPUTS[name]
    nothing, noise = np.empty(output.shape(0, parameters.n_densities), output.dtype), parameters.noise is not None
    batch = dask.delayed(prediction_batch(family, parameters, gaps), pure=False)  # one key, which all tasks share
    found = frame.map_partitions(
        _predict_partition, batch, name, meta=with_index(nothing, name, frame._meta.index, noise)
    )
    _warn_if_fused(found)
    return found


def _warn_if_fused(found: Any) -> None:
    """Warn of a read whose partitions Dask fuses: it may put rows beside others than their own.

    When a graph is made, Dask (2026.8) fuses partitions of narrow reads of Parquet, as many as the columns of each read
    allow. Where columns of two such reads meet, so do rows of different partitions, whatever made the columns.
    """
    fused = found.optimize().npartitions
    if fused == found.npartitions:
        return
    warnings.warn(
        f"Dask fuses the {found.npartitions} partitions of X into {fused}, since few of the stored columns are read. "
        "Predictions are right by themselves; beside other columns of the same data, Dask may mix up the rows. Keep "
        "the partitions as they are read, before columns are selected: ddf = ddf.map_partitions(lambda part: part), or "
        "ddf = ddf.persist().",
        UserWarning,
        stacklevel=5,
    )


def _predict_partition(part: Any, batch: ModelBatch, name: str) -> Any:
    # columns of nullable numbers would make an array of objects
    rows = finite_rows(part.astype(np.float64).to_numpy(), batch.gaps)
    noise = batch.models[0][1].noise is not None
    return with_index(predict_chunk(np.ascontiguousarray(rows), batch, (name,))[name], name, part.index, noise)
