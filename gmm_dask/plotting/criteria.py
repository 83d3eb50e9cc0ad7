"""Drawing of a criterion by number of components: a line for each kind of model, with its name at the end.

The colour and the marker of a line tell the shape and the orientation of the covariances; dashes and white markers tell
that the components share one volume, and dots that there is noise. So mclust's fourteen models look different, and the
same in every picture.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.plotting.drawing import INK, halo, soften
from gmm_dask.plotting.marks import MARKERS, PALETTE
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY, EvidenceScale, differences
from gmm_dask.selection.distinct import alike, candidates_of, kinds_of
from gmm_dask.selection.results import chosen_position

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# the letters of shape and orientation, in the order of the palette
SHAPES = ("VV", "EE", "VI", "II", "EI", "VE", "EV")
EQUAL_VOLUME = "E"
# by whether the components share one volume, and whether there is noise
DASHES: dict[tuple[bool, bool], Any] = {
    (False, False): "-",
    (True, False): (0, (4, 2)),
    (False, True): (0, (1, 1.2)),
    (True, True): (0, (4, 1.2, 1, 1.2)),
}
# differences of a criterion up to this are shown to scale; larger ones, from 10 on, by their logarithm
FAR, LINEAR = 100.0, KASS_RAFTERY.levels[-2].upper
# part of the height that the former get
LINEAR_PART = 0.45
# opacity of the bands that show how strong the evidence is, from the weakest on
SHADES = (0.10, 0.06, 0.03, 0.0)
# height of a line's name, where its marker stands and how wide that is, as parts of the axes
NAME_HEIGHT, NAME_PLACE, MARK_WIDTH = 0.058, 1.05, 0.025
# of so many numbers of components at most, each has a tick
MOST_TICKS = 12
# of more lines, all but the winner's are thin
MANY_LINES = 6


def draw_criteria(
    axes: Axes, table: pd.DataFrame, criterion: str, close: bool = False, n_features: int | None = None
) -> bool:
    """Draw a criterion by number of components, as its distance from the smallest: one line per covariance type.

    Parameters
    ----------
    axes : Axes
    table : DataFrame
        One row per candidate, with n_components, covariance_type, status, n_parameters and the criterion's column.
    criterion : str
    close : bool
        Whether to show only candidates close to the winner.
    n_features : int, optional
        With one feature, covariance types that are the same model are one line.

    Returns
    -------
    bool
        Whether bands show how strong the evidence is: only for a criterion with a graded scale.
    """
    winner = chosen_position(table, criterion)
    delta = table.assign(above=differences(table[criterion].tolist(), table["status"].tolist()))["above"]
    best = "" if winner is None else Candidate.of(table.iloc[winner]).kind
    lines = _lines(table.assign(above=delta), best, n_features or 2)
    for kind, line in lines.items():
        style = _line_style(kind, kind.kind == best, len(lines))
        axes.plot(line["n_components"], line["above"], label=kind.kind, **style)
    if winner is not None:
        ring: dict[str, Any] = {"marker": "o", "ms": 12, "mfc": "none", "mec": INK, "mew": 1.4, "ls": "none"}
        axes.plot(table["n_components"].iloc[winner], delta.iloc[winner], label="best", clip_on=False, **ring)
    scale, top = CRITERIA[criterion].graded_scale, float(delta.max())
    if close:
        top = _come_close(axes, table["n_components"], delta)
    n_near = int((delta <= LINEAR).sum())
    # a single candidate in the bands says nothing about the strength of the evidence
    banded = scale is not None and (top <= FAR or (not close and n_near > 1))
    if top > FAR:
        _scale_by_logarithm(axes, top, n_near)
    _label_axes(axes, criterion, sorted(set(table["n_components"])))
    if scale and banded:
        counts = table["n_components"]
        is_right = winner is not None and counts.iloc[winner] > (counts.min() + counts.max()) / 2
        _draw_bands(axes, scale, at_left=is_right)
    _name_lines(axes, lines, best)
    return banded


def line_key(table: pd.DataFrame) -> str:
    """Say what the dashes of the lines mean, as far as a table has such lines."""
    kinds = kinds_of(table)
    shared = any(get_family(kind.covariance_type).structure[0] == EQUAL_VOLUME for kind in kinds)
    said = ["The ring is the best.", "Dashed: all components have the same volume." if shared else ""]
    return " ".join(filter(None, [*said, "Dotted: with noise." if any(kind.noise for kind in kinds) else ""]))


def _lines(table: pd.DataFrame, best: str, n_features: int) -> dict[Candidate, pd.DataFrame]:
    """Return the rows of each line by a candidate of its kind; of kinds that are one model, the best or the first."""
    groups = alike(kinds_of(table), n_features)
    shown = [next((one for one in group if one.kind == best), group[0]) for group in groups]
    kinds = np.array([candidate.kind for candidate in candidates_of(table)])
    return {one: table[kinds == one.kind].sort_values("n_components") for one in shown}


def _color(kind: Candidate) -> str:
    return PALETTE[SHAPES.index(get_family(kind.covariance_type).structure[1:])]


def _line_style(kind: Candidate, is_best: bool, n_lines: int) -> dict[str, Any]:
    structure, color = get_family(kind.covariance_type).structure, _color(kind)
    shared = structure[0] == EQUAL_VOLUME
    return {
        "marker": MARKERS[SHAPES.index(structure[1:])],
        "ms": 4.5,
        "mfc": "white" if shared else color,
        "lw": 1.0 if n_lines > MANY_LINES and not is_best else 1.8,
        "ls": DASHES[shared, kind.noise],
        "color": color,
        "zorder": 2.1 if is_best else 2.0,
    }


def _scale_by_logarithm(axes: Axes, top: float, n_near: int) -> None:
    """Show differences up to 10 to scale and larger ones by their logarithm; the former get room if there are any."""
    part = LINEAR_PART if n_near > 1 else 0.1
    # what matplotlib calls linscale is in decades, of which there are so many above the linear part
    decades = np.log10(max(top, FAR) / LINEAR)
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.9 * decades * part / (1.0 - part))
    axes.set_ylim(bottom=-0.1 * LINEAR, top=top * 1.6)


def _come_close(axes: Axes, counts: pd.Series[Any], delta: pd.Series[Any]) -> float:
    """Limit the axes to the few best candidates; returns the upper end."""
    known = delta.dropna().sort_values().to_numpy()
    # the fourth best is shown with some room, and the levels of evidence up to "very strong" always are
    top = max(14.0, 1.25 * float(known[min(3, len(known) - 1)]))
    shown = counts[delta <= top]
    axes.set_xlim(shown.min() - 0.6, shown.max() + 0.6)
    axes.set_ylim(-0.07 * top, top)
    return top


def _draw_bands(axes: Axes, scale: EvidenceScale, at_left: bool) -> None:
    """Shade the levels of evidence against a candidate whose criterion is so much larger, darkest where weakest."""
    lower, top = 0.0, axes.get_ylim()[1]
    ends = [min(level.upper, top) for level in scale.levels]
    place = axes.transScale + axes.transLimits  # from units of the criterion to fractions of the axes
    for i, (level, end) in enumerate(zip(scale.levels, ends, strict=True)):
        axes.axhspan(lower, end, color="black", alpha=SHADES[min(i, len(SHADES) - 1)], lw=0)
        (_, low), (_, high) = place.transform([(1.0, lower), (1.0, end)])
        if high - low > 0.04:
            text: dict[str, Any] = {"va": "center", "color": "#555555", "path_effects": halo()}
            x, side = (0.015, "left") if at_left else (0.985, "right")
            # the last level has no upper end
            height = (low + high) / 2 if level.upper < np.inf else min(low + 0.04, (low + high) / 2)
            axes.text(x, height, level.label, transform=axes.transAxes, ha=side, **text)
        lower = end


def _name_lines(axes: Axes, lines: dict[Candidate, pd.DataFrame], best: str) -> None:
    """Write the name of each line at the right, as near its last point as no name lies over another; the best bold."""
    place = axes.transScale + axes.transLimits
    ends = {}
    for kind, line in lines.items():
        points = line.loc[line["above"].notna(), ["n_components", "above"]].to_numpy(dtype=float)
        inside = [(x, y) for x, y in points if (abs(place.transform((x, y)) - 0.5) <= 0.5).all()]
        if inside:
            ends[kind] = inside[-1]
    heights = spread([place.transform(end)[1] for end in ends.values()], NAME_HEIGHT)
    at: dict[str, Any] = {"textcoords": "axes fraction", "va": "center", "size": "small"}
    for (kind, end), height in zip(ends.items(), heights, strict=True):
        leader = {"arrowstyle": "-", "color": _color(kind), "lw": 0.6, "shrinkA": 0.0, "shrinkB": 0.0}
        axes.annotate("", end, (NAME_PLACE, height), arrowprops=leader, **at)
        mark = {**_line_style(kind, True, 1), "ls": "none", "clip_on": False, "transform": axes.transAxes}
        axes.plot(NAME_PLACE, height, label="_mark", **mark)
        weight = "bold" if kind.kind == best else "normal"
        axes.annotate(kind.kind, end, (NAME_PLACE + MARK_WIDTH, height), weight=weight, **at)


def spread(places: list[float], least: float) -> list[float]:
    """Move places between 0 and 1 as little as possible, in sum of squares, until any two are ``least`` apart.

    Their order stays. This is an isotonic regression of the places less what they need below them.
    """
    if not places:
        return []
    order = np.argsort(places, kind="stable")
    needed = least * np.arange(len(places))
    free = isotonic(np.array(places)[order] - needed)
    found: NDArray[np.float64] = np.empty(len(places))
    found[order] = np.clip(free, 0.0, max(0.0, 1.0 - needed[-1])) + needed
    return [float(place) for place in found]


def isotonic(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ascending values that are nearest in sum of squares (pool adjacent violators).

    They are those of ``scipy.optimize.isotonic_regression``, whose import takes longer than a picture.
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        mean, size = value, 1
        while means and means[-1] > mean:
            total = size + sizes[-1]
            mean, size = (size * mean + sizes.pop() * means.pop()) / total, total
        means.append(mean)
        sizes.append(size)
    return np.repeat(means, sizes)


def _label_axes(axes: Axes, criterion: str, counts: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    axes.set_xlabel("number of components K")
    axes.set_ylabel(f"{CRITERIA[criterion].label} above the smallest")
    gap = min((b - a for a, b in itertools.pairwise(counts)), default=1)
    fit = len(counts) <= MOST_TICKS and (counts[-1] - counts[0]) <= MOST_TICKS * gap
    axes.xaxis.set_major_locator(FixedLocator(counts) if fit else MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    soften(axes)
