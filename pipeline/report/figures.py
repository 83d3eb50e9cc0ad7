"""The pictures of a report, with their captions and alternative texts."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gmm_dask.formatting import capital, counted
from gmm_dask.plotting import cluster_trees, drawing
from gmm_dask.plotting.criteria import draw_criteria, line_key
from gmm_dask.plotting.feature_pairs import separating_pairs
from gmm_dask.plotting.maps import draw_map
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.distinct import kinds_of, same_models
from pipeline.printable import printable
from pipeline.report.contents import ReportContents
from pipeline.report.maps import LabelMap, describe_map
from pipeline.report.tables import MOST_COMPONENTS, MOST_FEATURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200
# of a size that is still legible at the width of a phone
WIDTH, HEIGHT = 4.2, 3.3
MOST_PAIRS = 3
FEWEST_BOUNDS = 4
# what browsers, phones and printers have; a picture's text is theirs, as the page's is
FONTS = ("Helvetica Neue", "Segoe UI", "Roboto", "Arial", "Liberation Sans", "DejaVu Sans")
# what the parts of a picture become where the page is dark: words of their style, and what replaces them. White is the
# edge that separates them from what lies below; white texts stand on coloured ground, and stay
DARK = {
    f"fill: {drawing.INK}": "fill: #e4e8eb",
    f"stroke: {drawing.INK}": "stroke: #e4e8eb",
    "fill: #555555": "fill: #c0c8ce",
    "stroke: #9a9a9a": "stroke: #6a737b",
    f"stroke: {drawing.CONTOUR}": "stroke: #a3adb6",
    f"stroke: {drawing.GRID_LINES}": "stroke: #31383f",
    "stroke: #ffffff": "stroke: #14181c",
    "fill: #000000": "fill: #ffffff",
}


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes
    ----------
    name : str
        Of its file, without suffix.
    alt : str
        Describes the picture for those who cannot see it.
    caption : str
    svg, png : bytes
    """

    name: str
    alt: str
    caption: str
    svg: bytes
    png: bytes


def draw_choice(report: ReportContents) -> list[Picture]:
    """The criterion that decided, by number of components, as the distance from the smallest."""
    if len(report.table) < 2:
        return []
    label = CRITERIA[report.criterion].label
    several = report.table[report.table["n_components"] > 1]
    types = ", ".join(one.kind for one in kinds_of(report.table))
    alt = f"{capital(label)} by number of components, a line for each of {types}. Smallest: {report.best}."

    def draw(axes: Axes) -> str:
        banded = draw_criteria(axes, report.table, report.criterion, n_features=report.n_features)
        shading = " Shading: the strength of the evidence against a candidate." if banded else ""
        same = f" {same_models(several, 1)}" if report.n_features == 1 and len(several) else ""
        return f" {line_key(report.table)}{same}{shading}"

    return [_picture(report.criterion, alt, f"All candidates: their {label} above the smallest.", draw)]


def draw_components(report: ReportContents) -> list[Picture]:
    """The components in the planes of features that separate them best, over a sample of rows."""
    sample, components = report.sample, report.components
    n_components, n_features = components.means.shape
    if n_features == 1:
        alt = f"Histogram of {components.names[0]} with the density of {counted(n_components, 'component')}."
        caption = f"{components.names[0]}: histogram of {len(sample.rows):,} sampled rows, and the model's density."
        rows = sample.rows[:, 0]
        return [_picture("clusters", alt, caption, lambda axes: drawing.draw_density(axes, components, rows))]
    pairs = separating_pairs(components, MOST_PAIRS)
    return [_draw_pair(report, "clusters" if i == 0 else f"clusters-{i + 1}", pair) for i, pair in enumerate(pairs)]


def _draw_pair(report: ReportContents, name: str, pair: tuple[int, int]) -> Picture:
    sample, components = report.sample, report.components

    def draw(axes: Axes) -> str:
        outside = drawing.draw_clusters(axes, components, sample.rows, sample.label, pair)
        return f" {counted(outside, 'row lies', 'rows lie')} outside the frame." if outside else ""

    a, b = (components.names[i] for i in pair)
    n_rows = int(np.isfinite(sample.rows[:, pair]).all(axis=1).sum())
    drawn, n_components = len(drawing.heaviest(components.weights)), len(components.weights)
    which = f" of the {drawn} heaviest" if drawn < n_components else ""
    ellipses = f"An ellipse holds 95% of a component{which}." if n_components > 1 else "The ellipse holds 95%."
    alt = f"Sampled rows in the plane of {a} and {b}, coloured by component, each with its 95% ellipse."
    noise = " Grey rows are those of the noise." if components.noise else ""
    return _picture(name, alt, f"{b} by {a}: {counted(n_rows, 'row')}. {ellipses}{noise}", draw)


def draw_means(report: ReportContents) -> list[Picture]:
    """The means as colours, where there are more than the table of components shows."""
    n_components, n_features = report.components.means.shape
    if n_components < 2 or n_features < 3 or (n_features <= MOST_FEATURES and n_components <= MOST_COMPONENTS):
        return []
    alt = f"Means of {n_components} components in {n_features} features as colours, from blue (low) to red (high)."
    caption = "The means of the components relative to the overall mean: blue below it, red above."
    height = min(5.0, 1.5 + 0.14 * max(4, n_components))
    return [_picture("means", alt, caption, lambda axes: drawing.draw_means(axes, report.components), height)]


def draw_clusters(report: ReportContents) -> list[Picture]:
    """The tree of the clusters, and the entropy by their number, where components overlap so much that some are one."""
    tree = report.cluster_tree
    if tree is None:
        return []
    n_components = tree.n_components
    numbers, names = report.components.numbers, report.titles
    n_shown = len(cluster_trees.shown_components(tree))
    height = min(7.0, max(HEIGHT, 1.0 + 0.16 * n_shown))
    alt = f"Tree of the merges of {n_components} components; {tree.n_clusters} clusters are coloured."
    caption = (
        "Merges, from left to right, by the entropy that they have removed. The lines of a cluster have one colour."
    )
    if n_shown < n_components:
        caption += f" {counted(n_components - n_shown, 'component')} that stay alone are left out."

    def draw_tree(axes: Axes) -> None:
        cluster_trees.draw_tree(axes, tree, numbers, names)

    pictures = [_picture("cluster-tree", alt, caption, draw_tree, height)]
    if n_components > 2:
        alt = f"Entropy of 1 to {n_components} clusters, up to {tree.entropy[-1]:.3g} nats per row."
        caption = "How unsure the labels of rows are, by number of clusters. The ring is the number that is proposed."
        pictures.append(_picture("cluster-entropy", alt, caption, lambda axes: cluster_trees.draw_entropy(axes, tree)))
    return pictures


def draw_bounds(report: ReportContents) -> list[Picture]:
    """The log-likelihood by iteration, of a variational mixture the bound, where there are enough for a curve."""
    bounds = report.model.lower_bounds
    if len(bounds) < FEWEST_BOUNDS:
        return []
    alt = f"{capital(report.bound_words)} of {report.name} by iteration, from {bounds[0]:.6g} to {bounds[-1]:.6g}."
    caption = f"Convergence of the best start of {report.name}, in {counted(len(bounds), 'iteration')}."
    return [
        _picture("log-likelihood", alt, caption, lambda axes: drawing.draw_bounds(axes, bounds, report.bound_words))
    ]


def draw_labels(report: ReportContents, label_map: LabelMap | None) -> list[Picture]:
    """The map of the labels, where the rows lie on a grid."""
    if label_map is None:
        return []
    titles = {number: str(number) for number in report.components.numbers}
    names = [
        f"{printable(dim)} ({printable(unit)})" if unit else printable(dim)
        for dim, unit in zip(label_map.dims, label_map.units, strict=True)
    ]
    height = min(2.0 * HEIGHT, max(0.6 * HEIGHT, WIDTH * len(label_map.labels) / label_map.labels.shape[1]))

    def draw(axes: Axes) -> None:
        draw_map(axes, label_map.labels, label_map.coordinates, names, titles)

    caption = f"The components by {' and '.join(map(printable, label_map.dims))}."
    if report.components.noise:
        caption += " Cells of the noise are empty, as those without a label are."
    return [_picture("map", describe_map(report, label_map), caption, draw, height)]


# -- saving --------------------------------------------------------------------------------------------------


def _picture(name: str, alt: str, caption: str, draw: Callable[[Axes], str | None], height: float = HEIGHT) -> Picture:
    """Draw and save a picture; ``draw`` may return more text for the caption."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with _style():
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        more = draw(figure.subplots()) or ""
        # laid out once: a figure with an engine of its own is laid out, and drawn once more, with each saving
        ConstrainedLayoutEngine().execute(figure)
        svg, png = io.BytesIO(), io.BytesIO()
        # without a date or a random salt, the same result gives the same bytes
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        figure.savefig(png, format="png")
    return Picture(name, alt, caption + more, _for_dark_too(svg.getvalue()), png.getvalue())


def _for_dark_too(svg: bytes) -> bytes:
    """Give a picture a style sheet that changes its lines, its texts and its shades where the page is dark."""
    rules = "".join(f'[style*="{light}"]{{{dark} !important}}' for light, dark in DARK.items())
    head, tag, rest = svg.partition(b"<defs>")
    style = f"<style>@media screen and (prefers-color-scheme: dark){{{rules}}}</style>"
    return head + style.encode() + tag + rest


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    style: Any = {
        "font.family": "sans-serif",
        "font.sans-serif": list(FONTS),
        "font.size": 9.5,
        "text.color": drawing.INK,
        "axes.labelcolor": drawing.INK,
        "axes.edgecolor": "#9a9a9a",
        "xtick.color": drawing.INK,
        "ytick.color": drawing.INK,
        "xtick.labelsize": 9.0,
        "ytick.labelsize": 9.0,
        "axes.unicode_minus": True,
        "text.parse_math": False,  # a column may be called $x$
        "svg.fonttype": "none",
        "svg.hashsalt": "gmm-dask",
    }
    with mpl.rc_context(style):
        yield
