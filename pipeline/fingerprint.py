"""Whether data is the data that a result was made from: its header, its files' time, and what pass 0 found."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.profile import Profile
from pipeline.sources import Source, last_modified

# moments of the same rows, summed by other versions or processors, agree to better than this
TOLERANCE = 1e-9


def header_of(source: Source) -> dict[str, Any]:
    """What the data's header tells, without reading a row."""
    return {
        "path": source.path,
        "kind": source.kind,
        "columns": list(source.columns),
        "n_rows": source.n_rows,
        "bytes_per_pass": source.bytes_per_pass,
        "modified": last_modified(source.path),
    }


def contents_of(profile: Profile) -> dict[str, Any]:
    """What pass 0 found: rows, weight, and each column's mean and standard deviation."""
    return {
        "n_rows": profile.n_rows,
        "total_weight": profile.total_weight,
        "means": profile.center.tolist(),
        "deviations": np.sqrt(np.diagonal(profile.scatter) / profile.total_weight).tolist(),
    }


def require_same_contents(path: str, columns: tuple[str, ...], there: dict[str, Any], here: dict[str, Any]) -> None:
    """Compare what pass 0 finds with what a stored result was made from.

    Raises
    ------
    UserError
        If they differ; the message names the first difference.
    """
    difference = _difference(columns, there, here)
    if difference:
        raise UserError(
            f"the result store {path} is of other data, or its data has changed: {difference}. Choose another "
            "output.store, or replace this one with --fresh."
        )


def _difference(columns: tuple[str, ...], there: dict[str, Any], here: dict[str, Any]) -> str | None:
    for key in ("n_rows", "total_weight"):
        if not np.isclose(there[key], here[key], rtol=TOLERANCE):
            return f"{key} was {there[key]:,} and is {here[key]:,}"
    scale = np.abs(there["means"]) + np.array(there["deviations"])
    for key, word in (("means", "mean"), ("deviations", "standard deviation")):
        off = np.abs(np.subtract(there[key], here[key])) > TOLERANCE * scale
        if off.any():
            i = int(off.argmax())
            return f"the {word} of column {columns[i]!r} was {there[key][i]:.10g} and is {here[key][i]:.10g}"
    return None
