"""How good the optima are: the search for starts, beside scikit-learn with one start and with ten times as many.

Every cell of a table (numbers of components by covariance types) is fitted with the same tolerance. Best known is the
highest likelihood of all runs and of a thorough search with many starts of several kinds. Spurious optima are left out
on all sides, ours by their status, scikit-learn's by the status that the same checks give its parameters: they are
never the best known, and a run that ends at one has not reached its cell. A model is right if it has the number of
components that the data were made with, and a type that holds them. Passes are those after the starts: ours are fitted
beforehand, in memory, to 8,192 rows or more, which for such small sets is all of them or most. The seconds are those of
everything; scikit-learn runs on one BLAS thread, which is its fastest on such small sets.

There are two collections of sets. The search for starts was developed on the first, so that its figures are too good.
Nothing is chosen by the second: real data, and mixtures whose dimensions, components, overlap and shapes are drawn at
random, anew with another ``--seed``.

Then, of the first collection, cell by cell: how many passes over all rows our starts leave to do, and how many plain EM
takes from k-means, to the lower of the likelihoods that the two end at (within 1e-6 a row). Here some sets are larger
than any sample.

    python benchmarks/optima.py                             # more than an hour, most of it scikit-learn's
    python benchmarks/optima.py --sets unseen --seed 7      # the second collection
    python benchmarks/optima.py --short                     # some minutes: three sets, one random state
    python benchmarks/optima.py --passes                    # the second part alone, of either
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import sklearn
from machine import describe_machine
from sklearn import datasets, mixture
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from gmm_dask import GaussianMixture, GaussianMixtureSearch
from gmm_dask.em.loop import State
from gmm_dask.em.spurious import check_parameters
from gmm_dask.em.status import Status
from gmm_dask.families import DEFAULT_TYPES, Parameters, get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.selection.criteria import best_position
from gmm_dask.selection.outcomes import evaluate_states

REACHED = 1e-4  # log-likelihood a row
SETTINGS = {"tol": 1e-6, "max_iter": 1000}
SAME = 1e-6  # log-likelihood a row
TO_THE_END = {"tol": 1e-8, "max_iter": 5000}
Cell = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Data:
    """Rows, the grid that is searched, what they were made of (None if nobody knows), and their resolution."""

    name: str
    X: np.ndarray
    ks: range
    right: set[Cell] | None = None
    reg_covar: float = 1e-6


@dataclass(frozen=True)
class Result:
    """Bounds of the cells (NaN where they are not trusted), the choice, seconds, CPU seconds and reads of the data."""

    bounds: dict[Cell, float]
    choice: Cell
    seconds: float
    cpu: float
    passes: int


class Stopwatch:
    """Adds up the seconds and the CPU seconds of what runs in it."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter()
        self.cpu += time.process_time()


# -- the data ------------------------------------------------------------------------------------------------------


def rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def groups(rng, n, k, d, apart, *, stretch=0.5, concentration=5.0) -> np.ndarray:
    """Rows of k groups of their own shapes; the standard deviations' logarithms have a deviation of ``stretch / 2``."""
    weights = np.maximum(rng.dirichlet(np.full(k, concentration)), 0.3 / k)
    counts = rng.multinomial(n, weights / weights.sum())
    parts = []
    for count in counts:
        widths = np.exp(rng.normal(size=d) * stretch / 2)
        parts.append(rng.normal(size=d) * apart + (rng.normal(size=(count, d)) * widths) @ rotation(d, rng))
    return np.concatenate(parts)


def cigars(rng, centers, widths) -> np.ndarray:
    parts = [rng.normal(center, width, (400, 2)) for center, width in zip(centers, widths, strict=True)]
    return np.concatenate(parts) @ rotation(2, rng)


def sets_of_development() -> Iterator[Data]:
    rng = np.random.default_rng
    yield Data("iris", datasets.load_iris().data, range(1, 5))
    yield Data("wine", datasets.load_wine().data[:, :6], range(1, 4))
    shapes = {(3, "full"), (3, "tied")}
    parallel = cigars(rng(1), [(0, 0), (0, 1.2), (0, 2.4)], [(5, 0.2)] * 3)
    yield Data("parallel cigars", parallel, range(1, 6), {(name, k) for k, name in shapes})
    yield Data("crossing cigars", cigars(rng(2), [(0, 0)] * 2, [(3, 0.2), (0.2, 3)]), range(1, 5), {("full", 2)})
    yield Data("overlapping", groups(rng(3), 5_000, 4, 2, 1.6), range(1, 6), {("full", 4)})
    yield Data("unequal weights", groups(rng(5), 5_000, 6, 3, 1.8, concentration=1.0), range(2, 8), {("full", 6)})
    yield Data("stretched, D = 8", groups(rng(6), 5_000, 5, 8, 0.8, stretch=2.4), range(2, 8), {("full", 5)})
    yield Data("20 groups", groups(rng(7), 5_000, 20, 3, 4.0), range(18, 22), {("full", 20)})
    yield Data("D = 50", groups(rng(8), 5_000, 5, 50, 0.7), range(3, 7), {("full", 5)})
    heavy = groups(rng(9), 5_000, 3, 3, 3.0)
    yield Data("heavy tails", heavy + 0.2 * rng(9).standard_t(4, heavy.shape), range(1, 6))
    whole = np.round(4 * groups(rng(10), 5_000, 4, 3, 2.5))
    yield Data("whole numbers", whole, range(2, 6), {("full", 4)}, reg_covar=1 / 12)
    twice = np.repeat(groups(rng(11), 1_250, 3, 2, 3.0), 4, axis=0)
    yield Data("every row four times", twice, range(1, 5), reg_covar=1e-4)


def random_mixture(number: int, seed: int) -> Data:
    """Draw everything: 400 to 6,000 rows of 2 to 10 columns; 2 to 7 groups, more or less apart, equal and stretched."""
    rng = np.random.default_rng([number, seed])
    n, d, k = int(400 * 15 ** rng.uniform()), int(rng.integers(2, 11)), int(rng.integers(2, 8))
    # centers are 2 to 5 from the middle, where a group's standard deviation is about 1
    apart, stretch, concentration = rng.uniform(2, 5) / np.sqrt(d), rng.uniform(0.2, 2.0), rng.uniform(1, 10)
    rows = groups(rng, n, k, d, apart, stretch=stretch, concentration=concentration)
    return Data(f"random mixture {number}", rows, range(max(1, k - 2), k + 3), {("full", k)})


def unseen_sets(seed: int) -> Iterator[Data]:
    from palmerpenguins import load_penguins

    for number in range(1, 13):
        yield random_mixture(number, seed)
    measures = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
    yield Data("penguins", load_penguins()[measures].dropna().to_numpy(float), range(1, 7))
    yield Data("wine, all columns", datasets.load_wine().data, range(1, 6))
    yield Data("breast cancer", datasets.load_breast_cancer().data, range(1, 5))
    yield Data("digits by PCA", PCA(8, random_state=0).fit_transform(datasets.load_digits().data), range(8, 12))


def large_sets() -> Iterator[Data]:
    rng = np.random.default_rng
    yield Data("1,000,000 rows, overlapping", groups(rng(12), 1_000_000, 4, 2, 1.6), range(3, 6))
    yield Data("600,000 rows, stretched, D = 8", groups(rng(13), 600_000, 5, 8, 0.8, stretch=2.4), range(4, 7))


# -- the sides -----------------------------------------------------------------------------------------------------


def ours(data: Data, seed: int, n_init: int = 1, init_params: str = "auto") -> Result:
    spent = Stopwatch()
    with spent:
        search = GaussianMixtureSearch(
            data.ks, n_init=n_init, init_params=init_params, reg_covar=data.reg_covar, random_state=seed, **SETTINGS
        ).fit(data.X)
    table = search.results_
    bounds = table["log_likelihood"].where(table["delta"].notna()) / len(data.X)
    cells = list(zip(table["covariance_type"], table["n_components"], strict=True))
    best = search.best_params_
    choice = best["covariance_type"], best["n_components"]
    passes = int(table["n_iter"].max()) + 2
    return Result(dict(zip(cells, bounds, strict=True)), choice, spent.seconds, spent.cpu, passes)


def is_sound(data: Data, name: str, found: Parameters) -> bool:
    """Whether our statuses would trust these parameters."""
    rows = as_rows(data.X, None)
    objection = check_parameters(get_family(name), found, len(data.X), data.reg_covar)
    state = State(Candidate(name, len(found.weights)), 0, found, status=objection or Status.CONVERGED)
    (outcome,) = evaluate_states(rows, summarize_rows(rows, 0), [state])
    return outcome.state.status.trusted


def theirs(data: Data, seed: int, n_init: int) -> Result:
    bounds, bics, sizes, passes, spent = {}, [], [], 0, Stopwatch()
    for name in DEFAULT_TYPES:
        for k in data.ks:
            with spent, threadpool_limits(1):
                fitted = mixture.GaussianMixture(
                    k, covariance_type=name, n_init=n_init, reg_covar=data.reg_covar, random_state=seed, **SETTINGS
                ).fit(data.X)
                bics.append(fitted.bic(data.X))
            sizes.append(get_family(name).n_parameters(k, data.X.shape[1]))
            passes += n_init * fitted.n_iter_ + 1  # of its other starts only the best one's number is known
            found = Parameters(fitted.weights_, fitted.means_, fitted.covariances_, fitted.precisions_cholesky_)
            bounds[name, k] = fitted.score(data.X) if is_sound(data, name, found) else np.nan
    best = best_position(bics, sizes, [True] * len(bics))
    assert best is not None
    return Result(bounds, list(bounds)[best], spent.seconds, spent.cpu, passes)


SIDES: dict[str, Callable[[Data, int], Result]] = {
    "gmm-dask, auto": ours,
    "scikit-learn, n_init=1": partial(theirs, n_init=1),
    "scikit-learn, n_init=10": partial(theirs, n_init=10),
}


def thorough(data: Data) -> list[Result]:
    """Many starts of several kinds, to know the best."""
    kinds = [ours(data, seed, n_init=10, init_params=kind) for seed, kind in ((101, "kmeans"), (102, "k-means++"))]
    return [*kinds, *(ours(data, seed, n_init=3) for seed in (103, 104))]


# -- the comparison ------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """Of one side, over random states and sets: cells reached, cells, right models, seconds, CPU seconds and passes."""

    reached: int
    cells: int
    right: int
    seconds: float
    cpu: float
    passes: int

    def describe(self, known: int) -> str:
        """In words; ``known`` is the number of choices of which it is known what is right."""
        share = f"{self.reached / self.cells:6.1%} of {self.cells} cells at the best known optimum"
        choices = f", right model {self.right} of {known}" if known else ""
        return f"{share}{choices}, {self.seconds:.1f} s, {self.passes} passes"


def compare(data: Data, seeds: range) -> dict[str, Score]:
    results = {side: [fit(data, seed) for seed in seeds] for side, fit in SIDES.items()}
    every = [*thorough(data), *(result for side in results.values() for result in side)]
    best = {cell: np.nanmax([-np.inf, *(result.bounds[cell] for result in every)]) for cell in every[0].bounds}
    known = [cell for cell, bound in best.items() if np.isfinite(bound)]
    found = {}
    for side, runs in results.items():
        reached = sum(run.bounds[cell] > best[cell] - REACHED for run in runs for cell in known)
        right = sum(run.choice in (data.right or ()) for run in runs)
        sums = (sum(getattr(run, name) for run in runs) for name in ("seconds", "cpu", "passes"))
        found[side] = Score(reached, len(known) * len(runs), right, *sums)
    return found


def print_scores(scores: dict[str, Score], known: int) -> None:
    for side, score in scores.items():
        print(f"  {side:24} {score.describe(known)}")
    ours, one_start = scores["gmm-dask, auto"].cpu, scores["scikit-learn, n_init=1"].cpu
    print(f"  {'CPU time':24} {ours:.1f} s, {ours / one_start:.1f} times scikit-learn's with n_init=1", flush=True)


def compare_sides(chosen: list[Data], seeds: range) -> None:
    every, every_known = [], 0
    for data in chosen:
        print(f"\n{data.name}: {data.X.shape[0]:,} rows x {data.X.shape[1]}, K = {data.ks.start}..{data.ks.stop - 1}")
        known = 0 if data.right is None else len(seeds)
        every_known += known
        every.append(compare(data, seeds))
        print_scores(every[-1], known)
    print("\nall")
    sums = {side: Score(*map(sum, zip(*(scores[side] for scores in every), strict=True))) for side in SIDES}
    print_scores(sums, every_known)


# -- passes --------------------------------------------------------------------------------------------------------


FEWER = {
    "auto": {"init_params": "auto"},
    "auto, accelerated": {"init_params": "auto", "accelerate": True},
    "k-means, accelerated": {"init_params": "kmeans", "accelerate": True},
}


def bounds_of(data: Data, k: int, name: str, **settings) -> np.ndarray:
    """Mean log-likelihood at each pass over all rows."""
    mixture = GaussianMixture(k, covariance_type=name, reg_covar=data.reg_covar, random_state=0, **settings)
    return np.array(mixture.fit(data.X).lower_bounds_)


def count_passes(data: Data) -> dict[str, list[tuple[int, int, float]]]:
    """Of each cell with several components: plain EM's passes and ours to the same likelihood, and ours above its."""
    found = {side: [] for side in FEWER}
    for name, k in itertools.product(DEFAULT_TYPES, data.ks[data.ks[0] == 1 :]):
        plain = bounds_of(data, k, name, init_params="kmeans", **TO_THE_END)
        for side, settings in FEWER.items():
            ours = bounds_of(data, k, name, **settings, **TO_THE_END)
            goal = min(plain[-1], ours[-1]) - SAME
            reached = [1 + int(np.argmax(bounds >= goal)) for bounds in (plain, ours)]
            found[side].append((*reached, ours[-1] - plain[-1]))
    return found


def compare_passes(chosen: list[Data]) -> None:
    print(f"\npasses over all rows to the same likelihood, as a share of those of plain EM from k-means, {TO_THE_END}")
    every = {side: [] for side in FEWER}
    for data in chosen:
        print(f"\n{data.name}")
        for side, counts in count_passes(data).items():
            every[side] += counts
            print(f"  {side:24} {_in_words(counts)}", flush=True)
    print("\nall")
    for side, counts in every.items():
        print(f"  {side:24} {_in_words(counts)}")


def _in_words(counts: list[tuple[int, int, float]]) -> str:
    plain, ours, above = np.array(counts).T
    lower, higher = np.sum(above < -SAME), np.sum(above > SAME)
    return (
        f"median {np.median(ours / plain):4.0%} ({ours.sum():.0f} for {plain.sum():.0f}); of {len(counts)} cells "
        f"{higher} end higher, {lower} lower"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=("development", "unseen"), default="development", help="which collection")
    parser.add_argument("--seed", type=int, default=0, help="draws other random mixtures, of the unseen sets")
    parser.add_argument("--short", action="store_true", help="three sets, one random state")
    parser.add_argument("--states", type=int, default=3, help="random states of each set")
    parser.add_argument("--only", default="", help="sets whose name holds this")
    parser.add_argument(
        "--few-starts", action="store_true", help="leave out scikit-learn with ten starts, which takes long"
    )
    parser.add_argument("--passes", action="store_true", help="count passes alone")
    options = parser.parse_args()
    if options.few_starts:
        del SIDES["scikit-learn, n_init=10"]
    warnings.simplefilter("ignore", ConvergenceWarning)
    develops = options.sets == "development"
    few = ("iris", "parallel cigars", "overlapping", "random mixture 1", "random mixture 2", "penguins")
    collection = sets_of_development() if develops else unseen_sets(options.seed)
    chosen = [d for d in collection if options.only in d.name and (not options.short or d.name in few)]
    seeds = range(1 if options.short else options.states)
    print(
        f"{describe_machine()}; scikit-learn {sklearn.__version__}; {len(seeds)} random states, {SETTINGS}", flush=True
    )
    ours(next(sets_of_development()), 0)  # compiles the kernels
    if not options.passes:
        compare_sides(chosen, seeds)
    if options.passes or develops:
        large = large_sets() if develops and not options.short else ()
        compare_passes([*chosen, *(d for d in large if options.only in d.name)])


if __name__ == "__main__":
    main()
