"""The fingerprint of data, by which a resumed job recognises them: the header, the list of files, and pass 0."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.errors import ChangedRowsError
from gmm_dask.passes.data_summary import DataSummary
from pipeline.sources import Source
from pipeline.sources.location import Location, stored_files
from pipeline.sources.retries import read_with_retries

# relative: moments of the same rows, summed by other versions or processors, agree to better than this
TOLERANCE = 1e-9
# covariances are compared by the variances in this many fixed directions: all pairs would be too many to store
DIRECTIONS = 8

Array = NDArray[np.float64]


def header_of(source: Source) -> dict[str, Any]:
    """Return what the data's header contains, without reading a row."""
    return {
        "path": source.path,
        "kind": source.format.name,
        "columns": list(source.columns),
        "n_rows": source.n_rows,
        "bytes_per_pass": source.bytes_per_pass,
        "files": _digest_of_files(source),
        **({} if source.version is None else {"version": source.version}),
    }


def _digest_of_files(source: Source) -> str:
    """Return a hash of the files' names, sizes and times, or etags; of Parquet's footers and Zarr's metadata, too."""
    found = hashlib.sha256(repr(source.chunks.identity).encode())
    if source.format.is_store:
        for file in read_with_retries(_files, source.location):  # they could be opened before
            found.update(repr(file).encode())
    return found.hexdigest()


def _files(location: Location) -> list[tuple[str, tuple[Any, ...]]]:
    return list(stored_files(location))


def contents_of(data_summary: DataSummary) -> dict[str, Any]:
    """What pass 0 found: rows, weight, columns' moments, ranges and resolution, how columns vary together, some rows.

    All this is of the rows that are fitted; those held out are counted, and have means.

    The data summary is as pass 0 leaves it, with its whole sample.
    """
    deviations = np.sqrt(np.diagonal(data_summary.scatter) / data_summary.total_weight)
    directions = _directions(deviations)
    variances = np.einsum("ij,jk,ik->i", directions, data_summary.scatter, directions, optimize=True)
    return {
        "n_rows": data_summary.n_rows,
        "total_weight": data_summary.total_weight,
        "means": data_summary.center.tolist(),
        "deviations": deviations.tolist(),
        "minima": data_summary.minimum.tolist(),
        "maxima": data_summary.maximum.tolist(),
        "variances": (variances / data_summary.total_weight).tolist(),
        "sample": _digest(data_summary),
        "resolution": data_summary.resolution.to_dict(),
        **_held_out(data_summary),
    }


def _held_out(data_summary: DataSummary) -> dict[str, Any]:
    """Rows, weight and means of the rows that are held out; nothing where none are."""
    found = data_summary.held_out
    if found is None:
        return {}
    return {
        "held_out": {"n_rows": found.n_rows, "total_weight": found.total_weight, "means": found.center.tolist()},
    }


def _directions(deviations: Array) -> Array:
    """Pseudo-random directions, always the same, in the columns' own units; a constant column has no part in them."""
    varies = deviations > 0.0
    directions = np.random.Generator(np.random.Philox(0)).standard_normal((DIRECTIONS, len(deviations)))
    return np.where(varies, directions / np.where(varies, deviations, 1.0), 0.0)


def _digest(data_summary: DataSummary) -> str:
    """Return a hash of the sample's rows and weights, in their order."""
    found = hashlib.sha256(np.ascontiguousarray(data_summary.sample))
    if data_summary.sample_weights is not None:
        found.update(np.ascontiguousarray(data_summary.sample_weights))
    return found.hexdigest()


def require_same_contents(path: str, columns: tuple[str, ...], there: dict[str, Any], here: dict[str, Any]) -> None:
    """Compare the contents of the data with those that a stored result was made from.

    Raises
    ------
    ChangedRowsError
        If they differ; the message names the first difference.
    """
    difference = _difference(columns, there, here)
    if difference:
        raise ChangedRowsError(
            difference,
            f"the result store {path} belongs to other data, or its data have changed: {difference}. Set another "
            "output.store, or replace this one with --fresh.",
        )


def _difference(columns: tuple[str, ...], there: dict[str, Any], here: dict[str, Any]) -> str | None:
    if len(there["means"]) != len(here["means"]):
        return f"it had {len(there['means'])} columns and has {len(here['means'])}"
    for key in ("n_rows", "total_weight"):
        if not np.isclose(there[key], here[key], rtol=TOLERANCE):
            return f"{key} was {there[key]:,} and is {here[key]:,}"
    return (
        _difference_of_columns(columns, there, here)
        or _difference_of_rows(there, here)
        or _difference_of_held_out(there, here)
    )


def _difference_of_columns(columns: tuple[str, ...], there: dict[str, Any], here: dict[str, Any]) -> str | None:
    words = {"means": "mean", "deviations": "standard deviation", "minima": "minimum", "maxima": "maximum"}
    scale = np.abs(there["means"]) + np.array(there["deviations"])
    for key, word in words.items():
        off = np.abs(np.subtract(there[key], here[key])) > TOLERANCE * scale
        if off.any():
            i = int(off.argmax())
            return f"the {word} of column {columns[i]!r} was {there[key][i]:.10g} and is {here[key][i]:.10g}"
    return None


def _difference_of_rows(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    means, deviations = np.abs(there["means"]), np.array(there["deviations"])
    weights = np.abs(_directions(deviations))
    # a covariance is rounded by the size of one column times the spread of the other
    size = (weights @ deviations) * (weights @ (deviations + 2.0 * means))
    if np.any(np.abs(np.subtract(there["variances"], here["variances"])) > TOLERANCE * size):
        return "its columns vary together differently"
    if there["sample"] != here["sample"]:
        return "its rows were changed or reordered"
    return None


def _difference_of_held_out(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    if "held_out" not in there:
        return None
    scale = np.abs(there["means"]) + np.array(there["deviations"])
    before, now = there["held_out"], here["held_out"]
    off = np.abs(np.subtract(before["means"], now["means"])) > TOLERANCE * scale
    same = all(np.isclose(before[key], now[key], rtol=TOLERANCE) for key in ("n_rows", "total_weight"))
    return None if same and not off.any() else "the rows that are held out were changed"
