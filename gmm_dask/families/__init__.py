"""Covariance families: the one place that knows what a covariance type is."""

from __future__ import annotations

from collections.abc import Iterable

from gmm_dask.errors import UserError
from gmm_dask.families.base import Family, Noise, Parameters, Statistics
from gmm_dask.families.diag import Diag
from gmm_dask.families.full import Full
from gmm_dask.families.parsimonious import EEI, EEV, EII, EVE, EVI, EVV, VEE, VEI, VEV, VVE
from gmm_dask.families.posterior import Posterior
from gmm_dask.families.spherical import Spherical
from gmm_dask.families.tied import Tied
from gmm_dask.formatting import did_you_mean

_SKLEARN: tuple[Family, ...] = (Full(), Tied(), Diag(), Spherical())
_PARSIMONIOUS: tuple[Family, ...] = (EII(), EEI(), VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV())

FAMILIES: dict[str, Family] = {family.name: family for family in (*_SKLEARN, *_PARSIMONIOUS)}
# scikit-learn's covariance types, which are tried if nothing else is said
DEFAULT_TYPES = tuple(family.name for family in _SKLEARN)
# what a family may be called: mclust's name too
NAMES: dict[str, Family] = FAMILIES | {family.structure: family for family in FAMILIES.values()}
# stands for all of them in a list of covariance types
MCLUST = "mclust"


def get_family(name: str) -> Family:
    """The family of a covariance type's name, ours or mclust's; raises :class:`UserError` for an unknown one."""
    try:
        return NAMES[name]
    except (KeyError, TypeError):
        hint = did_you_mean(name, NAMES) if isinstance(name, str) else ""
        raise UserError(f"covariance_type must be one of {', '.join(NAMES)}; got {name!r}{hint}.") from None


def require_default_types(names: Iterable[str], asked: str, instead: str) -> None:
    """Raise :class:`UserError` if any of our names is none of scikit-learn's four, which ``asked`` is for."""
    others = [name for name in dict.fromkeys(names) if name not in DEFAULT_TYPES]
    if others:
        raise UserError(
            f"{asked} takes the covariance types {', '.join(DEFAULT_TYPES)}; got {', '.join(others)}. Leave these out, "
            f"or take {instead}."
        )


def family_names(names: str | Iterable[str]) -> list[str]:
    """Our names of covariance types, in the order given: ``mclust`` is all fourteen, and ``VVV`` is ``full``.

    A name that is there twice, perhaps as mclust's and ours, comes twice.

    Raises
    ------
    UserError
        If a name is unknown.
    """
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        found += FAMILIES if isinstance(name, str) and name == MCLUST else [get_family(name).name]
    return found


__all__ = [
    "DEFAULT_TYPES",
    "FAMILIES",
    "MCLUST",
    "NAMES",
    "Family",
    "Noise",
    "Parameters",
    "Posterior",
    "Statistics",
    "family_names",
    "get_family",
    "require_default_types",
]
