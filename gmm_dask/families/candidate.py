"""A candidate of model selection: a covariance type, a number of components, and whether there is noise beside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gmm_dask.families import get_family
from gmm_dask.families.structure import reduced_structure
from gmm_dask.formatting import counted

if TYPE_CHECKING:
    import pandas as pd


_NOISE = "-noise"
_NAME = re.compile(rf"([A-Za-z]+)-k([1-9][0-9]*)({_NOISE})?")


class Candidate(NamedTuple):
    """A mixture model that may be fitted.

    Attributes
    ----------
    covariance_type : str
    n_components : int
        Without the noise.
    noise : bool
        Whether a uniform component stands beside them, for rows that belong to none.
    """

    covariance_type: str
    n_components: int
    noise: bool = False

    @classmethod
    def of(cls, row: Mapping[Any, Any] | pd.Series[Any]) -> Self:
        """The candidate that a row of a table of candidates, or a model's attributes, are about."""
        return cls(str(row["covariance_type"]), int(row["n_components"]), bool(row.get("noise", False)))

    @property
    def name(self) -> str:
        """What the candidate is called in tables, messages and stores, such as ``tied-k3`` or ``full-k2-noise``."""
        return f"{self.covariance_type}-k{self.n_components}{_NOISE if self.noise else ''}"

    @property
    def kind(self) -> str:
        """The candidate's name without the number of components, such as ``tied`` or ``full-noise``."""
        return f"{self.covariance_type}{_NOISE if self.noise else ''}"

    @property
    def words(self) -> str:
        """What the candidate is in words: ``3 components, tied covariance, with noise``."""
        noise = ", with noise" if self.noise else ""
        return f"{counted(self.n_components, 'component')}, {self.covariance_type} covariance{noise}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The candidate of a name; None if the text is no name of one."""
        found = _NAME.fullmatch(name)
        return cls(found[1], int(found[2]), found[3] is not None) if found else None

    def form(self, n_features: int) -> Self:
        """The candidate in the form that all candidates share which are the same model, with its structure as type.

        With one component full and tied are the same model; with one feature full, diag and spherical are.
        """
        structure = get_family(self.covariance_type).structure
        return self._replace(covariance_type=reduced_structure(structure, self.n_components, n_features))

    def n_parameters(self, n_features: int) -> int:
        """Number of free parameters: covariances, means and weights, the noise's among them."""
        return get_family(self.covariance_type).n_parameters(self.n_components, n_features) + self.noise
