"""Starts beside noise: how often fits end at the best optimum, and how well they find the rows of the noise.

Each trial draws three groups of normal rows and a share of noise that is uniform in a box around them, and fits the
right number of components with noise from three starts: that of ``GaussianMixture``, that of all rows beside noise of
5 %, and the true labels. Seeds of trials follow from
their number; nothing was tuned on them.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

from gmm_dask import GaussianMixture

FAMILIES = {
    "round, far apart": {"n_features": 2, "scale": 0.0, "spread": 10.0},
    "cigars, overlapping": {"n_features": 2, "scale": 1.0, "spread": 4.0},
    "one dense, two wide": {"n_features": 3, "scale": 0.0, "spread": 10.0, "widths": (0.2, 1.0, 2.0)},
    "D = 8": {"n_features": 8, "scale": 0.5, "spread": 5.0},
}
SHARES = (0.02, 0.05, 0.2)
N_ROWS = 1500
# of the log-likelihood, below the best of the three: less than this is the same optimum
SAME = 1e-3


def draw(random, share, n_features, scale, spread, widths=(1.0, 1.0, 1.0)):
    """Rows, and the group of each; -1 is noise."""
    labels = random.choice([-1, 0, 1, 2], N_ROWS, p=[share, *(1.0 - share) * np.array([0.5, 0.3, 0.2])])
    means = random.uniform(-spread, spread, (3, n_features))
    roots = np.array([np.eye(n_features) + scale * random.normal(size=(n_features, n_features)) for _ in range(3)])
    normal = np.einsum("nab,nb->na", roots[labels], random.normal(size=(N_ROWS, n_features)))
    rows = means[labels] + np.array(widths)[labels, None] * normal
    groups = rows[labels >= 0]
    low, high = groups.min(axis=0) - 3.0, groups.max(axis=0) + 3.0
    return np.where(labels[:, None] < 0, random.uniform(low, high, (N_ROWS, n_features)), rows), labels


def inits(rows, resp):
    """The M-step of responsibilities, the last of which is the noise's, as the arguments of a fit."""
    means = (resp.T[:-1] @ rows) / resp.sum(axis=0)[:-1, None]
    covariances = [np.cov(rows.T, aweights=weights, bias=True).reshape(2 * (rows.shape[1],)) for weights in resp.T[:-1]]
    precisions = np.linalg.inv(np.array(covariances) + 1e-6 * np.eye(rows.shape[1]))
    return {"weights_init": resp.mean(axis=0), "means_init": means, "precisions_init": precisions}


def f1(found, true):
    """Of the rows of the noise."""
    return 2.0 * np.sum((found < 0) & (true < 0)) / max(1, np.sum(found < 0) + np.sum(true < 0))


def trial(seed, share, family):
    """Log-likelihoods a row, F1 and seconds of the three starts."""
    rows, true = draw(np.random.default_rng(seed), share, **family)
    settings = {"noise": True, "tol": 1e-7, "max_iter": 2000, "init_params": "auto", "random_state": 0}
    started = time.process_time()
    own = GaussianMixture(3, **settings).fit(rows)
    seconds = time.process_time() - started
    started = time.process_time()
    plain = GaussianMixture(3, **{**settings, "noise": False}).fit(rows)
    seconds_plain = time.process_time() - started
    given = np.column_stack([0.95 * plain.predict_proba(rows), np.full(len(rows), 0.05)])
    small = GaussianMixture(3, **settings, **inits(rows, given)).fit(rows)
    truth = np.eye(4)[true]
    best = GaussianMixture(3, **settings, **inits(rows, truth)).fit(rows)
    fits = own, small, best
    return [fit.score(rows) for fit in fits], [f1(fit.predict(rows), true) for fit in fits], (seconds, seconds_plain)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="of each family and share of noise")
    parser.add_argument("--seed", type=int, default=500)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| groups | noise | ends at the best: own, of all rows, truth | F1, median | seconds, without noise |")
    print("|---|--:|--:|--:|--:|")
    for name, family in FAMILIES.items():
        for share in SHARES:
            seeds = range(arguments.seed, arguments.seed + arguments.trials)
            found = [trial(seed, share, family) for seed in seeds]
            scores, f1s, seconds = (np.array([one[i] for one in found]) for i in range(3))
            reached = np.sum(scores >= scores.max(axis=1, keepdims=True) - SAME, axis=0)
            medians, times = np.median(f1s, axis=0), np.median(seconds, axis=0)
            print(
                f"| {name} | {share:.0%} | {', '.join(map(str, reached))} | "
                f"{', '.join(f'{value:.2f}' for value in medians)} | {times[0]:.1f}, {times[1]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
