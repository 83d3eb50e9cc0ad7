"""Small pictures of groups, one each: rows of a sample and the components' ellipses, or a histogram of one column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from gmm_dask.passes.row_outputs import NOISE_LABEL
from gmm_dask.plotting.drawing import FAINT
from gmm_dask.plotting.marks import color_of
from pipeline.printable import printable
from pipeline.store.groups.models import FoundGroups, GroupResult

Array = NDArray[np.float64]

# of a picture, in its own units; the margin holds half a mark
WIDTH, HEIGHT, MARGIN = 160, 110, 3
# rows that a picture shows, and bars of a histogram
MOST_POINTS, BARS = 60, 24
# axes are common if all groups together are at most so many times as wide as a usual group
COMMON = 3.0
# an ellipse holds 90 % of its component's rows: the square root of that quantile of chi-squared, two degrees of freedom
RADIUS = math.sqrt(-2.0 * math.log(0.1))


@dataclass(frozen=True, eq=False)
class Axes:
    """What the pictures of all groups show.

    Attributes
    ----------
    features : tuple of int
        Positions of one or two columns.
    low, high : ndarray of shape (n_shown,) or None
        Their common range; None where each group has its own.
    """

    features: tuple[int, ...]
    low: Array | None
    high: Array | None

    def range_of(self, rows: Array) -> tuple[Array, Array]:
        """Return the least and the largest value of each column that a picture shows."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        low, high = rows.min(axis=0), rows.max(axis=0)
        pad = np.where(high > low, 0.05 * (high - low), 1.0)
        return low - pad, high + pad


def shown_rows(result: GroupResult) -> Array:
    """Return the sample of a group in the units of its picture: of the data, if columns are scaled only."""
    assert result.model is not None
    assert result.sample is not None
    rows, transform = result.sample.rows, result.model.transform
    return rows if transform.folds else transform.rows(rows)


def choose_axes(found: FoundGroups) -> Axes:
    """Choose the columns that separate the components of the groups most, on average, and their common range."""
    with_model = [result for result in found.results if result.model is not None]
    samples = [shown_rows(result) for result in with_model]
    models = [result.model.shown for result in with_model if result.model is not None]
    # groups may keep different numbers of principal components
    least = min(means.shape[1] for _, means, _ in models)
    share = np.mean([_between(*model)[:least] for model in models], axis=0)
    features = tuple(sorted(np.argsort(-share, kind="stable")[:2].tolist()))
    shown = [rows[:, list(features)] for rows in samples]
    every = np.concatenate(shown)
    low, high = every.min(axis=0), every.max(axis=0)
    usual = np.median([np.ptp(rows, axis=0) for rows in shown], axis=0)
    if ((high - low) > COMMON * usual).any():
        return Axes(features, None, None)
    pad = np.where(high > low, 0.05 * (high - low), 1.0)
    return Axes(features, low - pad, high + pad)


def _between(weights: Array, means: Array, covariances: Array) -> Array:
    """Return the share of each column's variance that is between components."""
    weights = weights / weights.sum()  # noise has the rest
    between = weights @ (means - weights @ means) ** 2
    within = weights @ np.diagonal(covariances, axis1=1, axis2=2)
    return np.asarray(between / (between + within))


def draw_group(key: str, result: GroupResult, axes: Axes) -> Markup:
    """Return the picture of a group as SVG."""
    assert result.model is not None
    assert result.sample is not None
    rows = shown_rows(result)[:, list(axes.features)]
    low, high = axes.range_of(rows)
    draw = _histogram if len(axes.features) == 1 else _scatter
    title = escape(f"{printable(key)}: {result.model.state.candidate.name}")
    marks = "".join(draw(result, rows, low, high, axes.features))
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    return Markup(f"{head}<title>{title}</title>{marks}</svg>")


def _scatter(result: GroupResult, rows: Array, low: Array, high: Array, features: Sequence[int]) -> list[str]:
    assert result.sample is not None
    assert result.model is not None
    scale = np.array([(WIDTH - 2 * MARGIN), -(HEIGHT - 2 * MARGIN)]) / (high - low)
    origin = np.array([MARGIN, HEIGHT - MARGIN]) - low * scale
    step = -(-len(rows) // MOST_POINTS)
    marks = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.6" fill="{_color(int(label))}" fill-opacity=".55"/>'
        for (x, y), label in zip(
            (rows[::step] * scale + origin).tolist(), result.sample.label[::step].tolist(), strict=True
        )
    ]
    _, means, covariances = result.model.shown
    two = np.ix_(features, features)
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        variances, vectors = np.linalg.eigh(covariance[two] * np.outer(scale, scale))
        rx, ry = RADIUS * np.sqrt(np.maximum(variances[::-1], 0.0))
        x, y = mean[list(features)] * scale + origin
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        marks.append(
            f'<ellipse rx="{rx:.1f}" ry="{ry:.1f}" transform="translate({x:.1f} {y:.1f}) rotate({angle:.0f})" '
            f'fill="none" stroke="{color_of(k)}" stroke-width="1.5"/>'
        )
    return marks


def _color(label: int) -> str:
    return FAINT if label == NOISE_LABEL else color_of(label)


def _histogram(result: GroupResult, rows: Array, low: Array, high: Array, features: Sequence[int]) -> list[str]:
    assert result.model is not None
    counts, edges = np.histogram(rows[:, 0], BARS, (low[0], high[0]))
    density = counts / max(1, counts.sum()) / (edges[1] - edges[0])
    x = np.linspace(low[0], high[0], 80)
    weights, means, covariances = result.model.shown
    d = features[0]
    parts = [
        w * np.exp(-0.5 * (x - mean[d]) ** 2 / variance) / math.sqrt(2.0 * math.pi * variance)
        for w, mean, variance in zip(weights, means, covariances[:, d, d].tolist(), strict=True)
    ]
    top = max(density.max(), np.sum(parts, axis=0).max())
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    bars = [
        f'<rect x="{MARGIN + i * width / BARS:.1f}" y="{HEIGHT - MARGIN - height * h / top:.1f}" '
        f'width="{width / BARS - 0.5:.1f}" height="{height * h / top:.1f}" class="count"/>'
        for i, h in enumerate(density.tolist())
        if h
    ]
    lines = []
    for k, part in enumerate(parts):
        points = zip(np.linspace(MARGIN, WIDTH - MARGIN, 80), HEIGHT - MARGIN - height * part / top, strict=True)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color_of(k)}" stroke-width="1.5"/>')
    return bars + lines
