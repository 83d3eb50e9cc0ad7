"""Gaussian mixtures for data that does not fit in memory, with scikit-learn's answers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gmm_dask.errors import UserError

if TYPE_CHECKING:
    from gmm_dask.bayesian import BayesianGaussianMixture
    from gmm_dask.estimator import GaussianMixture
    from gmm_dask.matching import match_components
    from gmm_dask.merging import merge_components
    from gmm_dask.search import GaussianMixtureSearch
    from pipeline.load import load

__version__ = "0.1.0"
__all__ = [
    "BayesianGaussianMixture",
    "GaussianMixture",
    "GaussianMixtureSearch",
    "UserError",
    "load",
    "match_components",
    "merge_components",
]

# imported when they are first used, and scikit-learn with them: commands that only read a result store need neither.
# What reads result stores lies above this package, and is only named here
_LAZY = {
    "BayesianGaussianMixture": "gmm_dask.bayesian",
    "GaussianMixture": "gmm_dask.estimator",
    "GaussianMixtureSearch": "gmm_dask.search",
    "load": "pipeline.load",
    "match_components": "gmm_dask.matching",
    "merge_components": "gmm_dask.merging",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
