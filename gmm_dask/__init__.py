"""Gaussian mixtures for data that does not fit in memory, with scikit-learn's answers."""

from gmm_dask.errors import UserError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.search import GaussianMixtureSearch

__version__ = "0.1.0"
__all__ = ["GaussianMixture", "GaussianMixtureSearch", "UserError"]
