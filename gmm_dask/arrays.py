"""Arrays as the values that they stand for: those of Zarr and HDF5 decoded, masked values as NaN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from gmm_dask.conventions import CONVENTIONS, MISSING, PACKING, date_units, read_encoding, zarr_attributes
from gmm_dask.errors import UserError

# a Zarr array's stored chunks are read together until a task's chunk has about this size
ZARR_CHUNK_BYTES = 32 << 20


def is_of(package: str, name: str, X: Any) -> bool:
    """Whether X is of a class of a package that need not be installed, or of one derived from it."""
    return any(kind.__module__.partition(".")[0] == package and kind.__name__ == name for kind in type(X).__mro__)


def is_number(dtype: Any) -> bool:
    """Whether a dtype is one of real numbers or booleans."""
    return getattr(dtype, "kind", "O") in "fiub"


def lazy_of_xarray(X: Any) -> Any:
    """Return the Dask array of an ``xarray.DataArray`` that has one; scikit-learn's check would compute it whole."""
    return X.data if is_of("xarray", "DataArray", X) and isinstance(X.data, da.Array) else X


def plain_array(X: Any) -> Any:
    """Return an array as the values that it stands for.

    Parameters
    ----------
    X : array-like
        The numbers of a Zarr array and of an HDF5 dataset are decoded by its attributes, as
        :mod:`gmm_dask.conventions` has them. What is no array is returned as it is.

    Returns
    -------
    array-like
        A Zarr array as a Dask array. A masked value, and one that is missing by the attributes, is NaN.

    Raises
    ------
    UserError
        If it holds dates, or if an attribute is not understood.
    """
    if is_of("xarray", "DataArray", X):
        _require_decoded(X)
    elif type(X).__module__.partition(".")[0] == "zarr" and hasattr(X, "chunks"):
        X = _decoded(_zarr_to_array(X), zarr_attributes(X))
    elif is_of("h5py", "Dataset", X) and any(name in X.attrs for name in ("units", *CONVENTIONS)):
        X = _decoded(X[()], X.attrs)
    return _without_mask(lazy_of_xarray(X))


# -- attributes ----------------------------------------------------------------------------------------------


def _zarr_to_array(stored: Any) -> da.Array:
    """Return a Dask array whose chunks are whole stored chunks (or shards), several together if they are small."""
    if stored.ndim != 2:
        return da.from_array(stored, name=False)
    unit = (getattr(stored, "shards", None) or stored.chunks)[0]
    wanted = ZARR_CHUNK_BYTES // (max(1, stored.shape[1]) * stored.dtype.itemsize)
    return da.from_array(stored, chunks=(unit * max(1, wanted // unit), -1), name=False)


def _decoded(numbers: Any, attributes: Mapping[str, Any]) -> Any:
    if not is_number(numbers.dtype):
        return numbers
    if units := date_units(attributes):
        raise UserError(
            f"X holds dates ({units}), and a date is not a number. Compute what matters of it, such as the day of the "
            "year, or leave it out."
        )
    encoding = read_encoding(attributes, numbers.dtype, "X")
    if encoding.is_plain:
        return numbers
    if isinstance(numbers, da.Array):
        return numbers.map_blocks(encoding.decode, dtype=encoding.dtype)
    return encoding.decode(numbers)


def _require_decoded(X: Any) -> None:
    """Raise :class:`UserError` for an array that xarray opened without decoding it."""
    left = [name for name in (*PACKING, *MISSING) if name in X.attrs]
    if left:
        raise UserError(
            f"X has the attributes {', '.join(left)}, so xarray did not decode it. Open it without "
            "mask_and_scale=False, or decode it: xarray.decode_cf(X.to_dataset(name='x'))['x']."
        )


# -- masks ---------------------------------------------------------------------------------------------------


def _without_mask(X: Any) -> Any:
    if isinstance(X, np.ma.MaskedArray):
        return _with_nan(X)
    if isinstance(X, da.Array) and isinstance(X._meta, np.ma.MaskedArray) and is_number(X.dtype):
        return X.map_blocks(_with_nan, meta=_with_nan(X._meta))
    return X


def _with_nan(values: Any) -> NDArray[Any]:
    """Return a masked array, or one of its chunks, as floating-point numbers with NaN for what is masked."""
    if not is_number(values.dtype):
        return np.ma.getdata(values)
    dtype = values.dtype if values.dtype in (np.float32, np.float64) else np.float64
    filled: NDArray[Any] = np.ma.filled(np.ma.asarray(values).astype(dtype), np.nan)
    return filled
