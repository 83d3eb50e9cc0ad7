"""Rows of three groups, with and without values that are missing, and files of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import zarr

N = 400
NAMES = ["height", "width", "depth"]


def three_groups():
    """Three separate groups in columns of very different units."""
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0, 0], [6, 6, 0], [0, 6, 6]])
    return (centers[rng.integers(0, 3, N)] + rng.normal(size=(N, 3))) * [1.0, 100.0, 0.01] + [5.0, 0.0, -1.0]


def with_holes(rows):
    """The rows with values that are missing or infinite, a whole chunk of them too; and which rows are left."""
    rows = rows.copy()
    rows[[3, 3, 250], [0, 2, 1]] = np.nan
    rows[N - 1, 1] = -np.inf
    rows[50:100, 0] = np.nan
    return rows, np.isfinite(rows).all(axis=1)


def write(kind, path, rows, weights=None):
    """Write the rows into a folder, with a column ``w`` of weights if there are any; returns the file."""
    frame = pd.DataFrame(rows, columns=NAMES)
    if weights is not None:
        frame["w"] = weights
    file = path / f"data.{kind}"
    if kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "parquet":
        frame.to_parquet(file, index=False, row_group_size=50)
    elif kind == "npy":
        np.save(file, rows)
    else:
        group = zarr.create_group(file)
        for name in frame:
            group.create_array(name, data=frame[name].to_numpy(), chunks=(50,))
    return file
