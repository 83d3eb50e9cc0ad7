"""Drawing on matplotlib axes: criteria, components and rows, uncertainty of labels, lower bounds.

These functions take arrays and tables: :mod:`gmm_dask.plotting.plots` calls them with estimators, reports with stores.

Colours are those of Okabe and Ito (2008), which the colour-blind can tell apart; components bear their numbers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmm_dask.plotting.feature_pairs import Components
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY, EvidenceScale, differences
from gmm_dask.selection.results import chosen_position

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a52")
INK, FAINT = "#333333", "#b8b8b8"
MARKERS = "os^Dv<>"
# radius in standard deviations of the ellipse that holds 95 % of a two-dimensional Gaussian
RADIUS_95 = float(np.sqrt(-2.0 * np.log(0.05)))
# part of the rows that may lie outside the frame, at either end of an axis
OUTSIDE = 0.005
# of more components than the first, so many of the heaviest are drawn
MANY, MOST_DRAWN = 20, 12
MOST_TICKS = 30
# differences of a criterion up to this are shown to scale; larger ones, from 10 on, by their logarithm
FAR, LINEAR = 100.0, KASS_RAFTERY.levels[-2].upper
# opacity of the bands that show how strong the evidence is, from the weakest on
SHADES = (0.10, 0.06, 0.03, 0.0)
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


def color_of(k: int) -> str:
    """The colour of a component, or of the k-th line."""
    return PALETTE[k % len(PALETTE)]


# -- criteria ------------------------------------------------------------------------------------------------


def draw_criteria(axes: Axes, table: pd.DataFrame, criterion: str, close: bool = False) -> bool:
    """Draw a criterion by number of components, as its distance from the smallest: one line per covariance type.

    Parameters
    ----------
    axes : Axes
    table : DataFrame
        One row per candidate, with n_components, covariance_type, status, n_parameters and the criterion's column.
    criterion : str
    close : bool
        Whether to show only candidates close to the winner.

    Returns
    -------
    bool
        Whether bands show how strong the evidence is: only for a criterion with a graded scale, and where the
        candidates are close enough.
    """
    winner = chosen_position(table, criterion)
    delta = table.assign(above=differences(table[criterion].tolist(), table["status"].tolist()))["above"]
    for i, (name, rows) in enumerate(table.assign(above=delta).groupby("covariance_type", sort=False)):
        line = rows.sort_values("n_components")
        style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "ms": 4.5, "lw": 1.5, "color": color_of(i)}
        axes.plot(line["n_components"], line["above"], label=str(name), **style)
    if winner is not None:
        ring: dict[str, Any] = {"marker": "o", "ms": 12, "mfc": "none", "mec": INK, "mew": 1.4, "ls": "none"}
        axes.plot(table["n_components"].iloc[winner], delta.iloc[winner], label="best", clip_on=False, **ring)
    scale, banded = CRITERIA[criterion].graded_scale, False
    if close:
        top = _come_close(axes, table["n_components"], delta)
        banded = scale is not None and top <= FAR
    elif delta.max() > FAR:
        axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.6)
        axes.set_ylim(bottom=-0.2 * LINEAR)
    if scale and banded:
        _draw_bands(axes, scale)
    _label_criteria(axes, criterion)
    return banded


def _come_close(axes: Axes, counts: pd.Series[Any], delta: pd.Series[Any]) -> float:
    """Limit the axes to the few best candidates; returns the upper end."""
    known = delta.dropna().sort_values().to_numpy()
    # the fourth best is shown with some room, and the levels of evidence up to "very strong" always are
    top = max(14.0, 1.25 * float(known[min(3, len(known) - 1)]))
    shown = counts[delta <= top]
    axes.set_xlim(shown.min() - 0.6, shown.max() + 0.6)
    axes.set_ylim(-0.07 * top, top)
    return top


def _draw_bands(axes: Axes, scale: EvidenceScale) -> None:
    """Shade the levels of evidence against a candidate whose criterion is so much larger, darkest where weakest."""
    lower, top = 0.0, axes.get_ylim()[1]
    for i, level in enumerate(scale.levels):
        end = min(level.upper, top)
        axes.axhspan(lower, end, color="black", alpha=SHADES[min(i, len(SHADES) - 1)], lw=0)
        if end - lower > 0.04 * top:
            inside = axes.get_yaxis_transform()  # across the axes as a fraction, upwards in units of the criterion
            text: dict[str, Any] = {"ha": "right", "va": "center", "color": "#555555", "path_effects": _halo()}
            axes.text(0.985, (lower + end) / 2, level.label, transform=inside, **text)
        lower = end


def _halo() -> list[Any]:
    """Return a white edge that separates a line or a text from what lies below."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3.0, foreground="white")]


def _label_criteria(axes: Axes, criterion: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("number of components K")
    axes.set_ylabel(f"{CRITERIA[criterion].label} above the smallest")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    _soften(axes)


def _soften(axes: Axes, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(color="#e4e4e4", lw=0.7)
    axes.set_axisbelow(True)


def add_legend(axes: Axes, columns: int, **options: Any) -> None:
    """Add a legend above the axes, where it covers nothing."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.2}
    axes.legend(ncols=columns, frameon=False, handletextpad=0.4, columnspacing=1.2, **place, **options)


# -- components and rows -------------------------------------------------------------------------------------


def draw_clusters(
    axes: Axes, components: Components, rows: Array, labels: NDArray[np.integer[Any]], pair: tuple[int, int]
) -> int:
    """Draw rows by component, and the components' numbers and 95 % ellipses, in the plane of two features.

    Parameters
    ----------
    axes : Axes
    components : Components
    rows : ndarray of shape (n_rows, n_features)
    labels : ndarray of shape (n_rows,)
    pair : (int, int)
        Positions of the features.

    Returns
    -------
    int
        Number of rows outside the frame, which holds nearly all of them and the ellipses.
    """
    from matplotlib.patches import Ellipse

    drawn, points = heaviest(components.weights), rows[:, pair]
    colors = [color_of(int(k)) if k in drawn else FAINT for k in labels]
    axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.45, lw=0, c=colors, rasterized=True)
    boxes = []
    for k in drawn[::-1]:
        mean, covariance = components.means[k, pair], components.covariances[k][np.ix_(pair, pair)]
        width, height, angle = _ellipse(covariance)
        outline: dict[str, Any] = {"fill": False, "ec": color_of(k), "lw": 1.7, "path_effects": _halo()}
        axes.add_patch(Ellipse((mean[0], mean[1]), width, height, angle=angle, **outline))
        reach = RADIUS_95 * np.sqrt(np.diagonal(covariance))
        boxes.append((mean - reach, mean + reach))
    _number_components(axes, components, pair, drawn)
    axes.set_xlabel(components.names[pair[0]])
    axes.set_ylabel(components.names[pair[1]])
    _soften(axes)
    return _frame(axes, points, boxes)


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
    for k in drawn[::-1]:
        x, y = components.means[k, pair]
        badge: dict[str, Any] = {"boxstyle": "circle,pad=0.25", "fc": color_of(k), "ec": "white", "lw": 1.0}
        text: dict[str, Any] = {"color": "white", "weight": "bold", "ha": "center", "va": "center", "zorder": 4}
        axes.text(x, y, str(k), bbox=badge, clip_on=True, size="small", **text)


def _frame(axes: Axes, points: Array, boxes: Sequence[tuple[Array, Array]]) -> int:
    low, high = np.quantile(points, [OUTSIDE, 1.0 - OUTSIDE], axis=0)
    low = np.min([low, *(box[0] for box in boxes)], axis=0)
    high = np.max([high, *(box[1] for box in boxes)], axis=0)
    margin = np.where(high > low, 0.04 * (high - low), 1.0)
    low, high = low - margin, high + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    return int(np.count_nonzero(np.any((points < low) | (points > high), axis=1)))


def draw_density(axes: Axes, components: Components, values: Array) -> None:
    """Draw a histogram of a single feature, the components' densities and their sum.

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
    for k, part in enumerate(parts):
        axes.plot(x, part, color=color_of(k), lw=1.6, label=f"component {k}" if k < len(PALETTE) else None)
    if len(parts) > 1:
        axes.plot(x, parts.sum(axis=0), color=INK, lw=1.4, ls=(0, (4, 2)), label="their sum")
    axes.set_xlabel(components.names[0])
    axes.set_ylabel("density")
    axes.set_ylim(bottom=0.0)
    _soften(axes)
    add_legend(axes, columns=3, fontsize="small")


def draw_means(axes: Axes, components: Components) -> None:
    """Draw the means as colours: the distance of each from the mixture's mean, in its standard deviations."""
    z = (components.means - components.center) / components.deviations
    reach = max(1.0, float(np.abs(z).max()))
    image = axes.imshow(z, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    k, d = z.shape
    _tick(axes.xaxis, components.names)
    _tick(axes.yaxis, [str(i) for i in range(k)])
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
    """Return each component's fractions of rows by band of uncertainty, (n_components, 4); NaN without rows."""
    bands = np.searchsorted([band.upper for band in UNCERTAINTY[:-1]], uncertainty, side="left")
    counts = np.zeros((n_components, len(UNCERTAINTY)))
    np.add.at(counts, (labels, bands), 1.0)
    with np.errstate(invalid="ignore"):
        shares: Array = counts / counts.sum(axis=1, keepdims=True)
    return shares


def draw_uncertainty(axes: Axes, uncertainty: Array, labels: NDArray[np.integer[Any]], weights: Array) -> None:
    """Draw how certain each component's labels are: fractions of its rows by ``1 - max_k r_k``.

    Parameters
    ----------
    axes : Axes
    uncertainty : ndarray of shape (n_rows,)
        One minus the largest responsibility.
    labels : ndarray of shape (n_rows,)
    weights : ndarray of shape (n_components,)
        The heaviest components are shown.
    """
    shown = sorted(heaviest(weights))
    shares = np.nan_to_num(uncertainty_shares(uncertainty, labels, len(weights))[shown])
    positions, left = np.arange(len(shown)), np.zeros(len(shown))
    for band, share in zip(UNCERTAINTY, shares.T, strict=True):
        axes.barh(positions, 100.0 * share, left=left, height=0.78, color=band.color, label=band.label)
        left += 100.0 * share
    axes.set_yticks(positions, [str(k) for k in shown])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("% of the rows with this label")
    axes.set_ylabel("component")
    _soften(axes, grid=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    add_legend(axes, columns=2, title="probability of another component", alignment="left")


def draw_bounds(axes: Axes, bounds: Sequence[float]) -> None:
    """Draw mean log-likelihoods per row by iteration."""
    from matplotlib.ticker import MaxNLocator

    dots: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(bounds) <= MOST_DOTS else {}
    axes.plot(range(1, len(bounds) + 1), bounds, color=PALETTE[0], lw=1.8, **dots)
    axes.set_xlabel("iteration, each a pass over the data")
    axes.set_ylabel("mean log-likelihood per row")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]
    _soften(axes)
