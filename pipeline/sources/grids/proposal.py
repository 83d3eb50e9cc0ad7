"""What to begin with, where data have variables on a grid: which to cluster on, and which dimensions are columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gmm_dask.conventions import attribute_text
from gmm_dask.formatting import joined, listed
from pipeline.sources.grids.columns import Variables
from pipeline.sources.grids.variables import Variable

# a word of the names of vertical dimensions, such as N_LEVELS and ocean_sigma_coordinate
_VERTICAL = {"depth", "level", "levels", "lev", "layer", "pressure", "height", "altitude", "sigma"}
# names of dimensions that profiles, spectra and the like are along
_FEATURES = re.compile(
    rf"(?i)({'|'.join(sorted(_VERTICAL))}|z|zc|plev|pres|band|bands|channel|wavelength|frequency|bin|bins|marker|feature|"
    r"features)(_?[0-9a-z])?"
)
_PRESSURE = re.compile(r"(?i)(d|deci|m|milli|h|hecto|k|kilo)?(pa|pascals?|bars?)")


@dataclass(frozen=True)
class Proposal:
    """Variables and dimensions of a first configuration.

    Attributes
    ----------
    variables, feature_dims : tuple of str
    notes : tuple of str
        What a user should know of the choice.
    """

    variables: tuple[str, ...]
    feature_dims: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The values by their keys in a configuration."""
        return {"data.variables": list(self.variables), "data.feature_dims": list(self.feature_dims)}


def propose(found: Variables) -> Proposal | None:
    """Return variables of the most dimensions, all of the same ones; None if none has several dimensions."""
    named = {str(name) for variable in found.values() for name in _named(variable)}
    data = [one for one in found.values() if one.is_numeric and len(one.dims) > 1 and one.name not in named]
    if not data:
        return None
    dims = max(data, key=lambda one: len(one.dims)).dims
    chosen = [one for one in data if one.dims == dims]
    features = [dim for dim in dims if _is_feature(dim, found.get(dim))]
    if len(features) == len(dims):
        features = features[1:]
    return Proposal(tuple(one.name for one in chosen), tuple(features), tuple(_notes(data, chosen, dims, features)))


def _named(variable: Variable) -> Iterator[str]:
    """Yield the variables that attributes of one name: coordinates and bounds are no data."""
    for key in ("coordinates", "bounds"):
        yield from attribute_text(variable.attributes, key).split()


def _is_feature(dim: str, index: Variable | None) -> bool:
    """Whether a dimension is a vertical one by its coordinate (CF conventions, 4.3), or a known one by its name."""
    attributes = {} if index is None else index.attributes
    axis, positive, units, name = (
        attribute_text(attributes, key) for key in ("axis", "positive", "units", "standard_name")
    )
    if axis:
        return axis.upper() == "Z"
    is_named = any(_VERTICAL & set(re.findall("[a-z]+", one.casefold())) for one in (dim, name))
    return bool(positive or is_named or _FEATURES.fullmatch(dim) or _PRESSURE.fullmatch(units))


def _notes(data: list[Variable], chosen: list[Variable], dims: tuple[str, ...], features: list[str]) -> Iterator[str]:
    rows = [dim for dim in dims if dim not in features]
    yield f"a row is a place of {joined(rows)}; its columns are the variables" + (
        f" at each {joined(features)}" if features else ""
    )
    if others := [one.shown for one in data if one not in chosen]:
        yield f"left out, as their dimensions are others: {listed(others)}"
