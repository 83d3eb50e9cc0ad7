"""One pass with mclust's fourteen covariance models beside one with scikit-learn's four.

The models share the read and the lines of a block; each has log densities and sums of its own, so that a pass costs
about what its columns of the feature map, times components, add up to, and the softmax of its components. Rows are in
memory, or in a compressed Zarr array on disk; figures are processor seconds, the least of three passes. The share of
the softmax is that of a block, which is repeated.

    python benchmarks/covariance_models.py      # about two minutes
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from machine import describe_machine

from gmm_dask import kernels
from gmm_dask.families import DEFAULT_TYPES, FAMILIES, get_family
from gmm_dask.passes.data_summary import DataSummary, summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model, build_batch
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics

COUNTS = range(1, 11)


def models_of(names: Sequence[str], n_features: int) -> list[Model]:
    """A mixture of each model and number of components, drawn at random."""
    random, found = np.random.default_rng(0), []
    for name in names:
        for k in COUNTS:
            roots = random.normal(size=(k, n_features, 2 * n_features))
            matrices = roots @ roots.transpose(0, 2, 1) / (2 * n_features)
            variances = np.diagonal(matrices, axis1=1, axis2=2)
            family = get_family(name)
            shapes = {"full": matrices, "tied": matrices[0], "diag": variances, "spherical": variances[:, 0]}
            means = 2.0 * random.normal(size=(k, n_features))
            found.append((family, family.nearest(np.full(k, 1.0 / k), means, shapes[family.sklearn_type])))
    return found


def columns_of(names: Sequence[str], n_features: int) -> int:
    """Columns of the feature map of each component, in all."""
    columns = [get_family(name).fit_columns(n_features) for name in names]
    return sum(COUNTS) * sum(mine.stop - mine.start for mine in columns)


def processor_seconds(function: Callable[[], Any]) -> float:
    """The least of three calls, after one that compiles."""
    function()
    found = []
    for _ in range(3):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def softmax_seconds(n_rows: int, data_summary: DataSummary, models: Sequence[Model]) -> float:
    """What the softmax of a pass over so many rows takes, from that of a block of each group of models."""
    total = 0.0
    for group in build_batch(models, data_summary.center, data_summary.scatter).groups:
        _, logits, shares = group.workspace(n_rows)
        n_block_rows, n_models = logits.shape[1], len(group.members)
        shares[-1] = 1.0
        drawn = 5.0 * np.random.default_rng(0).normal(size=logits.shape)
        inputs = group.edges, shares[-1], shares[:n_models], shares[n_models:-1], n_block_rows
        repeated = partial(_softmax_of_block, -(-n_rows // n_block_rows), logits, drawn, inputs)
        total += processor_seconds(partial(repeated, kernels.softmax)) - processor_seconds(partial(repeated, None))
    return total


def _softmax_of_block(
    repeats: int, logits: np.ndarray, drawn: np.ndarray, inputs: tuple[Any, ...], softmax: Callable[..., Any] | None
) -> None:
    """Take the softmax of the same block again and again, or only fill the block."""
    for _ in range(repeats):
        logits[:] = drawn
        if softmax is not None:
            softmax(logits, *inputs)


def main() -> None:
    """Print a line for each number of features and each place of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    print(describe_machine())
    print(f"{arguments.rows:,} rows, K = 1 to 10, processor seconds of a pass")
    print("D  rows       four  fourteen  ratio  ratio of the columns  softmax of four, of fourteen")
    with tempfile.TemporaryDirectory() as folder, one_blas_thread():
        for d in (2, 4, 8, 16):
            X = np.random.default_rng(0).normal(size=(arguments.rows, d))
            path = str(Path(folder) / f"{d}.zarr")
            da.from_array(X, chunks=(50_000, d)).to_zarr(path)
            for place, source in {"in memory": X, "in Zarr": da.from_zarr(path)}.items():
                rows = as_rows(source)
                summary = summarize_rows(rows, 0)
                four, fourteen = (
                    processor_seconds(partial(collect_statistics, rows, summary, models_of(names, d)))
                    for names in (DEFAULT_TYPES, tuple(FAMILIES))
                )
                columns = columns_of(tuple(FAMILIES), d) / columns_of(DEFAULT_TYPES, d)
                softmax = [
                    softmax_seconds(len(X), summary, models_of(names, d)) for names in (DEFAULT_TYPES, tuple(FAMILIES))
                ]
                print(
                    f"{d:2} {place:9} {four:5.2f} {fourteen:9.2f} {fourteen / four:6.2f} {columns:9.2f}"
                    f" {softmax[0]:18.2f} {softmax[1]:8.2f}"
                )


if __name__ == "__main__":
    main()
