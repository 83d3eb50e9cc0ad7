"""How often ``gmm-dask score`` reports drift: false alarms where there is none, and power where there is.

In each trial the rows of the fit and the new rows are drawn anew; the model is fitted from the right number of
components. Seeds follow from the name of the case and the number of the trial; ``--first 1000`` gives rows that nobody
has seen.

    python benchmarks/drift.py                     # 100 trials of each case
    python benchmarks/drift.py --trials 10
    python benchmarks/drift.py overlapping         # cases whose names hold one of these
    python benchmarks/drift.py --anomalies         # how many new rows of the same kind are marked as anomalies
"""

from __future__ import annotations

import argparse
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from machine import describe_machine
from numpy.random import Generator
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixture
from gmm_dask.families import Parameters
from gmm_dask.families.candidate import Candidate
from gmm_dask.passes.predict import predict_rows, prediction_batch
from gmm_dask.passes.rows import Rows
from pipeline.score.completion import Scored
from pipeline.score.drift import Comparison, compare
from pipeline.score.reference import make_reference
from pipeline.store import RowSummary, StoredModel, Totals

Array = np.ndarray
EQUAL = (0.25, 0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Mixture:
    """Groups of Gaussian rows, or of rows with heavier tails, of covariances of their own."""

    weights: tuple[float, ...]
    means: Array
    roots: Array
    tails: float = np.inf  # degrees of freedom

    def draw(self, rng: Generator, n_rows: int) -> Array:
        labels = rng.choice(len(self.weights), n_rows, p=self.weights)
        normal = rng.normal(size=(n_rows, self.means.shape[1]))
        if np.isfinite(self.tails):
            normal /= np.sqrt(rng.chisquare(self.tails, (n_rows, 1)) / self.tails)
        return self.means[labels] + np.einsum("na,nab->nb", normal, self.roots[labels])


def mixture(rng: Generator, weights: tuple[float, ...], d: int, apart: float, tails: float = np.inf) -> Mixture:
    """Draw groups with sd of 0.7 to 1.4, each ``apart`` from the nearest of the others or a little more."""
    means = [np.zeros(d)]
    while len(means) < len(weights):
        step = rng.normal(size=d)
        point = means[rng.integers(len(means))] + rng.uniform(1.0, 1.2) * apart * step / np.linalg.norm(step)
        if np.linalg.norm(point - means, axis=1).min() >= apart:
            means.append(point)
    axes = np.exp(np.linspace(-0.35, 0.35, d))[:, None] if d > 1 else np.ones((1, 1))
    roots = np.array([axes * np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in weights])
    return Mixture(weights, np.array(means), roots, tails)


def direction(rng: Generator, d: int) -> Array:
    step = rng.normal(size=d)
    return step / np.linalg.norm(step)


# -- the changes: each takes a mixture, and returns the one that new rows are drawn from -----------------------------


def none(rng: Generator, fit: Mixture) -> Mixture:
    return fit


def all_moved(rng: Generator, fit: Mixture) -> Mixture:
    """All rows by 0.2 sd, in one direction."""
    return Mixture(fit.weights, fit.means + 0.2 * direction(rng, fit.means.shape[1]), fit.roots)


def one_moved(rng: Generator, fit: Mixture) -> Mixture:
    """One component by 1 sd."""
    means = fit.means.copy()
    means[rng.integers(len(means))] += direction(rng, means.shape[1])
    return Mixture(fit.weights, means, fit.roots)


def weights_changed(rng: Generator, fit: Mixture) -> Mixture:
    """Five points of the rows from one component to another."""
    weights = np.array(fit.weights)
    i, j = rng.choice(len(weights), 2, replace=False)
    weights[[i, j]] += [0.05, -0.05]
    return Mixture(tuple(weights), fit.means, fit.roots)


def one_wider(rng: Generator, fit: Mixture) -> Mixture:
    """One component's rows spread by 1.2."""
    roots = fit.roots.copy()
    roots[rng.integers(len(roots))] *= 1.2
    return Mixture(fit.weights, fit.means, roots)


@dataclass(frozen=True)
class Case:
    name: str
    weights: tuple[float, ...]
    d: int
    apart: float
    n_fit: int
    n_new: int
    change: Callable[[Generator, Mixture], Mixture] = none
    covariance_type: str = "full"
    tails: float = np.inf
    gaps: tuple[float, float] = (0.0, 0.0)  # share of the values that are missing at random, in the fit and in new rows


CASES = [
    *(
        Case(f"none, overlapping, {name}, {n_fit:,} and {n_new:,} rows", EQUAL, 3, 3.0, n_fit, n_new, none, name)
        for name in ("full", "tied", "diag", "spherical")
        for n_fit, n_new in ((2_000, 5_000), (20_000, 5_000))
    ),
    Case("none, overlapping, 20,000 and 100 rows", EQUAL, 3, 3.0, 20_000, 100),
    Case("none, overlapping, 5,000 and 200,000 rows", EQUAL, 3, 3.0, 5_000, 200_000),
    Case("none, D = 8, 1,000 and 5,000 rows", EQUAL, 8, 4.0, 1_000, 5_000),
    Case("none, D = 20, 10,000 and 5,000 rows", EQUAL, 20, 5.0, 10_000, 5_000),
    Case("none, rare component of 0.5 %, 10,000 and 2,000 rows", (0.5, 0.495, 0.005), 3, 8.0, 10_000, 2_000),
    Case("none, t with 3 degrees of freedom, 5,000 and 5,000 rows", (0.5, 0.5), 3, 8.0, 5_000, 5_000, tails=3.0),
    *(
        Case(
            f"none, gaps of {a:.0%} and {b:.0%}, {name}, D = {d}, {n:,} and {m:,} rows",
            EQUAL,
            d,
            3.0,
            n,
            m,
            none,
            name,
            gaps=(a, b),
        )
        for name in ("full", "diag")
        for a, b in ((0.3, 0.3), (0.3, 0.0), (0.0, 0.3), (0.1, 0.5))
        for d, n, m in ((3, 5_000, 5_000), (3, 5_000, 50_000), (8, 20_000, 5_000))
    ),
    *(
        Case(f"{change.__doc__} D = {d}, {n_fit:,} and 5,000 rows", EQUAL, d, 3.0, n_fit, 5_000, change)
        for change in (all_moved, one_moved, weights_changed, one_wider)
        for d in (2, 8)
        for n_fit in (5_000, 20_000)
    ),
]


# -- one trial -----------------------------------------------------------------------------------------------------


def with_gaps(rng: Generator, rows: Array, share: float) -> Array:
    """Return the rows with values missing completely at random, without those that have none left."""
    if not share:
        return rows
    found = np.where(rng.uniform(size=rows.shape) < share, np.nan, rows)
    return found[np.isfinite(found).any(axis=1)]


def fitted(case: Case, rows: Array, seed: int) -> StoredModel:
    model = GaussianMixture(
        len(case.weights), covariance_type=case.covariance_type, missing="likelihood", random_state=seed
    ).fit(rows)
    parameters = Parameters(model.weights_, model.means_, model.covariances_, model.precisions_cholesky_)
    columns = tuple(f"x{i}" for i in range(case.d))
    return StoredModel(
        Candidate(case.covariance_type, len(case.weights)),
        0,
        parameters,
        columns=columns,
        sources=columns,
        numbers=tuple(range(len(case.weights))),
    )


def comparison(case: Case, number: int) -> Comparison:
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), number])
    truth = mixture(rng, case.weights, case.d, case.apart, case.tails)
    rows, new = truth.draw(rng, case.n_fit), case.change(rng, truth).draw(rng, case.n_new)
    rows, new = (with_gaps(rng, x, share) for x, share in zip((rows, new), case.gaps, strict=True))
    model = fitted(case, rows, number)
    reference = make_reference(model, rows, len(rows))
    found = predict_rows(Rows(new, gaps=True), *model.model, ["label", "log_density"])
    density = found["log_density"]
    off = density - reference.mean
    labels = np.bincount(found["label"], minlength=len(case.weights))
    scored = Scored(new, new, density, found["label"], np.arange(len(new)))
    sums = scored.sums(model, reference.floor, prediction_batch(*model.model, gaps=True))
    totals = Totals(len(new), off.sum(), off @ off, labels)
    summary = RowSummary.of_totals(totals, model.numbers, len(new), reference.mean)
    return compare(summary, sums, reference)


def marked(case: Case, number: int, quantile: float) -> tuple[float, float]:
    """Return the share of new rows under a quantile of the fit's rows, and under the threshold for new rows."""
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), number])
    truth = mixture(rng, case.weights, case.d, case.apart, case.tails)
    rows, new = truth.draw(rng, case.n_fit), truth.draw(rng, case.n_new)
    model = fitted(case, rows, number)
    density, of_new = (predict_rows(Rows(x), *model.model, ["log_density"])["log_density"] for x in (rows, new))
    plain = float(np.sort(density)[round(quantile * len(rows))])
    counts = Totals(len(rows), 0.0, 0.0, np.full(len(case.weights), len(rows)))
    summary = RowSummary.of_totals(counts, model.numbers, len(rows), 0.0)
    known = replace(summary, anomaly_quantile=quantile, anomaly_threshold=plain)
    threshold = make_reference(model, rows, len(rows), known).threshold
    return float(np.mean(of_new < plain)), float(np.mean(of_new < threshold))


def print_marked(trials: range) -> None:
    print("\n| anomalies among new rows, quantile 0.001 | by the quantile of the fit's rows | by leave-one-out |")
    print("|---|--:|--:|")
    for weights, d, n_fit in (((1.0,), 8, 1_000), (EQUAL, 8, 1_000), (EQUAL, 8, 4_000), (EQUAL, 3, 1_000)):
        case = Case(f"K = {len(weights)}, D = {d}, {n_fit:,} rows", weights, d, 4.0, n_fit, 100_000)
        plain, corrected = np.mean([marked(case, n, 0.001) for n in trials], axis=0)
        print(f"| {case.name} | {plain:.4f} | {corrected:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[""], help="cases whose names hold one of these (all)")
    parser.add_argument("--trials", type=int, default=100, help="of each case (100)")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial (0)")
    parser.add_argument("--anomalies", action="store_true", help="the share of new rows that are marked, instead")
    parser.add_argument("--print", action="store_true", help="print what is reported")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{describe_machine()}; trials {options.first} to {options.first + options.trials - 1}\n", flush=True)
    if options.anomalies:
        print_marked(range(options.first, options.first + options.trials))
        return
    print("| case; rows of the fit and new rows | drift reported | gain of one M-step, median |\n|---|--:|--:|")
    for case in CASES:
        if not any(name in case.name for name in options.names):
            continue
        found = [comparison(case, n) for n in range(options.first, options.first + options.trials)]
        gain = np.nanmedian([np.nan if one.gain is None else one.gain for one in found])
        print(f"| {case.name} | {sum(bool(one.drift) for one in found)} of {len(found)} | {gain:.4f} |", flush=True)
        if options.print:
            print(*[line for one in found for line in one.drift], sep="\n")


if __name__ == "__main__":
    main()
