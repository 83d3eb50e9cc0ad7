"""What users hand over as X: NumPy, Dask and Zarr arrays, pandas and Dask DataFrames."""

from __future__ import annotations

import copy
from typing import Any

import dask.array as da
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    validate_data,
)

from gmm_dask.errors import UserError

# a Zarr array's stored chunks are read together until a task's chunk has about this size
ZARR_CHUNK_BYTES = 32 << 20


def is_lazy(X: Any) -> bool:
    """Whether X's answers are lazy Dask arrays: it is a Dask array or DataFrame."""
    return isinstance(X, da.Array) or hasattr(X, "to_dask_array")


def read_input(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """X as a NumPy array or a Dask array of floats, one chunk of columns wide.

    Parameters
    ----------
    estimator : BaseEstimator
        Gets ``n_features_in_`` and ``feature_names_in_``, or is compared with them.
    X : array-like of shape (n_rows, n_features)
    reset : bool
        True in ``fit``. Values that are not finite are left to the first pass then; otherwise a NumPy array is
        checked here.

    Raises
    ------
    ValueError
        If X is not two-dimensional, numeric, or does not have the features of the fit.
    """
    if hasattr(X, "to_dask_array"):
        names, X = X._meta, _frame_to_array(X)
    elif _is_zarr(X):
        names, X = None, _zarr_to_array(X)
    elif isinstance(X, da.Array):
        names = None
    else:
        return _check_array(estimator, X, reset)
    array = _require_float_matrix(X)
    template = np.empty((0, array.shape[1])) if names is None else names
    _check_feature_names(estimator, template, reset=reset)
    _check_n_features(estimator, template, reset=reset)
    return array.rechunk({1: -1}) if array.numblocks[1] > 1 else array


def _check_array(estimator: BaseEstimator, X: Any, reset: bool) -> Any:
    """What fits in memory, checked by scikit-learn; a frame's columns that are not numbers are named."""
    try:
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 1,
            ensure_all_finite=not reset,
        )
    except ValueError:
        if hasattr(X, "dtypes") and hasattr(X, "columns"):
            _require_number_columns(X)
        raise


def read_weights(sample_weight: Any, X: Any) -> Any:
    """Sample weights for an X from :func:`read_input`: None, a NumPy array or a Dask array of shape (n_rows,)."""
    if sample_weight is None:
        return None
    if isinstance(X, np.ndarray):
        return _check_sample_weight(sample_weight, X, dtype=np.float64)
    if hasattr(sample_weight, "to_dask_array"):
        sample_weight = sample_weight.to_dask_array()
    elif not isinstance(sample_weight, da.Array):
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
    if sample_weight.ndim != 1 or not _same_length(sample_weight.shape[0], X.shape[0]):
        raise UserError(
            f"sample_weight must have one number a row: expected shape ({X.shape[0]},), got {sample_weight.shape}."
        )
    return sample_weight


def _same_length(a: float, b: float) -> bool:
    return bool(a == b or np.isnan(a) or np.isnan(b))


def _is_zarr(X: Any) -> bool:
    return type(X).__module__.partition(".")[0] == "zarr" and hasattr(X, "chunks")


def _require_number_columns(frame: Any) -> None:
    bad = [str(name) for name, dtype in frame.dtypes.items() if not _is_number(dtype)]
    if bad:
        raise UserError(f"X must have numeric columns only; not numeric: {', '.join(bad)}. Leave them out: X[[...]].")


def _frame_to_array(frame: Any) -> da.Array:
    _require_number_columns(frame)
    # before it is an array: an array of nullable numbers would hold pandas' NA as an object
    return frame.astype(np.float64).to_dask_array()


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "fiub"


def _zarr_to_array(stored: Any) -> da.Array:
    """A Dask array over whole stored chunks (or shards), several together if they are small."""
    if stored.ndim != 2:
        return da.from_array(stored, name=False)
    unit = (getattr(stored, "shards", None) or stored.chunks)[0]
    wanted = ZARR_CHUNK_BYTES // (max(1, stored.shape[1]) * stored.dtype.itemsize)
    return da.from_array(stored, chunks=(unit * max(1, wanted // unit), -1), name=False)


def _require_float_matrix(X: da.Array) -> da.Array:
    if X.ndim != 2:
        raise UserError(
            f"Expected 2D array, got {X.ndim}D array of shape {X.shape} instead: X has a row a sample and a column "
            "a feature. Reshape your data."
        )
    if not _is_number(X.dtype):
        raise UserError(f"X must hold real numbers; got dtype {X.dtype}. Convert it with X.astype(float).")
    if X.shape[1] == 0:
        raise UserError(f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    return X if X.dtype in (np.float64, np.float32) else X.astype(np.float64)


def sample_seed(random_state: Any) -> int:
    """A seed for the sample of rows that leaves the generator of the starts as it is."""
    return int(copy.deepcopy(check_random_state(random_state)).randint(2**31 - 1))
