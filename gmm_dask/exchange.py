"""Fitted mixtures as scikit-learn's, and back."""

from __future__ import annotations

import copy
from typing import Any

import sklearn.mixture


def to_sklearn(mixture: Any) -> sklearn.mixture.GaussianMixture:
    """A fitted mixture as scikit-learn's; settings that it does not know stay at its defaults."""
    theirs = sklearn.mixture.GaussianMixture()
    for name, value in mixture.get_params().items():
        if _is_known(name, value):
            setattr(theirs, name, value)
    return copy_fitted(mixture, theirs)


def _is_known(name: str, value: Any) -> bool:
    """Whether scikit-learn has such a parameter, and takes such a value."""
    defaults = sklearn.mixture.GaussianMixture().get_params()
    return name in defaults and not (isinstance(value, str) and value == "auto")


def copy_fitted(source: Any, target: Any) -> Any:
    """Give the target the source's fitted attributes."""
    for name, value in vars(source).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(target, name, copy.copy(value))
    return target
