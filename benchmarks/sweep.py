"""The same sweep by scikit-learn's loop and by gmm-dask, in one run on one machine.

Both walk from the same starting parameters for the same number of iterations. scikit-learn fits its candidates one
after the other; where that would take too long, each is timed for a few iterations and scaled, and the figure is
marked as extrapolated. The answers are compared after the iterations that both have done: where scikit-learn's are
few, ours are run once more for as many, which is in nobody's time. Each side runs in a process of its own, so that
its peak of memory is its own too.

    python benchmarks/sweep.py                    # 1 M rows x 8, K = 1..10, four types, 3 starts, 20 iterations
    python benchmarks/sweep.py --rows 200000 --features 32
    python benchmarks/sweep.py --short            # a minute
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import sklearn
from machine import describe_machine, peak_mib
from sklearn.mixture import GaussianMixture

from gmm_dask.em import loop
from gmm_dask.em.loop import Settings, State
from gmm_dask.families import DEFAULT_TYPES, get_family
from gmm_dask.init.starts import first_states
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics
from gmm_dask.selection.grid import check_candidates, generator_copies
from gmm_dask.selection.outcomes import evaluate_states

Fit = tuple[str, int, int]  # covariance type, number of components, start
N_CLUSTERS = 5


@dataclass(frozen=True)
class Task:
    rows: int
    features: int
    components: range
    n_init: int
    iterations: int
    timed_iterations: int

    @property
    def extrapolated(self) -> bool:
        return self.timed_iterations < self.iterations

    def __str__(self) -> str:
        ks = f"K = {self.components.start}..{self.components.stop - 1}"
        return (
            f"{self.rows:,} rows x {self.features}, {ks}, {len(DEFAULT_TYPES)} covariance types, "
            f"{self.n_init} starts, {self.iterations} iterations"
        )


@dataclass(frozen=True)
class Measured:
    """Seconds of a sweep, the BICs it ended with, and the peak of memory in MiB.

    ``growth`` is how far the peak is above that of loading code and data; compiled kernels, loaded later, are in it.
    """

    seconds: float
    bics: dict[Fit, float]
    peak: float
    growth: float

    @property
    def memory(self) -> str:
        return f"peak {self.peak:,.0f} MiB, {self.growth:,.0f} MiB more than with the data loaded"


def make_data(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    """A mixture of overlapping clusters with correlated features."""
    rng = np.random.default_rng(seed)
    k, d = N_CLUSTERS, n_features
    means = rng.normal(scale=3.0, size=(k, d))
    mixing = rng.normal(size=(k, d, d)) / math.sqrt(d) + np.eye(d)
    labels = rng.integers(k, size=n_rows)
    X = rng.normal(size=(n_rows, d))
    for c in range(k):
        X[labels == c] = X[labels == c] @ mixing[c] + means[c]
    return X


def make_starts(X: np.ndarray, task: Task) -> list[State]:
    """k-means starts from a sample of rows, the same for both."""
    sample = X[np.random.default_rng(1).choice(len(X), size=min(len(X), 20_000), replace=False)]
    return first_states(
        check_candidates(task.components, DEFAULT_TYPES),
        summarize_rows(as_rows(sample), 0),
        init_params="kmeans",
        n_init=task.n_init,
        random_state=generator_copies(0),
        reg_covar=Settings().reg_covar,
    )


def measured_alone(side: Callable[..., tuple[float, dict[Fit, float]]], *arguments: object) -> Measured:
    """What a side takes in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, side, *arguments).result()


def _measured(side: Callable[..., tuple[float, dict[Fit, float]]], data: Path, *arguments: object) -> Measured:
    warnings.simplefilter("ignore")
    X = np.load(data)
    loaded = peak_mib()
    seconds, bics = side(X, *arguments)
    return Measured(seconds, bics, peak_mib(), peak_mib() - loaded)


def run_ours(X: np.ndarray, starts: list[State], iterations: int) -> tuple[float, dict[Fit, float]]:
    """Seconds and BICs of the whole sweep: pass 0, the iterations and the final pass."""
    settings = Settings(tol=0.0, max_iter=iterations)
    begin = time.perf_counter()
    with one_blas_thread():
        rows = as_rows(X)
        data_summary = summarize_rows(rows, 0)
        states = loop.run(starts, partial(collect_statistics, rows, data_summary), data_summary.total_weight, settings)
        outcomes = evaluate_states(rows, data_summary, states)
    seconds = time.perf_counter() - begin
    return seconds, {fit_of(outcome.state): outcome.criteria["bic"] for outcome in outcomes}


def run_sklearn(X: np.ndarray, starts: list[State], task: Task) -> tuple[float, dict[Fit, float]]:
    """Seconds of the loop over all fits, and their BICs, which are not timed."""
    total, bics = 0.0, {}
    for state in starts:
        model = sklearn_model(state, task.timed_iterations)
        begin = time.perf_counter()
        model.fit(X)
        seconds = time.perf_counter() - begin
        # fit ends with one more E-step, about half an iteration
        total += seconds * (task.iterations + 0.5) / (task.timed_iterations + 0.5)
        bics[fit_of(state)] = model.bic(X)
    return total, bics


def sklearn_model(state: State, iterations: int) -> GaussianMixture:
    parameters = state.parameters
    return GaussianMixture(
        state.n_components,
        covariance_type=state.covariance_type,
        tol=0.0,
        max_iter=iterations,
        weights_init=parameters.weights / parameters.weights.sum(),
        means_init=parameters.means,
        precisions_init=get_family(state.covariance_type).precisions(parameters.precisions_cholesky),
    )


def fit_of(state: State) -> Fit:
    return state.covariance_type, state.n_components, state.start


def compare(ours: dict[Fit, float], theirs: dict[Fit, float], iterations: int) -> str:
    """How far the BICs differ, and whether the winner is the same."""
    worst = max(abs(ours[fit] - bic) / abs(bic) for fit, bic in theirs.items())
    same = min(ours, key=ours.__getitem__)[:2] == min(theirs, key=theirs.__getitem__)[:2]
    winner = "the same winner" if same else "ANOTHER WINNER"
    return f"after {iterations} iterations: {winner}, {len(theirs)} BICs that differ by at most {worst:.1e} relative"


def read_arguments() -> Task:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--components", type=int, default=10, help="largest K")
    parser.add_argument("--n-init", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--timed", type=int, default=2, help="scikit-learn's iterations that are timed")
    parser.add_argument("--short", action="store_true", help="50,000 rows, K = 1..5, all of scikit-learn's iterations")
    given = parser.parse_args()
    if given.short:
        return Task(50_000, given.features, range(1, 6), given.n_init, 10, 10)
    timed = min(given.timed, given.iterations)
    return Task(given.rows, given.features, range(1, given.components + 1), given.n_init, given.iterations, timed)


def report(task: Task, data: Path, starts: list[State]) -> None:
    """Run both sides one after the other, and print what they took."""
    ours = measured_alone(run_ours, data, starts, task.iterations)
    passes = task.iterations + 2
    print(f"gmm-dask      {ours.seconds:9.1f} s   {passes} passes, {passes * data.stat().st_size / 1e9:.1f} GB read")
    print(f"                            {ours.memory}")
    theirs = measured_alone(run_sklearn, data, starts, task)
    extrapolated = f" (extrapolated from {task.timed_iterations} iterations a fit)" if task.extrapolated else ""
    print(f"scikit-learn  {theirs.seconds:9.1f} s   {len(starts)} fits one after the other{extrapolated}")
    print(f"                            {theirs.memory}")
    print(f"ratio         {theirs.seconds / ours.seconds:9.1f}")
    if task.extrapolated:
        ours = measured_alone(run_ours, data, starts, task.timed_iterations)
    print(compare(ours.bics, theirs.bics, task.timed_iterations))


def main() -> None:
    warnings.simplefilter("ignore")
    task = read_arguments()
    print(f"{describe_machine()}, scikit-learn {sklearn.__version__}")
    print(task, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.npy"
        X = make_data(task.rows, task.features)
        np.save(data, X)
        report(task, data, make_starts(X, task))


if __name__ == "__main__":
    main()
