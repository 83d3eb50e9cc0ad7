"""Covariance families: the one place that knows what a covariance type is."""

from __future__ import annotations

from gmm_dask.errors import UserError
from gmm_dask.families.base import Family, Parameters, Statistics
from gmm_dask.families.diag import Diag
from gmm_dask.families.full import Full
from gmm_dask.families.spherical import Spherical
from gmm_dask.families.tied import Tied

FAMILIES: dict[str, Family] = {family.name: family for family in (Full(), Tied(), Diag(), Spherical())}


def get_family(name: str) -> Family:
    """The family of a covariance type's name; raises :class:`UserError` for an unknown one."""
    try:
        return FAMILIES[name]
    except (KeyError, TypeError):
        raise UserError(f"covariance_type must be one of {', '.join(FAMILIES)}; got {name!r}.") from None


__all__ = ["FAMILIES", "Family", "Parameters", "Statistics", "get_family"]
