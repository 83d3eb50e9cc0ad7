"""A candidate of model selection: a covariance type and a number of components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    import pandas as pd


class Candidate(NamedTuple):
    """A mixture model that may be fitted.

    Attributes
    ----------
    covariance_type : str
    n_components : int
    """

    covariance_type: str
    n_components: int

    @classmethod
    def of(cls, row: Mapping[Any, Any] | pd.Series[Any]) -> Self:
        """The candidate that a row of a table of candidates, or a model's attributes, are about."""
        return cls(str(row["covariance_type"]), int(row["n_components"]))

    @property
    def name(self) -> str:
        """What the candidate is called in tables, messages and stores, such as ``tied-k3``."""
        return f"{self.covariance_type}-k{self.n_components}"
