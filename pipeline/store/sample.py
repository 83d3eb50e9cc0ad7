"""Some of the rows and what the chosen model says about them, for pictures and reports of a complete store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.store.arrays import StorePath, get, open_root, put

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn at random, in the units of the data, and how the data is cut.

    Attributes
    ----------
    rows : ndarray of shape (n_sampled, n_features)
    label : ndarray of shape (n_sampled,)
        The most probable component of the chosen model.
    uncertainty : ndarray of shape (n_sampled,)
        The probability that it is another one: one minus the largest responsibility.
    n_chunks, chunk_rows : int
        Chunks of the data, and rows of the largest.
    """

    rows: Array
    label: NDArray[np.integer[Any]]
    uncertainty: Array
    n_chunks: int
    chunk_rows: int


def write_sample(path: StorePath, sample: Sample) -> None:
    """Write the sample into a result store, in place of one that is there."""
    counts = {"n_chunks": sample.n_chunks, "chunk_rows": sample.chunk_rows}
    group = open_root(path, "r+").create_group("sample", overwrite=True, attributes=counts)
    put(group, "value", sample.rows, ("row", "feature"))
    put(group, "label", sample.label.astype(np.int32), ("row",))
    put(group, "uncertainty", sample.uncertainty, ("row",))


def read_sample(path: StorePath) -> Sample | None:
    """The sample of a result store; None if it has none, as those of early versions."""
    root = open_root(path)
    if "sample" not in root:
        return None
    group = cast(zarr.Group, root["sample"])
    counts: dict[str, Any] = group.attrs.asdict()
    arrays = get(group, "value"), get(group, "label"), get(group, "uncertainty")
    return Sample(*arrays, n_chunks=counts["n_chunks"], chunk_rows=counts["chunk_rows"])
