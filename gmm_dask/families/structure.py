"""The structure of covariances: their volume, shape and orientation (Celeux and Govaert 1995).

Each letter of a structure says whether the components share one (E), each have their own (V), or it is that of the
identity (I): mclust's names of its models.
"""

from __future__ import annotations

# by the letters of shape and orientation
GROUPS = {"II": "spherical", "EI": "diagonal", "VI": "diagonal"}
ELLIPSOIDAL = "ellipsoidal"


def group_of(structure: str) -> str:
    """Return what the components are: spherical, diagonal (ellipsoids along the axes) or ellipsoidal."""
    return GROUPS.get(structure[1:], ELLIPSOIDAL)


def reduced_structure(structure: str, n_components: int, n_features: int) -> str:
    """Return the structure that all models share which are the same for these numbers.

    Nothing varies in a single component, and a single feature has neither shape nor orientation.
    """
    if n_features == 1:
        structure = f"{structure[0]}II"
    return structure.replace("V", "E") if n_components == 1 else structure
