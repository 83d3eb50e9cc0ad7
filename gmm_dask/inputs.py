"""Checks of what users pass to an estimator: its parameters, X and the sample weights; and of fitted mixtures.

X may be a NumPy, Dask, Zarr, HDF5 or xarray array, or a pandas or Dask DataFrame. scikit-learn's checks of parameters,
which are not public, are used in this module only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import dask.array as da
import numpy as np
from dask.base import is_dask_collection
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from gmm_dask.arrays import is_number, is_of, lazy_of_xarray, plain_array
from gmm_dask.em.regularization import AUTO
from gmm_dask.errors import UserError
from gmm_dask.formatting import did_you_mean
from gmm_dask.init.starts import INIT_PARAMS
from gmm_dask.labelled import LabelledRows, is_labelled, labelled_rows
from gmm_dask.passes.rows import Rows, as_rows

# -- parameters ----------------------------------------------------------------------------------------------


def at_least(lowest: float, kind: type = Integral) -> Interval:
    """Return the constraint of a number that has a lower end."""
    return Interval(kind, lowest, None, closed="left")


def above(lowest: float) -> Interval:
    """Return the constraint of a real number that is larger than another."""
    return Interval(Real, lowest, None, closed="neither")


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
    "start_effort": [above(0.0)],
    "tol": [at_least(0.0, Real)],
    "reg_covar": [at_least(0.0, Real), one_of([AUTO])],
    "random_state": ["random_state"],
    "accelerate": ["boolean"],
    "feature_dims": [str, "array-like", None],
    "verbose": ["verbose"],
    "verbose_interval": [at_least(1)],
}


def check_parameters(estimator: BaseEstimator) -> None:
    """Compare an estimator's parameters with its ``_parameter_constraints``; raises ValueError, which names them."""
    try:
        estimator._validate_params()
    except InvalidParameterError as error:
        for name, value in estimator.get_params(deep=False).items():
            constraints = estimator._parameter_constraints[name]
            choices = {text for one in constraints if isinstance(one, StrOptions) for text in one.options}
            if choices and isinstance(value, str) and value not in choices:
                hint = did_you_mean(value, sorted(choices))
                raise InvalidParameterError(f"{str(error).rstrip('.')}{hint}.") from None
        raise


def sample_seed(random_state: Any) -> int:
    """Return a seed for the sample of rows; the generator of the starts stays as it is."""
    random = check_random_state(random_state)
    state = random.get_state()
    seed = int(random.randint(2**31 - 1))
    random.set_state(state)
    return seed


def require_mixture(model: Any) -> None:
    """Raise an error for what is no fitted GaussianMixture or GaussianMixtureSearch of this package."""
    if isinstance(model, type) or not hasattr(type(model), "_model"):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        remedy = ""
        if isinstance(model, type):
            remedy = f" Make an estimator, and fit it: {model.__name__}().fit(X)."
        elif is_of("sklearn", "GaussianMixture", model):
            what, remedy = "scikit-learn's GaussianMixture", " Convert it: GaussianMixture.from_sklearn(model)."
        elif isinstance(model, str | os.PathLike):
            remedy = " Load a stored model: gmm_dask.load(path)."
        raise UserError(f"expected a fitted GaussianMixture or GaussianMixtureSearch of gmm_dask; got {what}.{remedy}")
    check_is_fitted(model)


# how an estimator treats missing values
REFUSED, BY_LIKELIHOOD = MISSING = ("error", "likelihood")
# what to do about them where that goes with the other parameters
GAPS_REMEDY = f"Or set missing={BY_LIKELIHOOD!r}, by which rows take part with the values that they have."


def require_combinable(missing: str, **others: Any) -> None:
    """Raise :class:`UserError` if rows with gaps are to take part beside what does not go with them, by its name."""
    for name, value in others.items():
        if missing == BY_LIKELIHOOD and value:
            raise UserError(f"missing={missing!r} does not go with {name}={value!r}: leave one of both out.")


# -- X and weights -------------------------------------------------------------------------------------------


def is_lazy(X: Any) -> bool:
    """Whether X is a Dask array, or xarray's form of one."""
    return isinstance(lazy_of_xarray(X), da.Array)


def is_dask_frame(X: Any) -> bool:
    """Whether X is a Dask DataFrame, or a Series or an index of one."""
    return hasattr(X, "to_dask_array")


def is_pandas_frame(X: Any) -> bool:
    """Whether X is a pandas DataFrame."""
    return is_of("pandas", "DataFrame", X)


def read_rows(estimator: BaseEstimator, X: Any, sample_weight: Any = None, *, reset: bool, gaps: bool = False) -> Rows:
    """Check X and the weights of its rows, as :func:`read_input` and :func:`read_weights` do."""
    if (labelled := read_labelled(estimator, X, reset=reset)) is not None:
        return replace(as_rows(*labelled.rows(sample_weight)), gaps=gaps)
    array = read_input(estimator, X, reset=reset, gaps=gaps)
    return replace(as_rows(array, read_weights(sample_weight, array)), gaps=gaps)


def read_labelled(estimator: BaseEstimator, X: Any, *, reset: bool) -> LabelledRows | None:
    """Check an X of xarray whose rows lie on a grid; None for any other X.

    Raises
    ------
    ValueError
        If the estimator has ``feature_dims`` and is fitted to anything else, or if X has other columns than in the fit.
    """
    feature_dims = getattr(estimator, "feature_dims", None)
    if feature_dims is None:
        return None
    if not is_labelled(X):
        if reset:
            raise UserError(
                f"feature_dims={feature_dims!r} names dimensions of a DataArray or a Dataset of xarray; X is "
                f"{type(X).__name__}. Pass one, or leave feature_dims out."
            )
        return None
    import pandas as pd

    found = labelled_rows(X, feature_dims, () if reset else getattr(estimator, "feature_names_in_", ()))
    template = pd.DataFrame(np.empty((0, len(found.names))), columns=list(found.names))
    validate_data(estimator, template, reset=reset, skip_check_array=True)
    return found


def check_frame(estimator: BaseEstimator, frame: Any) -> None:
    """Compare a Dask DataFrame with the fit; raises ValueError if it does not have its columns, or not as numbers."""
    _require_rows(frame)
    _require_number_columns(frame)
    validate_data(estimator, frame._meta, reset=False, skip_check_array=True)


def read_input(estimator: BaseEstimator, X: Any, *, reset: bool, gaps: bool = False) -> Any:
    """Return X as a NumPy array, or as a Dask array of floats with all columns in each chunk.

    Parameters
    ----------
    estimator : BaseEstimator
        In ``fit`` its ``n_features_in_`` and ``feature_names_in_`` are set, later they are compared with X.
    X : array-like of shape (n_rows, n_features)
        See :func:`gmm_dask.arrays.plain_array`: a masked value is missing, and stored numbers are decoded.
    reset : bool
        True in ``fit``, where the first pass finds values that are not finite, and names rows and columns; otherwise
        they are refused here, in a NumPy array.
    gaps : bool
        Whether values that are not finite are missing, and not refused.

    Raises
    ------
    ValueError
        If X is not two-dimensional, numeric, or does not have the features of the fit, if it holds dates, or if its
        attributes are not understood.
    """
    _require_rows(X)
    X = plain_array(X)
    if is_dask_frame(X):
        names, X = X._meta, _frame_to_array(X)
    elif isinstance(X, da.Array):
        names = None
    else:
        return _check_array(estimator, X, reset, gaps)
    array = _require_float_matrix(X)
    template = np.empty((0, array.shape[1])) if names is None else names
    validate_data(estimator, template, reset=reset, skip_check_array=True)  # names and number of the features
    return array.rechunk({1: -1}) if array.numblocks[1] > 1 else array


def _check_array(estimator: BaseEstimator, X: Any, reset: bool, gaps: bool) -> Any:
    """Let scikit-learn check an X in memory; name the columns of a DataFrame that are not numeric."""
    try:
        return validate_data(
            estimator,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=2 if reset else 0,
            ensure_all_finite=not (reset or gaps),
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
    sample_weight = plain_array(sample_weight)
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


def _require_rows(X: Any) -> None:
    """Raise :class:`UserError` for what has no rows and columns in a form that is read here."""
    if getattr(X, "shape", ()) is None:
        raise UserError(f"X has no values: an empty dataset of HDF5 ({type(X).__name__}) has no rows and columns.")
    kind, ndim = type(X).__name__, getattr(X, "ndim", None)
    if is_labelled(X) and (ndim is None or ndim > 2):
        what = "xarray.Dataset" if ndim is None else f"an xarray.DataArray of {ndim} dimensions"
        raise UserError(
            f"X must be an array of two dimensions or a DataFrame; got {what}. Name the dimensions that are columns in "
            "the parameter feature_dims, such as ['depth'], or [] for a column for each variable; all others are rows."
        )
    if is_dask_collection(X) and not isinstance(ndim, int):
        raise UserError(f"X must be an array or a DataFrame; got a {kind} of Dask. Convert it first.")
    if ndim == 1 and is_dask_frame(X):
        raise UserError(
            f"Expected 2D array, got a {kind} of Dask instead: X has one column per feature. Write X[['a']] for a "
            "single column."
        )
    if is_of("polars", "LazyFrame", X):
        raise UserError("X must be an array or a DataFrame; got polars.LazyFrame. Collect it first: X.collect().")


def _require_number_columns(frame: Any) -> None:
    bad = [str(name) for name, dtype in frame.dtypes.items() if not is_number(dtype)]
    if bad:
        raise UserError(f"X must have numeric columns only; not numeric: {', '.join(bad)}. Leave them out: X[[...]].")


def _frame_to_array(frame: Any) -> da.Array:
    _require_number_columns(frame)
    # before it is an array: an array of nullable numbers would hold pandas' NA as an object
    return frame.astype(np.float64).to_dask_array()


def _require_float_matrix(X: da.Array) -> da.Array:
    if X.ndim != 2:
        raise UserError(
            f"Expected 2D array, got {X.ndim}D array of shape {X.shape} instead: X has one row per sample and one "
            "column per feature. Reshape your data."
        )
    if not is_number(X.dtype):
        raise UserError(f"X must hold real numbers; got dtype {X.dtype}. Convert it with X.astype(float).")
    if X.shape[1] == 0:
        raise UserError(f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    return X if X.dtype in (np.float64, np.float32) else X.astype(np.float64)
