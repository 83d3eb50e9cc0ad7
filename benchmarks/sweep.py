"""The same sweep by scikit-learn's loop and by gmm-dask, in one run on one machine.

Both walk from the same starting parameters for the same number of iterations, so that the answers can be compared
number by number. scikit-learn fits its candidates one after the other; where that would take too long, each is timed
for a few iterations and scaled, and the figure is marked as extrapolated.

    python benchmarks/sweep.py                    # 1 M rows x 8, K = 1..10, four types, 3 starts, 20 iterations
    python benchmarks/sweep.py --rows 200000 --features 32
    python benchmarks/sweep.py --short            # a minute
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import sklearn
from sklearn.mixture import GaussianMixture

from gmm_dask import em
from gmm_dask.criteria import Outcome
from gmm_dask.em import Settings, State
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.scan import as_rows, collect_statistics, one_blas_thread, profile_rows
from gmm_dask.search import check_candidates, evaluate_states, generator_copies
from gmm_dask.seeding import start_states


@dataclass(frozen=True)
class Task:
    rows: int
    features: int
    components: range
    n_init: int
    iterations: int
    timed_iterations: int

    @property
    def settings(self) -> Settings:
        return Settings(tol=0.0, max_iter=self.iterations)

    def __str__(self) -> str:
        ks = f"K = {self.components.start}..{self.components.stop - 1}"
        return (
            f"{self.rows:,} rows x {self.features}, {ks}, {len(FAMILIES)} covariance types, "
            f"{self.n_init} starts, {self.iterations} iterations"
        )


def make_data(task: Task, seed: int = 0) -> np.ndarray:
    """A mixture of five overlapping clusters with correlated features."""
    rng = np.random.default_rng(seed)
    k, d = 5, task.features
    means = rng.normal(scale=3.0, size=(k, d))
    mixing = rng.normal(size=(k, d, d)) / math.sqrt(d) + np.eye(d)
    labels = rng.integers(k, size=task.rows)
    X = rng.normal(size=(task.rows, d))
    for c in range(k):
        X[labels == c] = X[labels == c] @ mixing[c] + means[c]
    return X


def make_starts(X: np.ndarray, task: Task) -> list[State]:
    """k-means starts from a sample of rows, the same for both."""
    sample = X[np.random.default_rng(1).choice(len(X), size=min(len(X), 20_000), replace=False)]
    candidates = check_candidates(task.components, FAMILIES)
    return start_states(
        candidates,
        sample,
        None,
        init_params="kmeans",
        n_init=task.n_init,
        random_state=generator_copies(0),
        reg_covar=task.settings.reg_covar,
    )


def run_ours(X: np.ndarray, starts: list[State], task: Task) -> tuple[float, int, list[Outcome]]:
    """Seconds, passes and outcomes of the whole sweep: pass 0, the iterations and the closing pass."""
    passes = 0

    def count(states: list[State]) -> None:
        nonlocal passes
        passes += 1

    begin = time.perf_counter()
    with one_blas_thread():
        rows = as_rows(X)
        profile = profile_rows(rows, 0)
        states = em.run(starts, partial(collect_statistics, rows, profile), profile.total_weight, task.settings, count)
        outcomes = evaluate_states(rows, profile, states)
    return time.perf_counter() - begin, passes + 2, outcomes


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


def run_sklearn(X: np.ndarray, starts: list[State], task: Task) -> tuple[float, dict[tuple[str, int, int], float]]:
    """Seconds of the loop over all fits, and the BIC of those that were run to the end."""
    total, bics = 0.0, {}
    for state in starts:
        model = sklearn_model(state, task.timed_iterations)
        begin = time.perf_counter()
        model.fit(X)
        seconds = time.perf_counter() - begin
        # fit ends with one more E-step, about half an iteration
        total += seconds * (task.iterations + 0.5) / (task.timed_iterations + 0.5)
        if task.timed_iterations == task.iterations:
            begin = time.perf_counter()
            bics[state.covariance_type, state.n_components, state.start] = model.bic(X)
            total += time.perf_counter() - begin
    return total, bics


def compare(outcomes: list[Outcome], bics: dict[tuple[str, int, int], float]) -> str:
    ours = {(o.state.covariance_type, o.state.n_components, o.state.start): o.bic for o in outcomes}
    worst = max(abs(ours[key] - bic) / abs(bic) for key, bic in bics.items())
    same = min(ours, key=ours.__getitem__)[:2] == min(bics, key=bics.__getitem__)[:2]
    return f"BICs differ by at most {worst:.1e} relative; {'the same winner' if same else 'ANOTHER WINNER'}"


def read_arguments() -> Task:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--components", type=int, default=10, help="largest K")
    parser.add_argument("--n-init", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--timed", type=int, default=3, help="scikit-learn's iterations that are timed")
    parser.add_argument("--short", action="store_true", help="50,000 rows, K = 1..5, all of scikit-learn's iterations")
    given = parser.parse_args()
    if given.short:
        return Task(50_000, given.features, range(1, 6), given.n_init, 10, 10)
    timed = min(given.timed, given.iterations)
    return Task(given.rows, given.features, range(1, given.components + 1), given.n_init, given.iterations, timed)


def main() -> None:
    warnings.simplefilter("ignore")
    task = read_arguments()
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, scikit-learn {sklearn.__version__}")
    print(task)
    X = make_data(task)
    starts = make_starts(X, task)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, passes, outcomes = run_ours(X, starts, task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"gmm-dask      {seconds:9.1f} s   {passes} passes, {passes * X.nbytes / 1e9:.1f} GB read", end="")
    print(f", peak {peak / 1024:,.0f} MiB ({(peak - before) / 1024:,.0f} MiB more than the data)")
    theirs, bics = run_sklearn(X, starts, task)
    extrapolated = "" if bics else f" (extrapolated from {task.timed_iterations} iterations a fit)"
    print(f"scikit-learn  {theirs:9.1f} s   {len(starts)} fits one after the other{extrapolated}")
    print(f"ratio         {theirs / seconds:9.1f}")
    if bics:
        print(compare(outcomes, bics))


if __name__ == "__main__":
    main()
