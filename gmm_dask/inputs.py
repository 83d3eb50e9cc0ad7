"""Checks of what users pass to an estimator: its parameters, X and the sample weights.

X may be a NumPy, Dask, Zarr or xarray array, or a pandas or Dask DataFrame. scikit-learn's checks of parameters, which
are not public, are used in this module only.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import dask.array as da
import numpy as np
from dask.base import is_dask_collection
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, validate_data

from gmm_dask.em.regularization import AUTO
from gmm_dask.errors import UserError
from gmm_dask.init.starts import INIT_PARAMS
from gmm_dask.passes.rows import Rows, as_rows

# a Zarr array's stored chunks are read together until a task's chunk has about this size
ZARR_CHUNK_BYTES = 32 << 20


# -- parameters ----------------------------------------------------------------------------------------------


def at_least(lowest: float, kind: type = Integral) -> Interval:
    """Return the constraint of a number that has a lower end."""
    return Interval(kind, lowest, None, closed="left")


def below_one() -> Interval:
    """Return the constraint of a share, 0 <= share < 1."""
    return Interval(Real, 0.0, 1.0, closed="left")


def one_of(names: Iterable[str]) -> StrOptions:
    """Return the constraint of a parameter that takes one of some names."""
    return StrOptions(set(names))


# of the parameters that all estimators have
FIT_CONSTRAINTS: dict[str, list[Any]] = {
    "n_init": [at_least(1)],
    "init_params": [one_of(INIT_PARAMS)],
    "start_effort": [Interval(Real, 0.0, None, closed="neither")],
    "tol": [at_least(0.0, Real)],
    "reg_covar": [at_least(0.0, Real), one_of([AUTO])],
    "random_state": ["random_state"],
    "accelerate": ["boolean"],
}


def check_parameters(estimator: BaseEstimator) -> None:
    """Compare an estimator's parameters with its ``_parameter_constraints``; raises ValueError, which names them."""
    estimator._validate_params()


def sample_seed(random_state: Any) -> int:
    """Return a seed for the sample of rows; the generator of the starts stays as it is."""
    random = check_random_state(random_state)
    state = random.get_state()
    seed = int(random.randint(2**31 - 1))
    random.set_state(state)
    return seed


# -- X and weights -------------------------------------------------------------------------------------------


def is_lazy(X: Any) -> bool:
    """Whether predictions for X are lazy Dask arrays: X is a Dask array or DataFrame, or xarray's form of one."""
    return isinstance(_unwrapped(X), da.Array) or hasattr(X, "to_dask_array")


def read_rows(estimator: BaseEstimator, X: Any, sample_weight: Any = None, *, reset: bool) -> Rows:
    """Check X and the weights of its rows, as :func:`read_input` and :func:`read_weights` do."""
    array = read_input(estimator, X, reset=reset)
    return as_rows(array, read_weights(sample_weight, array))


def read_input(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """Return X as a NumPy array, or as a Dask array of floats with all columns in each chunk.

    Parameters
    ----------
    estimator : BaseEstimator
        In ``fit`` its ``n_features_in_`` and ``feature_names_in_`` are set, later they are compared with X.
    X : array-like of shape (n_rows, n_features)
    reset : bool
        True in ``fit``, where the first pass finds values that are not finite, and names rows and columns; otherwise
        they are refused here, in a NumPy array.

    Raises
    ------
    ValueError
        If X is not two-dimensional, numeric, or does not have the features of the fit.
    """
    X = _unwrapped(X)
    _require_rows(X)
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
    validate_data(estimator, template, reset=reset, skip_check_array=True)  # names and number of the features
    return array.rechunk({1: -1}) if array.numblocks[1] > 1 else array


def _check_array(estimator: BaseEstimator, X: Any, reset: bool) -> Any:
    """Let scikit-learn check an X in memory; name the columns of a DataFrame that are not numeric."""
    try:
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 0,
            ensure_all_finite=not reset,
        )
    except ValueError:
        if hasattr(X, "dtypes") and hasattr(X, "columns"):
            _require_number_columns(X)
        raise


def read_weights(sample_weight: Any, X: Any) -> Any:
    """Return the sample weights for an X from :func:`read_input`: None, or an array of shape (n_rows,).

    Raises
    ------
    ValueError
        If there is not one number per row, or if weights for a NumPy X are not finite.
    """
    if sample_weight is None:
        return None
    if isinstance(X, np.ndarray):
        sample_weight = check_array(
            sample_weight, ensure_2d=False, ensure_min_samples=0, dtype=np.float64, input_name="sample_weight"
        )
    elif hasattr(sample_weight, "to_dask_array"):
        sample_weight = sample_weight.to_dask_array()
    elif not isinstance(sample_weight, da.Array):
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
    if sample_weight.ndim != 1 or not _same_length(sample_weight.shape[0], X.shape[0]):
        raise UserError(
            f"sample_weight must have one number per row: expected shape ({X.shape[0]},), got {sample_weight.shape}."
        )
    return sample_weight


def _same_length(a: float, b: float) -> bool:
    return bool(a == b or np.isnan(a) or np.isnan(b))


def _unwrapped(X: Any) -> Any:
    """Return the Dask array of an ``xarray.DataArray`` that has one; scikit-learn's check would compute it whole."""
    return X.data if _is_of("xarray", "DataArray", X) and isinstance(X.data, da.Array) else X


def _require_rows(X: Any) -> None:
    """Raise :class:`UserError` for what has no rows and columns in a form that is read here."""
    if getattr(X, "shape", ()) is None:
        raise UserError(f"X has no values: an empty dataset of HDF5 ({type(X).__name__}) has no rows and columns.")
    kind, ndim = type(X).__name__, getattr(X, "ndim", None)
    if is_dask_collection(X) and not isinstance(ndim, int):
        raise UserError(f"X must be an array or a DataFrame; got a {kind} of Dask. Convert it first.")
    if ndim == 1 and hasattr(X, "to_dask_array"):
        raise UserError(
            f"Expected 2D array, got a {kind} of Dask instead: X has one column per feature. Write X[['a']] for a "
            "single column."
        )
    if _is_of("polars", "LazyFrame", X):
        raise UserError("X must be an array or a DataFrame; got polars.LazyFrame. Collect it first: X.collect().")
    if _is_of("xarray", "Dataset", X):
        raise UserError(
            "X must be an array or a DataFrame; got xarray.Dataset. Make one array of its variables, with a column for "
            "each: X.to_dataarray('feature').transpose(..., 'feature')."
        )


def _is_of(package: str, name: str, X: Any) -> bool:
    """Whether X is of a class of a package that need not be installed."""
    return type(X).__module__.partition(".")[0] == package and type(X).__name__ == name


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
    """Return a Dask array whose chunks are whole stored chunks (or shards), several together if they are small."""
    if stored.ndim != 2:
        return da.from_array(stored, name=False)
    unit = (getattr(stored, "shards", None) or stored.chunks)[0]
    wanted = ZARR_CHUNK_BYTES // (max(1, stored.shape[1]) * stored.dtype.itemsize)
    return da.from_array(stored, chunks=(unit * max(1, wanted // unit), -1), name=False)


def _require_float_matrix(X: da.Array) -> da.Array:
    if X.ndim != 2:
        raise UserError(
            f"Expected 2D array, got {X.ndim}D array of shape {X.shape} instead: X has one row per sample and one "
            "column per feature. Reshape your data."
        )
    if not _is_number(X.dtype):
        raise UserError(f"X must hold real numbers; got dtype {X.dtype}. Convert it with X.astype(float).")
    if X.shape[1] == 0:
        raise UserError(f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    return X if X.dtype in (np.float64, np.float32) else X.astype(np.float64)
