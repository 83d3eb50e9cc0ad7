"""How often the right model is chosen: number of components and covariance type, on families of simulated data.

Each family is a distribution whose right models are known, and is drawn anew a number of times, from seeds that follow
from its name and the number of the draw: there is no set to tune on, and ``--first 100`` gives sets that nobody has
seen. All sides choose by BIC from the same grid, K by four covariance types:

- gmm-dask: a GaussianMixtureSearch with the defaults of jobs (``gmm-dask run``);
- scikit-learn: a loop over the grid, ten starts for each candidate, otherwise its defaults, on one thread;
- mclust, if R and the package are installed: its models VVV, EEE, VVI and VII, which are the same four types.

The seconds are those of CPU time, without imports and compilation.

    python benchmarks/models.py                          # ten draws of each family; hours, most of them scikit-learn's
    python benchmarks/models.py --short                  # two draws
    python benchmarks/models.py --sides gmm-dask         # without the others
    python benchmarks/models.py "tight far" null         # families whose names hold one of these
    python benchmarks/models.py --sides gmm-dask --large # families of a million rows, which the others take hours for
    python benchmarks/models.py --list
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import subprocess
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
from machine import describe_machine
from numpy.random import Generator
from sklearn import mixture
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from gmm_dask import GaussianMixtureSearch

Array = np.ndarray
Model = tuple[str, int]  # covariance type and number of components
Grid = Sequence[int]
TYPES = ("full", "tied", "diag", "spherical")


@dataclass(frozen=True)
class Family:
    """A distribution of data sets, the numbers of components to try, and which models are right."""

    name: str
    draw: Callable[[Generator], Array]
    grid: Grid
    right: Collection[int]
    types: Collection[str]
    is_large: bool = False

    def rows(self, number: int) -> Array:
        """Draw the data set of this number, in random order."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), number])
        return rng.permutation(self.draw(rng))

    def is_right(self, model: Model | None) -> bool:
        return model is not None and model[0] in self.types and model[1] in self.right


FAMILIES: list[Family] = []


def family(
    name: str, *right: int, types: Collection[str] = ("full",), grid: Grid = range(1, 7), is_large: bool = False
) -> Callable:
    """Register a function that draws rows as a family, with the right numbers of components and covariance types."""

    def register(draw: Callable[[Generator], Array]) -> Callable[[Generator], Array]:
        FAMILIES.append(Family(name, draw, grid, right, types, is_large))
        return draw

    return register


# -- parts of the families -----------------------------------------------------------------------------------------


def centers(rng: Generator, k: int, d: int, apart: float) -> Array:
    """Draw k points, each of them ``apart`` from the nearest of the others or a little more."""
    points = [np.zeros(d)]
    while len(points) < k:
        step = rng.normal(size=d)
        point = points[rng.integers(len(points))] + rng.uniform(1.0, 1.2) * apart * step / np.linalg.norm(step)
        if np.linalg.norm(point - points, axis=1).min() >= apart:
            points.append(point)
    return np.array(points)


def rotation(rng: Generator, d: int) -> Array:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def shape(rng: Generator, d: int) -> Array:
    """Draw a square root of a covariance with the determinant 1: sd of 0.6 to 1.6 along oblique axes.

    Oblique means that a diagonal covariance would lose 0.1 or more in log-likelihood a row, so that full is right.
    """
    while True:
        root = np.exp(np.linspace(-0.5, 0.5, d))[:, None] * rotation(rng, d)
        if np.log(np.sum(root**2, axis=0)).sum() >= 0.2:
            return root


def gaussians(rng: Generator, counts: Sequence[int], d: int, apart: float) -> Array:
    """Draw this many rows of Gaussians with shapes and sizes of their own, their centers ``apart``; sd are about 1."""
    k = len(counts)
    sizes = rng.permutation(np.linspace(0.8, 1.2, k)) if k > 1 else np.ones(1)
    parts = zip(counts, centers(rng, k, d, apart), sizes, strict=True)
    return np.concatenate([center + size * rng.normal(size=(n, d)) @ shape(rng, d) for n, center, size in parts])


# -- the families --------------------------------------------------------------------------------------------------


@family("well separated", 3)
def well_separated(rng: Generator) -> Array:
    """Three Gaussians, 8 sd apart; 2,000 rows, D = 3."""
    return gaussians(rng, [700, 700, 600], 3, apart=8)


@family("overlapping", 3)
def overlapping(rng: Generator) -> Array:
    """Three Gaussians, 3 sd apart; 5,000 rows, D = 2."""
    return gaussians(rng, [2000, 1500, 1500], 2, apart=3)


@family("unequal weights", 4)
def unequal_weights(rng: Generator) -> Array:
    """Four Gaussians of 60 %, 25 %, 12 % and 3 %, 6 sd apart; 2,000 rows, D = 3."""
    return gaussians(rng, [1200, 500, 240, 60], 3, apart=6)


@family("parallel cigars", 3, types=("full", "tied"))
def parallel_cigars(rng: Generator) -> Array:
    """Three Gaussians side by side with one covariance, 25 times as long as wide and 6 widths apart; 1,200 rows."""
    rows = rng.normal(size=(1200, 2)) * (5.0, 0.2)
    rows[:, 1] += 1.2 * np.repeat(range(3), 400)
    return rows @ rotation(rng, 2)


@family("crossing cigars", 2)
def crossing_cigars(rng: Generator) -> Array:
    """Two Gaussians with one center, 15 times as long as wide, at right angles; 800 rows, D = 2."""
    rows = rng.normal(size=(800, 2)) * (3.0, 0.2)
    rows[:400] = rows[:400, ::-1]
    return rows @ rotation(rng, 2)


@family("rounded to 1 sd", 3)
def rounded_to_1(rng: Generator) -> Array:
    """The well separated ones, rounded to whole numbers."""
    return np.round(well_separated(rng))


@family("rounded to 0.5 sd", 3)
def rounded_to_half(rng: Generator) -> Array:
    """The well separated ones, rounded to halves."""
    return np.round(well_separated(rng) * 2) / 2


@family("rounded to 0.1 sd", 3)
def rounded_to_tenth(rng: Generator) -> Array:
    """The well separated ones, rounded to one decimal."""
    return np.round(well_separated(rng), 1)


@family("one coarse column", 3)
def one_coarse_column(rng: Generator) -> Array:
    """Three Gaussians in the plane, 8 sd apart, and a column of -1, 0 and 1 that tells nothing of them; 2,000 rows."""
    rows = gaussians(rng, [700, 700, 600], 2, apart=8)
    return np.column_stack([rows, np.clip(np.round(rng.normal(size=len(rows))), -1, 1)])


@family("five-fold copies", 3)
def five_fold_copies(rng: Generator) -> Array:
    """Three Gaussians, 8 sd apart; 400 rows, each of them five times, D = 3."""
    return np.repeat(gaussians(rng, [140, 140, 120], 3, apart=8), 5, axis=0)


@family("tight far", 3)
def tight_far(rng: Generator) -> Array:
    """Two Gaussians, 8 sd apart, and 20 rows with an sd of 0.01, 16 sd from the nearer one; 2,000 rows, D = 2."""
    rows = gaussians(rng, [1000, 980], 2, apart=8)
    line = rows[:1000].mean(axis=0) - rows[1000:].mean(axis=0)
    place = rows[:1000].mean(axis=0) + 16 * line / np.linalg.norm(line)
    return np.concatenate([rows, rng.normal(place, 0.01, (20, 2))])


@family("tight inside", 3)
def tight_inside(rng: Generator) -> Array:
    """Two Gaussians, 8 sd apart, and 20 rows with an sd of 0.01 within one of them; 2,000 rows, D = 2."""
    rows = gaussians(rng, [1000, 980], 2, apart=8)
    return np.concatenate([rows, rng.normal(rows[0], 0.01, (20, 2))])


@family("uniform noise", 4)
def uniform_noise(rng: Generator) -> Array:
    """Three Gaussians, 8 sd apart, and 5 % noise over all their range; 2,000 rows, D = 2.

    Right is one component for each Gaussian, and one for the noise.
    """
    rows = gaussians(rng, [700, 600, 600], 2, apart=8)
    return np.concatenate([rows, rng.uniform(rows.min(axis=0), rows.max(axis=0), (100, 2))])


@family("heavy tails", 2, 3, 4, 5, 6, types=TYPES, grid=range(1, 9))
def heavy_tails(rng: Generator) -> Array:
    """Two groups of Student's t with three degrees of freedom, 15 widths apart; 2,000 rows, D = 2.

    Right is at most three components a group, as a mixture of Gaussians has to follow its tails; of any type.
    """
    scales = np.sqrt(rng.chisquare(3, (2000, 1)) / 3)
    places = np.repeat(centers(rng, 2, 2, apart=15), 1000, axis=0)
    shapes = np.repeat([shape(rng, 2), shape(rng, 2)], 1000, axis=0)
    return places + np.einsum("na,nab->nb", rng.normal(size=(2000, 2)) / scales, shapes)


@family("mixed scales", 3)
def mixed_scales(rng: Generator) -> Array:
    """The well separated ones in other units: a column is multiplied by 1e-5, one by 1e5."""
    return well_separated(rng) * (1e-5, 1.0, 1e5)


@family("offset 1e9", 3)
def offset(rng: Generator) -> Array:
    """The well separated ones, with 1e9 added to all columns."""
    return well_separated(rng) + 1e9


@family("20 clusters", 20, grid=range(18, 23))
def twenty_clusters(rng: Generator) -> Array:
    """Twenty Gaussians, 8 sd apart; 4,000 rows, D = 3."""
    return gaussians(rng, [200] * 20, 3, apart=8)


@family("D = 20", 4, grid=range(2, 7))
def d_20(rng: Generator) -> Array:
    """Four Gaussians, 6 sd apart; 4,000 rows, D = 20."""
    return gaussians(rng, [1000] * 4, 20, apart=6)


@family("D = 50", 3, grid=range(2, 5))
def d_50(rng: Generator) -> Array:
    """Three Gaussians, 8 sd apart; 4,500 rows, D = 50."""
    return gaussians(rng, [1500] * 3, 50, apart=8)


@family("null, n = 60", 1, types=TYPES)
def null_60(rng: Generator) -> Array:
    """One Gaussian; 60 rows, D = 3."""
    return gaussians(rng, [60], 3, apart=0)


@family("null, n = 300", 1, types=TYPES)
def null_300(rng: Generator) -> Array:
    """One Gaussian; 300 rows, D = 3."""
    return gaussians(rng, [300], 3, apart=0)


@family("null, n = 3,000", 1, types=TYPES)
def null_3000(rng: Generator) -> Array:
    """One Gaussian; 3,000 rows, D = 3."""
    return gaussians(rng, [3000], 3, apart=0)


def with_rare_group(rng: Generator, n_rows: int, n_rare: int) -> Array:
    return gaussians(rng, [n_rows // 2, n_rows // 2 - n_rare, n_rare], 4, apart=11)


@family("rare, 100 of 1,000,000", 3, grid=range(1, 6), is_large=True)
def rare_of_a_million(rng: Generator) -> Array:
    """Two Gaussians and a third of 100 rows, 11 sd apart; 1,000,000 rows, D = 4."""
    return with_rare_group(rng, 1_000_000, 100)


@family("rare, 200 of 2,000,000", 3, grid=range(1, 6), is_large=True)
def rare_of_two_million(rng: Generator) -> Array:
    """Two Gaussians and a third of 200 rows, 11 sd apart; 2,000,000 rows, D = 4."""
    return with_rare_group(rng, 2_000_000, 200)


@family("rare, 60 of 2,000,000", 3, grid=range(1, 6), is_large=True)
def rarer_of_two_million(rng: Generator) -> Array:
    """Two Gaussians and a third of 60 rows, 11 sd apart; 2,000,000 rows, D = 4."""
    return with_rare_group(rng, 2_000_000, 60)


@family("null, n = 1,000,000", 1, types=TYPES, grid=range(1, 6), is_large=True)
def null_million(rng: Generator) -> Array:
    """One Gaussian; 1,000,000 rows, D = 4."""
    return gaussians(rng, [1_000_000], 4, apart=0)


# -- the sides -----------------------------------------------------------------------------------------------------
# each takes rows, numbers of components and a seed, and returns its choice (None if it has none) and CPU seconds

Choice = tuple[Model | None, float]


def ours(rows: Array, grid: Grid, seed: int) -> Choice:
    begin = time.process_time()
    search = GaussianMixtureSearch(grid, TYPES, init_params="auto", reg_covar="auto", random_state=seed).fit(rows)
    best = search.best_params_
    return (best["covariance_type"], best["n_components"]), time.process_time() - begin


def scikit_learn(rows: Array, grid: Grid, seed: int) -> Choice:
    begin = time.process_time()
    criteria: dict[Model, float] = {}
    with threadpool_limits(1):
        for name in TYPES:
            for k in grid:
                fit = mixture.GaussianMixture(k, covariance_type=name, n_init=10, random_state=seed)
                try:
                    criteria[name, k] = fit.fit(rows).bic(rows)
                except ValueError:  # a covariance that is not positive definite
                    continue
    return min(criteria, key=criteria.__getitem__, default=None), time.process_time() - begin


MCLUST_TYPES = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}
MCLUST_SINGLE = {"XXX": "full", "XXI": "diag", "XII": "spherical"}  # with one component
MCLUST = """
suppressMessages(library(mclust))
args <- commandArgs(TRUE)
d <- as.integer(args[2])
rows <- matrix(readBin(args[1], "double", file.size(args[1]) / 8), ncol = d, byrow = TRUE)
set.seed(as.integer(args[3]))
begin <- proc.time()
fit <- Mclust(rows, G = as.integer(strsplit(args[4], ",")[[1]]), modelNames = strsplit(args[5], ",")[[1]],
              verbose = FALSE)
seconds <- sum((proc.time() - begin)[1:2])
cat(if (is.null(fit)) c("none", 0) else c(fit$modelName, fit$G), seconds)
"""


def mclust(rows: Array, grid: Grid, seed: int) -> Choice:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows")
        np.ascontiguousarray(rows, dtype="<f8").tofile(file)
        arguments = [str(file), str(rows.shape[1]), str(seed), ",".join(map(str, grid)), ",".join(MCLUST_TYPES)]
        run = subprocess.run(["Rscript", "-e", MCLUST, *arguments], check=True, capture_output=True, text=True)
    name, k, seconds = run.stdout.split()
    found = {**MCLUST_TYPES, **MCLUST_SINGLE}.get(name)
    return (None if found is None else (found, int(k))), float(seconds)


def mclust_version() -> str:
    """Return the version of mclust that is installed, or an empty string."""
    if shutil.which("Rscript") is None:
        return ""
    question = ["Rscript", "-e", 'cat(as.character(packageVersion("mclust")))']
    return subprocess.run(question, capture_output=True, text=True).stdout


SIDES: dict[str, Callable[[Array, Grid, int], Choice]] = {
    "gmm-dask": ours,
    "scikit-learn": scikit_learn,
    "mclust": mclust,
}


# -- the comparison ------------------------------------------------------------------------------------------------


def compare(chosen: Family, numbers: range, sides: Collection[str]) -> dict[str, tuple[int, float]]:
    """Let all sides choose on each draw of a family, and count for each the right choices and CPU seconds."""
    right, seconds = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0.0)
    for number in numbers:
        rows = chosen.rows(number)
        told = []
        for side in sides:
            model, spent = SIDES[side](rows, chosen.grid, number)
            right[side] += chosen.is_right(model)
            seconds[side] += spent
            choice = "none" if model is None else f"{model[0]} {model[1]}"
            told.append(f"{side} {'right' if chosen.is_right(model) else 'WRONG'} ({choice}, {spent:.1f} s)")
        print(f"{chosen.name}, {number}: {'; '.join(told)}", flush=True)
    return {side: (right[side], seconds[side]) for side in sides}


def print_table(found: dict[str, dict[str, tuple[int, float]]], n_draws: int, sides: Collection[str]) -> None:
    """Print the right choices and the CPU seconds of each family as a Markdown table."""
    print(f"\nRight models of {n_draws}, and CPU seconds of all {n_draws}\n")
    print(f"| family | {' | '.join([*sides, *(f'{side}, s' for side in sides)])} |")
    print(f"|---|{'--:|' * 2 * len(sides)}")
    lines = {**found, "all": {side: tuple(np.sum([f[side] for f in found.values()], axis=0)) for side in sides}}
    for name, counts in lines.items():
        right, seconds = [f"{counts[s][0]:.0f}" for s in sides], [f"{counts[s][1]:.0f}" for s in sides]
        print(f"| {name} | {' | '.join([*right, *seconds])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[""], help="families whose names hold one of these (all)")
    parser.add_argument("--draws", type=int, default=10, help="data sets of each family (10)")
    parser.add_argument("--short", action="store_true", help="two data sets of each family")
    parser.add_argument("--first", type=int, default=0, help="number of the first data set (0)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="who takes part (all)")
    parser.add_argument("--large", action="store_true", help="families of a million rows, too")
    parser.add_argument("--list", action="store_true", help="print the families and what they are, and stop")
    options = parser.parse_args()
    chosen = [
        family
        for family in FAMILIES
        if any(name in family.name for name in options.names) and (options.large or not family.is_large)
    ]
    if not chosen:
        parser.error(f"no family's name holds {' or '.join(options.names)}; see --list")
    if options.list:
        for family in chosen:
            print(f"{family.name}: right is K = {' or '.join(map(str, family.right))}, {' or '.join(family.types)}")
            print(f"    {inspect.getdoc(family.draw)}".replace("\n\n", "\n").replace("\n", "\n    "))
        return
    numbers = range(options.first, options.first + (2 if options.short else options.draws))
    sides = [side for side in SIDES if side in options.sides]
    version = mclust_version() if "mclust" in sides else ""
    if "mclust" in sides and not version:
        sides.remove("mclust")
        print("R's package mclust is not installed, and does not take part")
    versions = f"scikit-learn {sklearn.__version__}" + (f", mclust {version}" if version else "")
    print(f"{describe_machine()}; {versions}; draws {numbers.start} to {numbers.stop - 1}", flush=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    ours(null_60(np.random.default_rng(0)), range(1, 4), 0)  # compiles the kernels
    print_table({f.name: compare(f, numbers, sides) for f in chosen}, len(numbers), sides)


if __name__ == "__main__":
    main()
