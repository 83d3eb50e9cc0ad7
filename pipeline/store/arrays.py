"""Groups and small arrays of a result store, as xarray reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

StorePath = str | Path
# Zarr writes a file under such a name first; one that stays was left by a process that was killed
HALF_WRITTEN = "*.partial"


def open_root(path: StorePath, mode: Literal["r", "r+"] = "r") -> zarr.Group:
    """The store's root, which must exist."""
    return zarr.open_group(str(path), mode=mode, zarr_format=3, use_consolidated=False)


def attributes_at(path: StorePath) -> dict[str, Any] | None:
    """Return the attributes of the group at a path: None where nothing lies, none where something else lies."""
    place = Path(path)
    if not place.exists() or (place.is_dir() and all(file.match(HALF_WRITTEN) for file in place.iterdir())):
        return None
    try:
        return dict(open_root(path).attrs.asdict())
    except (OSError, ValueError, KeyError):
        return {}


def put(group: zarr.Group, name: str, values: ArrayLike, dimensions: tuple[str, ...]) -> None:
    """Write an array in one chunk; text becomes Zarr's variable-length string type."""
    data = np.asarray(values)
    if data.dtype.kind in "UO":
        data = data.astype(np.dtypes.StringDType())
    chunks = tuple(max(1, size) for size in data.shape)
    # Zarr skips a chunk of zeros by default, and with it the sign of a zero
    config: Any = {"write_empty_chunks": True}
    group.create_array(name, data=data, chunks=chunks, dimension_names=dimensions, config=config)


def get(group: zarr.Group, name: str) -> NDArray[Any]:
    """The values of an array."""
    return np.asarray(cast(zarr.Array[Any], group[name])[...])


def get_text(group: zarr.Group, name: str) -> list[str]:
    """The values of a one-dimensional array of text."""
    return [str(value) for value in get(group, name)]


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping as JSON gives it back: tuples are lists; NaN and infinity, which JSON lacks, are an error."""
    result: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return result
