"""The box that the noise of candidates is uniform in, in a result store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import zarr

from gmm_dask.passes.bounding_box import Box
from pipeline.store.arrays import get, new_group, open_root, put
from pipeline.store.places import StorePath
from pipeline.transforms import NO_TRANSFORM, Chain

GROUP = "noise"


def write_noise_box(path: StorePath, box: Box, columns: Sequence[str], transform: Chain = NO_TRANSFORM) -> None:
    """Write the box, in place of one that is there.

    Parameters
    ----------
    path : str or Path
        The result store.
    box : Box
        In the units of the fit.
    columns : sequence of str
        Names of the features.
    transform : Chain
        Of the rows before the fit. Where it scales columns, the box in the user's units is written beside it.
    """
    with new_group(path, GROUP) as group:
        put(group, "feature", list(columns), ("feature",))
        boxes = {"": box}
        if (scaling := transform.scaling) is not None:
            boxes["_unscaled"] = box.unscaled(scaling.center, scaling.scale)
        for ending, one in boxes.items():
            put(group, f"corner{ending}", one.corner, ("feature",))
            put(group, f"edges{ending}", one.edges, ("edge", "feature"))


def read_noise_box(path: StorePath, n_features: int) -> Box:
    """Read the box, in the units of the fit; raises KeyError or ValueError if it is none of so many features."""
    group = cast(zarr.Group, open_root(path)[GROUP])
    corner = get(group, "corner", np.float64, (n_features,))
    edges = get(group, "edges", np.float64, (n_features, n_features))
    if not (np.isfinite(corner).all() and np.isfinite(edges).all() and np.linalg.norm(edges, axis=1).all()):
        raise ValueError("corner or edges have values that are not finite, or an edge has no length")
    return Box(corner, edges)
