"""Gaussian mixtures for data that does not fit in memory, with scikit-learn's answers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gmm_dask.errors import UserError

if TYPE_CHECKING:
    from gmm_dask.estimator import GaussianMixture
    from gmm_dask.search import GaussianMixtureSearch

__version__ = "0.1.0"
__all__ = ["GaussianMixture", "GaussianMixtureSearch", "UserError"]

# imported when they are first used, and scikit-learn with them: commands that only read a result store need neither
_ESTIMATORS = {"GaussianMixture": "estimator", "GaussianMixtureSearch": "search"}


def __getattr__(name: str) -> Any:
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_ESTIMATORS[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ESTIMATORS})
