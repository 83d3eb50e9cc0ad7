"""A job whose report is looked at."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.config.job import JobConfig


def rows_of(features=3, seed=0):
    random = np.random.default_rng(seed)
    centers = np.array([[0.0] * features, [6.0] + [0.0] * (features - 1), [0.0] * (features - 1) + [6.0]])
    return np.concatenate(
        [random.normal(center, 1.0, (n, features)) for center, n in zip(centers, (400, 250, 150), strict=True)]
    )


def job(folder, rows, columns=None, data=None, search=None, output=None):
    names = columns or [f"x{i}" for i in range(rows.shape[1])]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "rows.parquet")
    values = {
        "name": "thirds",
        "data": {"source": str(folder / "rows.parquet"), **(data or {})},
        "search": {"n_components": [1, 2, 3, 4], "init_params": "kmeans", **(search or {})},
        "output": {"store": str(folder / "thirds.zarr"), **(output or {})},
    }
    return JobConfig.model_validate(values)
