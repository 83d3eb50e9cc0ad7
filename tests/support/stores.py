"""Small result stores, and parts of them that need no job."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gmm_dask.passes.resolution import Resolution
from pipeline.config.job import JobConfig
from pipeline.fit.job import run


def small_store(folder, **output):
    """The configuration and the store of a small job; its best model is tied-k2."""
    rng = np.random.default_rng(0)
    np.save(folder / "rows.npy", np.concatenate([rng.normal(centre, 1.0, (40, 2)) for centre in (0.0, 8.0)]))
    config = JobConfig.model_validate(
        {
            "data": {"source": str(folder / "rows.npy"), "scale": "standard", "chunk_rows": 30},
            "search": {"n_components": [1, 2], "covariance_types": ["tied", "diag"], "init_params": "kmeans"},
            "output": {"store": str(folder / "night.zarr"), "report": False, "responsibilities": True, **output},
        }
    )
    return config, Path(run(config).store)


def stored_data(columns):
    """What a store holds of ten rows of some columns, after pass 0."""
    ones = [1.0] * len(columns)
    contents = {
        "n_rows": 10,
        "total_weight": 10.0,
        **dict.fromkeys(("means", "deviations", "minima", "maxima"), ones),
        "variances": [1.0] * 8,
        "sample": "0" * 64,
        "resolution": Resolution.of(np.eye(10, len(columns))).to_dict(),
    }
    header = {"path": "a.csv", "kind": "csv", "columns": list(columns), "n_rows": 10, "bytes_per_pass": 90}
    chunks = {"chunk_bytes": 1, "group_bytes": 1, "rows": 1}
    return {**header, "files": "1", "chunks": chunks, "missing": {"rows": 0, "columns": {}}, "contents": contents}
