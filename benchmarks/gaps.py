"""What rows with gaps cost: a pass over them beside one over the same rows without gaps, by the number of patterns.

Nine rows in ten lack about 30 % of their columns, in 1, 10, 100 or 1,000 different ways. A pass takes the statistics of
one model, or of the 36 of a search (K = 1..9, four covariance types), over rows in memory, in seconds of processors.
The least of five counts.

    python benchmarks/gaps.py
"""

from __future__ import annotations

import itertools
import time

import numpy as np

from gmm_dask.families import DEFAULT_TYPES, get_family
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import Rows
from gmm_dask.passes.statistics import collect_statistics

PATTERNS = (1, 10, 100, 1000)
REPEATS = 5
# rows, columns, components of the single model
SHAPES = ((400_000, 10, 5), (400_000, 10, 20), (100_000, 30, 10))


def with_patterns(x: np.ndarray, n_patterns: int, random: np.random.Generator) -> np.ndarray:
    """The rows with so many patterns of gaps, in nine of ten rows."""
    found: dict[bytes, np.ndarray] = {}
    while len(found) < n_patterns:
        gone = random.random(x.shape[1]) < 0.3
        if gone.any() and not gone.all():
            found[gone.tobytes()] = gone
    gone = np.array(list(found.values()))[random.integers(0, n_patterns, len(x))]
    gone[random.random(len(x)) < 0.1] = False
    return np.where(gone, np.nan, x)


def model(covariance_type: str, k: int, d: int, random: np.random.Generator):
    """A model of k components near the origin."""
    roots = random.normal(size=(k, d, d)) / np.sqrt(d)
    full = roots @ roots.transpose(0, 2, 1) + np.eye(d)
    given = {"full": full, "tied": full[0], "diag": np.ones((k, d)), "spherical": np.ones(k)}[covariance_type]
    family = get_family(covariance_type)
    return family, family.parameters(np.full(k, 1.0 / k), random.normal(size=(k, d)), given)


def cpu_seconds(several: list[Rows], models: list) -> list[float]:
    """Return the seconds of processors of a pass over each, taken in turns, so that other work comes to all alike."""
    summaries = [summarize_rows(rows, seed=0) for rows in several]
    known = [summary.known(rows) for summary, rows in zip(summaries, several, strict=True)]
    taken = np.empty((REPEATS + 1, len(several)))
    for turn, place in itertools.product(range(REPEATS + 1), range(len(several))):
        begin = time.process_time()
        collect_statistics(known[place], summaries[place], models)
        taken[turn, place] = time.process_time() - begin
    return taken[1:].min(axis=0).tolist()


def main() -> None:
    """Print a line for each shape and batch: the pass over complete rows, and the others as multiples of it."""
    random = np.random.default_rng(0)
    print(f"{'rows':>8} {'D':>3}  {'models':<24} {'complete':>9}  " + "  ".join(f"{n:>6,}" for n in PATTERNS))
    for n_rows, d, k in SHAPES:
        x = random.normal(size=(n_rows, d))
        batches = {
            f"full, K = {k}": [model("full", k, d, random)],
            "K = 1..9, four types": [model(name, k, d, random) for name in DEFAULT_TYPES for k in range(1, 10)],
        }
        gappy = [Rows(with_patterns(x, n, random), gaps=True) for n in PATTERNS if n < 2**d - 1]
        for name, models in batches.items():
            with one_blas_thread():
                complete, *others = cpu_seconds([Rows(x), *gappy], models)
            found = "  ".join(f"{one / complete:6.2f}" for one in others)
            print(f"{n_rows:>8,} {d:>3}  {name:<24} {1e3 * complete:6.0f} ms  {found}", flush=True)


if __name__ == "__main__":
    main()
