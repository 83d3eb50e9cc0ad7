"""How often the components of two nights are matched wrongly: by the distance of the Gaussians, and by shared rows.

In each trial groups of rows are drawn for two nights. Their sizes change, one of them may vanish, and another one may
be new. A search over K is fitted to the rows of each night. A component is the group whose rows it has, if the Jaccard
index of the two sets is above one half; two components of one group are to be matched, and two of different groups are
not. Others are not counted.

    python benchmarks/identity.py                  # 40 trials of each case
    python benchmarks/identity.py --trials 10 --first 1000
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass

import numpy as np
from drift import Mixture, direction, mixture
from machine import describe_machine
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixtureSearch
from gmm_dask.matching import bhattacharyya_distances, jaccard_indices

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """Two nights: columns, rows a night, how far groups are apart, and how far each moves, in standard deviations."""

    name: str
    d: int
    n_rows: int
    apart: float
    move: float = 0.0


CASES = (
    Case("apart", 2, 1000, 5.0),
    Case("overlapping", 2, 1000, 3.0),
    Case("moving by 0.5 sd", 2, 1000, 4.0, 0.5),
    Case("moving by 1 sd", 2, 1000, 5.0, 1.0),
    Case("5 columns", 5, 2000, 4.0),
    Case("10 columns, few rows", 10, 1000, 4.0),
)
# rule -> the least score of a pair
RULES = {
    "distance up to 0.2": np.exp(-0.2),
    "distance up to 0.3": np.exp(-0.3),
    "distance up to 0.5": np.exp(-0.5),
    "distance up to 1.1": np.exp(-1.1),
    "overlap of the later rows over 0.3": 0.3,
    "overlap of the later rows over 0.5": 0.5,
    "overlap of the later rows over 0.7": 0.7,
}


def nights(rng: np.random.Generator, case: Case) -> tuple[Mixture, Mixture]:
    """Draw the groups of two nights."""
    n_groups = int(rng.integers(4, 8))
    first = mixture(rng, tuple(rng.dirichlet(np.full(n_groups, 4.0))), case.d, case.apart)
    sizes = np.array(first.weights)
    later = sizes * np.exp(0.4 * rng.normal(size=n_groups))
    gone, new = rng.integers(0, 2, 2)
    sizes[-1] *= 1 - new
    later[0] *= 1 - gone
    moved = first.means + case.move * np.array([direction(rng, case.d) @ root for root in first.roots])
    parts = [tuple(one / one.sum()) for one in (sizes, later)]
    return Mixture(parts[0], first.means, first.roots), Mixture(parts[1], moved, first.roots)


def draw(rng: np.random.Generator, groups: Mixture, n_rows: int) -> tuple[Array, Array]:
    labels = np.sort(rng.choice(len(groups.weights), n_rows, p=groups.weights))
    normal = rng.normal(size=(n_rows, groups.means.shape[1]))
    return groups.means[labels] + np.einsum("na,nab->nb", normal, groups.roots[labels]), labels


def table(a: Array, b: Array) -> Array:
    return np.histogram2d(a, b, [np.arange(one.max() + 2) for one in (a, b)])[0]


def groups_of(labels: Array, groups: Array) -> Array:
    """Return the group of each component, -1 where it is none."""
    indices = jaccard_indices(table(labels, groups))
    return np.where(indices.max(axis=1) > 0.5, indices.argmax(axis=1), -1)


def trial(seed: int, case: Case) -> dict[str, tuple[int, int, int]]:
    """Pairs that are to be matched, those that are missed, and wrong pairs, by rule."""
    rng = np.random.default_rng(seed)
    fits, rows, groups = [], [], []
    for night in nights(rng, case):
        X, of_group = draw(rng, night, case.n_rows)
        k = np.count_nonzero(night.weights)
        fit = GaussianMixtureSearch(range(max(1, k - 2), k + 3), "full", init_params="kmeans", random_state=seed).fit(X)
        fits.append(fit.best_estimator_)
        rows.append(X)
        groups.append(groups_of(fit.predict(X), of_group))
    a, b = fits
    distances = bhattacharyya_distances(a._model, b._model)
    shape = a.n_components, b.n_components
    overlaps = np.zeros(shape)
    found = table(a.predict(rows[1]), b.predict(rows[1]))
    overlaps[: found.shape[0], : found.shape[1]] = jaccard_indices(found)
    same = (groups[0][:, None] == groups[1]) & (groups[0] >= 0)[:, None]
    different = (groups[0][:, None] != groups[1]) & (groups[0] >= 0)[:, None] & (groups[1] >= 0)
    counts = {}
    for rule, least in RULES.items():
        scores = overlaps if rule.startswith("overlap") else np.exp(-distances)
        scores = np.where(scores >= least, scores, 0.0)
        i, j = linear_sum_assignment(scores, maximize=True)
        i, j = i[scores[i, j] > 0.0], j[scores[i, j] > 0.0]
        n_same = int(same.any(axis=1).sum())
        counts[rule] = n_same, n_same - int(same[i, j].sum()), int(different[i, j].sum())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(describe_machine())
    for case in CASES:
        trials = [trial(given.first + number, case) for number in range(given.trials)]
        sums = {rule: np.sum([one[rule] for one in trials], axis=0) for rule in RULES}
        print(f"\n{case.name}: {sums['distance up to 0.5'][0]} pairs in {given.trials} trials")
        for rule, (_, missed, wrong) in sums.items():
            print(f"  {rule:36s} missed {missed:3d}   wrong {wrong:3d}")


if __name__ == "__main__":
    main()
