"""The map of the labels, where the rows lie on a grid: two of its dimensions, and the most frequent label of others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.formatting import counted, joined
from gmm_dask.passes.row_outputs import LABEL
from pipeline.printable import printable
from pipeline.report.contents import ReportContents
from pipeline.store.integrity import reading
from pipeline.store.rows.grid import StoredGrid, read_grid
from pipeline.store.rows.zarr import array_of

# of a larger map every n-th row and column is drawn; of other dimensions so many places are read
MOST_CELLS, MOST_PLACES = 500, 12
# how coordinates say that they run from south to north, or from west to east: names, axis, units, standard name
_NORTH = re.compile(r"(?i)lat|latitude|nav_lat|y|yc|yh|nlat|projection_y_coordinate|degrees?_?n(orth)?")
_EAST = re.compile(r"(?i)lon|longitude|nav_lon|x|xc|xh|nlon|projection_x_coordinate|degrees?_?e(ast)?")


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels on two dimensions of a grid.

    Attributes
    ----------
    labels : ndarray of shape (n_y, n_x)
        Numbers of components; -1 where there is none.
    dims : (str, str)
        Names of the dimensions, upwards and to the right.
    coordinates : (ndarray of shape (n_y,), ndarray of shape (n_x,))
    units : (str, str)
        Of the coordinates; empty where they are not known.
    text : str
        What the labels are of.
    """

    labels: NDArray[np.int64]
    dims: tuple[str, str]
    coordinates: tuple[NDArray[Any], NDArray[Any]]
    units: tuple[str, str]
    text: str


def read_map(report: ReportContents) -> LabelMap | None:
    """Return the map of the stored labels; None if there are none, or no two dimensions to draw them on."""
    if report.rows is None or report.rows.parquet:
        return None
    path = report.store.store
    with reading(path, "rows"):
        grid = read_grid(path)
        plane = None if grid is None or LABEL.name not in grid.group else _plane(grid)
        found = None if grid is None or plane is None else _map_of(grid, plane)
    if found is not None:
        report.require_labels(found.labels)
    return found


def _map_of(grid: StoredGrid, plane: tuple[str, str]) -> LabelMap:
    steps = [-(-grid.sizes[dim] // MOST_CELLS) for dim in plane]
    slices, text = _slices(grid, plane, steps)
    coordinates = [_numbers(grid.values_of(dim))[::step] for dim, step in zip(plane, steps, strict=True)]
    units = [_unit(str(grid.attributes_of(dim).get("units", ""))) for dim in plane]
    y, x = plane
    thinned = [f"every {step}th {dim}" for dim, step in zip(plane, steps, strict=True) if step > 1]
    text = " ".join([text, f"Drawn is {joined(thinned)}." if thinned else ""]).strip()
    return LabelMap(_most_frequent(slices), (y, x), (coordinates[0], coordinates[1]), (units[0], units[1]), text)


def _unit(units: str) -> str:
    return re.sub(r"(?i)degrees?_?([NE])(orth|ast)?", lambda found: f"°{found[1].upper()}", units)


def _plane(grid: StoredGrid) -> tuple[str, str] | None:
    """Return the dimensions of the map: those from south to north and from west to east, or the last two."""
    north = [dim for dim in grid.sizes if _runs(_NORTH, dim, grid.attributes_of(dim), "Y")]
    east = [dim for dim in grid.sizes if _runs(_EAST, dim, grid.attributes_of(dim), "X")]
    found = (north[0], east[0]) if north and east else tuple(grid.sizes)[-2:]
    return (found[0], found[1]) if len(found) == 2 and min(grid.sizes[dim] for dim in found) > 1 else None


def _runs(direction: re.Pattern[str], dim: str, attributes: Mapping[str, Any], axis: str) -> bool:
    words = (dim, str(attributes.get("standard_name", "")), str(attributes.get("units", "")))
    return attributes.get("axis") == axis or any(map(direction.fullmatch, words))


def _slices(grid: StoredGrid, plane: tuple[str, str], steps: Sequence[int]) -> tuple[NDArray[np.int64], str]:
    """Return labels of the plane (n_places, n_y, n_x) at some places of the other dimensions, and which these are."""
    others = [dim for dim in grid.sizes if dim not in plane]
    shape = tuple(grid.sizes[dim] for dim in others)
    total = int(np.prod(shape, dtype=np.int64))
    places = np.unique(np.linspace(0, total - 1, min(total, MOST_PLACES)).round().astype(np.int64))
    array, found = array_of(grid.group, LABEL.name), []
    for place in places:
        where = dict(zip(others, np.unravel_index(place, shape), strict=True)) if others else {}
        index = tuple(
            slice(None, None, steps[plane.index(dim)]) if dim in plane else int(where[dim]) for dim in grid.sizes
        )
        labels = np.asarray(array[index])
        found.append(labels if list(grid.sizes).index(plane[0]) < list(grid.sizes).index(plane[1]) else labels.T)
    if not others:
        text = "The label of each cell."
    elif total == 1:
        text = f"The labels at the one place of {joined(others)}."
    else:
        of = f"all {total:,}" if total == len(places) else f"{len(places)} of {total:,}"
        text = f"The most frequent label of each cell, of {of} places in {joined(others)}."
    return np.stack(found), text


def _most_frequent(slices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most frequent label of each cell, the smallest of several; -1 where there is none."""
    best = np.full(slices.shape[1:], -1, dtype=np.int64)
    count = np.zeros(slices.shape[1:], dtype=np.int64)
    for label in np.unique(slices[slices >= 0]):
        here = (slices == label).sum(axis=0)
        best[here > count] = label
        count = np.maximum(count, here)
    return best


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return coordinates that numbers can be drawn at: themselves if they rise or fall, else positions."""
    positions = np.arange(len(values), dtype=np.float64)
    if values.dtype.kind not in "fiu":
        return positions
    steps = np.diff(values.astype(np.float64))
    return values.astype(np.float64) if (steps > 0.0).all() or (steps < 0.0).all() else positions


def describe_map(report: ReportContents, found: LabelMap) -> str:
    """Describe the map for those who cannot see it."""
    shares = [f"{name} {share:.0%}" for name, share in _shares(report, found)]
    y, x = map(printable, found.dims)
    return f"Map of the labels by {y} and {x}; of {counted(len(shares), 'component')} in it: {joined(shares)}."


def _shares(report: ReportContents, found: LabelMap) -> list[tuple[str, float]]:
    titles = dict(zip(report.components.numbers, report.titles, strict=True))
    numbers, counts = np.unique(found.labels[found.labels >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:7]
    return [(titles[int(numbers[i])], float(counts[i] / counts.sum())) for i in order]
