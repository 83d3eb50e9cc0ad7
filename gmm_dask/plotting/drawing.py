"""Drawing on matplotlib axes: components and rows, uncertainty of labels, lower bounds.

These functions take arrays and tables: :mod:`gmm_dask.plotting.plots` calls them with estimators, reports with stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask.plotting.feature_pairs import Components
from gmm_dask.plotting.marks import PALETTE, WHITE, color_of, style_of, text_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

INK, FAINT, GRID_LINES = "#333333", "#b8b8b8", "#e4e4e4"
# radius in standard deviations of the ellipse that holds 95 % of a two-dimensional Gaussian
RADIUS_95 = float(np.sqrt(-2.0 * np.log(0.05)))
# diameter of a component's badge, in points
BADGE = 14.0
# part of the rows that may lie outside the frame, at either end of an axis
OUTSIDE = 0.005
# part of the frame by which an ellipse may take it beyond the rows
BEYOND = 0.1
# of more components than the first, so many of the heaviest are drawn
MANY, MOST_DRAWN = 20, 12
MOST_TICKS = 30
# more rows than this are shown by their density, in so many cells across and upwards
MOST_SCATTERED, CELLS = 3000, (110, 86)
# quantiles of the density at the rows where lines of equal density lie, and points of their grid in each direction
CONTOURS, GRID, CONTOUR = (0.05, 0.25, 0.5, 0.75), 120, "#777777"
MOST_DOTS = 60


class UncertaintyBand(NamedTuple):
    """A range of ``1 - max_k r_k``, the probability that a row belongs to another component than its label says."""

    upper: float
    label: str
    color: str


UNCERTAINTY = (
    UncertaintyBand(0.01, "up to 1%", "#dce6ee"),
    UncertaintyBand(0.1, "1 to 10%", "#8fb8d6"),
    UncertaintyBand(0.3, "10 to 30%", "#3a7fb5"),
    UncertaintyBand(1.0, "over 30%", "#0b2f52"),
)


def halo() -> list[Any]:
    """Return a white edge that separates a line or a text from what lies below."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3.0, foreground="white")]


def soften(axes: Axes, grid: bool = True) -> None:
    """Leave out the frame above and on the right, and put a pale grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color=GRID_LINES, lw=0.7)
    axes.set_axisbelow(True)


def add_legend(axes: Axes, columns: int, **options: Any) -> None:
    """Add a legend above the axes, where it covers nothing."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.2}
    axes.legend(ncols=columns, frameon=False, handletextpad=0.4, columnspacing=1.2, **place, **options)


# -- components and rows -------------------------------------------------------------------------------------


def draw_clusters(
    axes: Axes, components: Components, rows: Array, labels: NDArray[np.integer[Any]], pair: tuple[int, int]
) -> int:
    """Draw rows by component, the mixture's density, and the components' numbers and 95 % ellipses, in a plane.

    Parameters
    ----------
    axes : Axes
    components : Components
    rows : ndarray of shape (n_rows, n_features)
        Those that lack one of the features are not drawn.
    labels : ndarray of shape (n_rows,)
        -1 of rows of the noise, which are faint.
    pair : (int, int)
        Positions of the features.

    Returns
    -------
    int
        Number of rows outside the frame, which holds nearly all of them and the ellipses.
    """
    from matplotlib.patches import Ellipse

    drawn, points, numbers = heaviest(components.weights), rows[:, pair], components.numbers
    if not (here := np.isfinite(points).all(axis=1)).all():
        points, labels = points[here], labels[here]
    if not len(points):  # no row has both: the means stand for rows
        points, labels = components.means[:, pair], np.arange(len(components.means))
    boxes = []
    for k in drawn[::-1]:
        mean, covariance = components.means[k, pair], components.covariances[k][np.ix_(pair, pair)]
        width, height, angle = _ellipse(covariance)
        edge: dict[str, Any] = {"ec": color_of(numbers[k]), "lw": 1.7, "ls": style_of(numbers[k]).dashes}
        outline = {"fill": False, "path_effects": halo(), **edge}
        axes.add_patch(Ellipse((mean[0], mean[1]), width, height, angle=angle, **outline))
        reach = RADIUS_95 * np.sqrt(np.diagonal(covariance))
        boxes.append((mean - reach, mean + reach))
    axes.set_xlabel(components.names[pair[0]])
    axes.set_ylabel(components.names[pair[1]])
    soften(axes)
    outside = _frame(axes, points, boxes)
    _number_components(axes, components, pair, drawn)
    colors = [color_of(numbers[k]) if k in drawn else FAINT for k in range(len(numbers))]
    _draw_rows(axes, points, labels, [*colors, FAINT])  # that of the label -1 is the last
    _draw_contours(axes, components, points, pair)
    return outside


def _draw_rows(axes: Axes, points: Array, labels: NDArray[np.integer[Any]], colors: Sequence[str]) -> None:
    """Draw rows as dots; of many rows, the density: each cell in the colour with most rows in it."""
    from matplotlib.colors import to_rgba_array

    shades, shade = np.unique(to_rgba_array(colors)[:, :3], axis=0, return_inverse=True)
    shade = shade.ravel()[labels]
    if len(points) <= MOST_SCATTERED:
        axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.45, lw=0, c=shades[shade], rasterized=True)
        return
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    low, size = np.array([left, bottom]), np.array([right - left, top - bottom])
    cells = np.floor((points - low) / size * CELLS).astype(np.int64)
    inside = ((cells >= 0) & (cells < CELLS)).all(axis=1)
    counts = np.zeros((len(shades), *CELLS), dtype=np.int64)
    np.add.at(counts, (shade[inside], *cells[inside].T), 1)
    total = counts.sum(axis=0)
    image = np.zeros((*CELLS, 4))
    image[..., :3] = shades[counts.argmax(axis=0)]
    image[..., 3] = np.where(total > 0, 0.2 + 0.7 * np.log1p(total) / np.log1p(max(1, total.max())), 0.0)
    extent = (left, right, bottom, top)
    axes.imshow(image.swapaxes(0, 1), extent=extent, origin="lower", aspect="auto", interpolation="nearest")


def _draw_contours(axes: Axes, components: Components, points: Array, pair: tuple[int, int]) -> None:
    """Draw lines of equal density of the mixture in the plane: they hold 95, 75, 50 and 25% of the rows."""
    if len(components.weights) > MANY:
        return  # a mesh of narrow peaks would only hide the rows
    levels = np.quantile(_plane_density(components, points[:: -(-len(points) // MOST_SCATTERED)], pair), CONTOURS)
    if not (np.diff(levels) > 0.0).all() or levels[0] <= 0.0:
        return
    x, y = np.linspace(*axes.get_xlim(), GRID), np.linspace(*axes.get_ylim(), GRID)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    density = _plane_density(components, grid, pair).reshape(GRID, GRID)
    axes.contour(x, y, density, levels=levels, colors=CONTOUR, linewidths=0.5, zorder=1)


def _plane_density(components: Components, points: Array, pair: tuple[int, int]) -> Array:
    """Return the mixture's density (n_points,) in the plane of two features."""
    total = np.zeros(len(points))
    for weight, mean, covariance in zip(components.weights, components.means, components.covariances, strict=True):
        (a, b), (_, d) = covariance[np.ix_(pair, pair)]
        determinant = max(a * d - b * b, np.finfo(np.float64).tiny)
        x, y = (points - mean[list(pair)]).T
        squared = (x * x * d - 2.0 * x * y * b + y * y * a) / determinant
        total += weight * np.exp(-0.5 * squared) / (2.0 * np.pi * np.sqrt(determinant))
    return total


def _ellipse(covariance: Array) -> tuple[float, float, float]:
    """Return width, height and angle in degrees of the ellipse that holds 95 %."""
    variances, directions = np.linalg.eigh(covariance)
    width, height = 2.0 * RADIUS_95 * np.sqrt(np.maximum(variances, 0.0))
    return float(width), float(height), float(np.degrees(np.arctan2(directions[1, 0], directions[0, 0])))


def heaviest(weights: Array) -> list[int]:
    """Return the components to draw, the heaviest first: all, unless there are many."""
    most = len(weights) if len(weights) <= MANY else MOST_DRAWN
    return [int(k) for k in np.argsort(-weights, kind="stable")[:most]]


def _number_components(axes: Axes, components: Components, pair: tuple[int, int], drawn: Sequence[int]) -> None:
    """Put a badge with its number on each component, beside those that it would cover."""
    points_per_pixel = 72.0 / axes.figure.dpi
    ends = points_per_pixel * np.array(axes.bbox.size)
    means = points_per_pixel * (axes.transData.transform(components.means[:, pair]) - axes.bbox.p0)
    scale = ends / np.array([np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())])
    for k in drawn[::-1]:
        deviations = np.sqrt(components.variances[k, list(pair)])
        reach = float(np.max(RADIUS_95 * deviations * scale))
        offset = np.zeros(2)
        if reach < BADGE:
            others = means[[j for j in drawn if j != k]]
            offset = _way_out(means[k], others, ends) * (reach + 0.8 * BADGE)
        _badge(axes, components.numbers[k], components.means[k, pair], offset)


def _way_out(place: Array, others: Array, ends: Array) -> Array:
    """Return the direction, of length one, away from the nearest other place, or to the middle if that leads out."""
    nearest = others[np.argmin(((others - place) ** 2).sum(axis=1))] if len(others) else ends
    for way in (place - nearest, ends / 2.0 - place):
        length = np.hypot(*way)
        step = place + 2.0 * BADGE * way / max(length, 1e-9)
        if length > 0.0 and (step > 0.0).all() and (step < ends).all():
            break
    return np.asarray(way / max(length, 1e-9))


def _badge(axes: Axes, number: int, place: Array, offset: Array) -> None:
    """Write a component's number on its mark, so many points from a place."""
    color, style = color_of(number), style_of(number)
    edge = {"ec": WHITE, "lw": 1.0} if style.filled else {"ec": color, "lw": 1.8}
    box: dict[str, Any] = {"boxstyle": f"{style.shape},pad=0.25", "fc": color if style.filled else WHITE, **edge}
    text: dict[str, Any] = {"color": text_color(box["fc"]), "weight": "bold", "size": "small", "zorder": 4}
    at: dict[str, Any] = {"ha": "center", "va": "center", "annotation_clip": True, "in_layout": False}
    xy, points = (place[0], place[1]), (offset[0], offset[1])
    axes.annotate(str(number), xy, points, textcoords="offset points", bbox=box, **at, **text)


def _frame(axes: Axes, points: Array, boxes: Sequence[tuple[Array, Array]]) -> int:
    """Limit the axes to nearly all rows, and to the ellipses as far as they are near the rows."""
    low, high = np.quantile(points, [OUTSIDE, 1.0 - OUTSIDE], axis=0)
    beyond = BEYOND * (high - low)
    low = np.maximum(np.min([low, *(box[0] for box in boxes)], axis=0), points.min(axis=0) - beyond)
    high = np.minimum(np.max([high, *(box[1] for box in boxes)], axis=0), points.max(axis=0) + beyond)
    margin = np.where(high > low, 0.04 * (high - low), 1.0)
    low, high = low - margin, high + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    return int(np.count_nonzero(np.any((points < low) | (points > high), axis=1)))


def draw_density(axes: Axes, components: Components, values: Array) -> None:
    """Draw a histogram of a single feature, the densities of the components and of the noise, and their sum.

    Parameters
    ----------
    axes : Axes
    components : Components
        With one feature.
    values : ndarray of shape (n_rows,)
    """
    means, deviations = components.means[:, 0], np.sqrt(components.variances[:, 0])
    ends = min(values.min(), (means - 3 * deviations).min()), max(values.max(), (means + 3 * deviations).max())
    x = np.union1d(np.linspace(*ends, 400), np.ravel(means[:, None] + deviations[:, None] * np.linspace(-3, 3, 61)))
    z = (x - means[:, None]) / deviations[:, None]
    parts = (components.weights / (deviations * np.sqrt(2.0 * np.pi)))[:, None] * np.exp(-0.5 * z**2)
    axes.hist(values, bins=min(60, max(10, int(np.sqrt(len(values))))), density=True, color="#dddddd", label="rows")
    noise = components.noise
    level = 0.0 if noise is None else float(noise.weight * np.exp(-noise.log_volume))
    if noise is not None:
        axes.axhline(level, color=FAINT, lw=1.8, ls="--", label="noise")
    if len(parts) > 1 or noise is not None:
        axes.plot(x, parts.sum(axis=0) + level, color=INK, lw=1.0, label="their sum")
    drawn = heaviest(components.weights)[::-1]
    for k in drawn:
        number = components.numbers[k]
        axes.plot(x, parts[k], lw=1.8, color=color_of(number), ls=style_of(number).dashes)
    for k in drawn:
        _badge(axes, components.numbers[k], np.array([means[k], parts[k].max()]), np.array([0.0, 0.8 * BADGE]))
    axes.set_xlabel(components.names[0])
    axes.set_ylabel("density")
    # room for the badge of the highest
    axes.set_ylim(bottom=0.0, top=1.12 * axes.dataLim.y1)
    soften(axes)
    add_legend(axes, columns=2, fontsize="small")


def draw_means(axes: Axes, components: Components) -> None:
    """Draw the means as colours: the distance of each from the mixture's mean, in its standard deviations."""
    z = (components.means - components.center) / components.deviations
    reach = max(1.0, float(np.abs(z).max()))
    image = axes.imshow(z, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    d = z.shape[1]
    _tick(axes.xaxis, components.names)
    _tick(axes.yaxis, list(map(str, components.numbers)))
    axes.tick_params(axis="x", rotation=90 if max(map(len, components.names)) * d > 30 else 0, length=0)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("component")
    axes.spines[:].set_visible(False)
    if axes.figure is not None:
        # a grid for the bar would have rows of no height, which a constrained layout cannot divide
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, use_gridspec=False)
        bar.outline.set_visible(False)
        bar.set_label("standard deviations")


def _tick(axis: Any, names: Sequence[str]) -> None:
    """Name every tick, or every n-th one if there are too many."""
    step = -(-len(names) // MOST_TICKS)
    shown = [name if len(name) <= 16 else f"{name[:8]}…{name[-7:]}" for name in names[::step]]
    axis.set_ticks(range(0, len(names), step), shown)


# -- uncertainty and bounds ----------------------------------------------------------------------------------


def uncertainty_shares(uncertainty: Array, labels: NDArray[np.integer[Any]], n_components: int) -> Array:
    """Return each component's fractions of rows by band of uncertainty, (n_components, 4); NaN without rows.

    Rows of the noise, whose label is -1, are no component's.
    """
    uncertainty, labels = uncertainty[labels >= 0], labels[labels >= 0]
    bands = np.searchsorted([band.upper for band in UNCERTAINTY[:-1]], uncertainty, side="left")
    counts = np.zeros((n_components, len(UNCERTAINTY)))
    np.add.at(counts, (labels, bands), 1.0)
    with np.errstate(invalid="ignore"):
        shares: Array = counts / counts.sum(axis=1, keepdims=True)
    return shares


def draw_uncertainty(axes: Axes, uncertainty: Array, labels: NDArray[np.integer[Any]], components: Components) -> None:
    """Draw how certain each component's labels are: fractions of its rows by ``1 - max_k r_k``.

    Parameters
    ----------
    axes : Axes
    uncertainty : ndarray of shape (n_rows,)
        One minus the largest responsibility.
    labels : ndarray of shape (n_rows,)
    components : Components
        The heaviest are shown.
    """
    weights = components.weights
    shown = sorted(heaviest(weights))
    shares = np.nan_to_num(uncertainty_shares(uncertainty, labels, len(weights))[shown])
    positions, left = np.arange(len(shown)), np.zeros(len(shown))
    for band, share in zip(UNCERTAINTY, shares.T, strict=True):
        axes.barh(positions, 100.0 * share, left=left, height=0.78, color=band.color, label=band.label)
        left += 100.0 * share
    axes.set_yticks(positions, [str(components.numbers[k]) for k in shown])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("% of the rows with this label")
    axes.set_ylabel("component")
    soften(axes, grid=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    add_legend(axes, columns=2, title="probability of another component", alignment="left")


def draw_bounds(axes: Axes, bounds: Sequence[float], label: str = "mean log-likelihood per row") -> None:
    """Draw mean log-likelihoods per row, or other bounds, by iteration."""
    from matplotlib.ticker import MaxNLocator

    dots: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(bounds) <= MOST_DOTS else {}
    axes.plot(range(1, len(bounds) + 1), bounds, color=PALETTE[0], lw=1.8, **dots)
    axes.set_xlabel("iteration, each a pass over the data")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]
    soften(axes)
