"""Labels on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.plotting.drawing import BADGE, GRID_LINES
from gmm_dask.plotting.marks import WHITE, color_of, text_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# of more components than these the badges would hide the map
MOST_BADGES = 20


def draw_map(
    axes: Axes,
    labels: NDArray[np.integer[Any]],
    coordinates: Sequence[NDArray[Any]],
    names: Sequence[str],
    titles: Mapping[int, str],
) -> None:
    """Draw each cell in the colour of its component, and the component's number within its cells.

    Parameters
    ----------
    axes : Axes
    labels : ndarray of shape (n_y, n_x)
        Numbers of components; -1 where there is none, which is left empty.
    coordinates : (ndarray of shape (n_y,), ndarray of shape (n_x,))
        Rising or falling.
    names : (str, str)
        Of the coordinates.
    titles : mapping
        What a component's number is shown as.
    """
    from matplotlib.colors import to_rgba

    shown = np.unique(labels[labels >= 0])
    image = np.zeros((*labels.shape, 4))
    for number in shown.tolist():
        image[labels == number] = to_rgba(color_of(number))
    y, x = coordinates
    axes.set_facecolor(GRID_LINES)
    axes.pcolormesh(x, y, image, shading="nearest", rasterized=True)
    axes.set_xlabel(names[1])
    axes.set_ylabel(names[0])
    axes.spines[["top", "right"]].set_visible(False)
    counts = {number: int(np.count_nonzero(labels == number)) for number in shown.tolist()}
    for number in sorted(counts, key=lambda one: -counts[one])[:MOST_BADGES]:
        row, column = _inside(labels == number)
        ground = color_of(number)
        axes.annotate(
            titles[number],
            (x[column], y[row]),
            ha="center",
            va="center",
            fontsize=0.6 * BADGE,
            color=text_color(ground),
            bbox={"boxstyle": "round,pad=0.25", "fc": ground, "ec": WHITE, "lw": 1.0},
        )


def _inside(cells: NDArray[np.bool_]) -> tuple[int, int]:
    """Return a cell among others of its kind: the one with most of them around it."""
    reach = max(1, min(cells.shape) // 20)
    sums = np.pad(cells.astype(np.int64), reach)
    width = 2 * reach + 1
    for axis in (0, 1):
        total = np.insert(np.cumsum(sums, axis=axis), 0, 0, axis=axis)
        high = np.take(total, np.arange(width, total.shape[axis]), axis=axis)
        sums = high - np.take(total, np.arange(total.shape[axis] - width), axis=axis)
    row, column = np.unravel_index(int(np.where(cells, sums, -1).argmax()), cells.shape)
    return int(row), int(column)
