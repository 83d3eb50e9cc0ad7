"""Fits over few rows in memory: CPU time without and with a prior, noise and variational inference, and scikit-learn's.

    python benchmarks/in_memory.py

Each fit takes 50 iterations of five components from rows drawn at random, on one thread. Searches try 1 to 6 components
of four covariance types from k-means. The least of some runs counts.
"""

from __future__ import annotations

import time
import warnings
from functools import partial

import numpy as np
from sklearn import mixture
from threadpoolctl import threadpool_limits

from gmm_dask import BayesianGaussianMixture, GaussianMixture, GaussianMixtureSearch

SIZES = ((150, 4, 7), (2000, 4, 5), (8000, 8, 3))
TYPES = ("full", "tied", "diag", "spherical")
K = 5
FITS = {
    "plain": GaussianMixture,
    "prior": partial(GaussianMixture, prior="default"),
    "noise": partial(GaussianMixture, noise=True),
    "variational": BayesianGaussianMixture,
    "scikit-learn": mixture.GaussianMixture,
    "its variational": mixture.BayesianGaussianMixture,
}
SEARCHES = {
    "plain": {},
    "prior": {"prior": "default"},
    "noise": {"noise": True},
    "variational": {"inference": "variational", "criterion": "elbo"},
}


def draw(n_rows, n_features):
    """Rows of five tilted groups."""
    random = np.random.RandomState(0)
    means = random.normal(0.0, 4.0, (K, n_features))
    roots = random.normal(size=(K, n_features, n_features)) / np.sqrt(n_features)
    labels = random.randint(K, size=n_rows)
    return means[labels] + np.einsum("nab,nb->na", roots[labels], random.normal(size=(n_rows, n_features)))


def least_cpu(make, X, n_runs):
    """Milliseconds of CPU of the cheapest fit, after one that may compile."""
    make().fit(X)
    times = []
    for _ in range(n_runs):
        start = time.process_time()
        make().fit(X)
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def main() -> None:
    """Print a line for each size and covariance type."""
    warnings.simplefilter("ignore")
    settings = {"n_components": K, "max_iter": 50, "tol": 0.0, "random_state": 0, "init_params": "random_from_data"}
    for n_rows, n_features, n_runs in SIZES:
        X = draw(n_rows, n_features)
        print(f"\n{n_rows:,} x {n_features}, ms of CPU".ljust(30) + "".join(name.rjust(17) for name in FITS))
        for covariance_type in TYPES:
            makers = (partial(make, covariance_type=covariance_type, **settings) for make in FITS.values())
            found = [least_cpu(make, X, n_runs) for make in makers]
            print(f"fit, {covariance_type}".ljust(29) + "".join(f"{value:17.1f}" for value in found))
        search = partial(GaussianMixtureSearch, range(1, 7), random_state=0, init_params="kmeans")
        found = [least_cpu(partial(search, **more), X, 2) for more in SEARCHES.values()]
        print("search".ljust(29) + "".join(f"{value:17.1f}" for value in found))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
