"""The pictures of a report, with their captions and alternative texts."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmm_dask.formatting import capital, counted
from gmm_dask.plotting import drawing
from gmm_dask.plotting.feature_pairs import separating_pairs
from gmm_dask.selection.criteria import CRITERIA
from pipeline.report.contents import ReportContents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 200
# of a size that is still legible at the width of a phone
WIDTH, HEIGHT = 4.2, 3.3
MOST_PAIRS = 3
# what browsers, phones and printers have; a picture's text is theirs, as the page's is
FONTS = ("Helvetica Neue", "Segoe UI", "Roboto", "Arial", "Liberation Sans", "DejaVu Sans")


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
    """The criterion that decided by number of components, close to the winner and as a whole."""
    label = CRITERIA[report.criterion].label
    types = ", ".join(dict.fromkeys(report.table["covariance_type"]))
    alt = f"{capital(label)} by number of components, a line for each of {types}. Smallest: {report.best}."
    close = f"The best candidates: their {label} above the smallest."
    return [
        _draw_criterion(report, report.criterion, f"Close to the winner: {alt}", close, close=True),
        _draw_criterion(report, report.criterion, alt, f"All candidates by {label}; lower is better."),
    ]


def draw_other_criteria(report: ReportContents) -> list[Picture]:
    """The criteria that did not decide."""
    pictures = []
    for name in report.criteria:
        if name != report.criterion:
            label, smallest = capital(CRITERIA[name].label), f"Smallest: {report.choice(name)}."
            alt, caption = f"{label} by number of components. {smallest}", f"{label} of all candidates. {smallest}"
            pictures.append(_draw_criterion(report, name, alt, caption))
    return pictures


def _draw_criterion(report: ReportContents, name: str, alt: str, caption: str, close: bool = False) -> Picture:
    def draw(axes: Axes) -> str:
        banded = drawing.draw_criteria(axes, report.table, name, close=close)
        drawing.add_legend(axes, columns=5, fontsize="small")
        return " Shading: the strength of the evidence against a candidate." if close and banded else ""

    return _picture(f"{name}-close" if close else name, alt, caption, draw)


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
    drawn, n_components = len(drawing.heaviest(components.weights)), len(components.weights)
    which = f" of the {drawn} heaviest" if drawn < n_components else ""
    ellipses = f"An ellipse holds 95% of a component{which}." if n_components > 1 else "The ellipse holds 95%."
    alt = f"Sampled rows in the plane of {a} and {b}, coloured by component, each with its 95% ellipse."
    return _picture(name, alt, f"{b} by {a}: {counted(len(sample.rows), 'row')}. {ellipses}", draw)


def draw_means(report: ReportContents) -> list[Picture]:
    """The means of many features as colours; a table does for few."""
    n_components, n_features = report.components.means.shape
    if n_features < 3 or n_components < 2:
        return []
    alt = f"Means of {n_components} components in {n_features} features as colours, from blue (low) to red (high)."
    caption = "The means of the components relative to the overall mean: blue below it, red above."
    height = min(7.0, max(HEIGHT, 1.4 + 0.14 * n_components))
    return [_picture("means", alt, caption, lambda axes: drawing.draw_means(axes, report.components), height)]


def draw_uncertainty(report: ReportContents) -> list[Picture]:
    """The uncertainty of the labels of the sampled rows."""
    sample, weights = report.sample, report.components.weights
    if len(weights) < 2:
        return []
    alt = "For each component, the parts of its rows by the probability that they belong to another component."
    shown = len(drawing.heaviest(weights))
    which = f" The {shown} heaviest components are shown." if shown < len(weights) else ""
    caption = f"Sampled rows of each component by the probability of belonging to another; darker is less sure.{which}"
    height = max(2.2, 1.3 + 0.22 * shown)
    return [
        _picture(
            "uncertainty",
            alt,
            caption,
            lambda axes: drawing.draw_uncertainty(axes, sample.uncertainty, sample.label, weights),
            height,
        )
    ]


def draw_bounds(report: ReportContents) -> list[Picture]:
    """The log-likelihood by iteration."""
    bounds = report.model.lower_bounds
    if not bounds:
        return []
    alt = f"Mean log-likelihood per row of {report.best} by iteration, from {bounds[0]:.6g} to {bounds[-1]:.6g}."
    caption = f"Convergence of the best start of {report.best}, in {counted(len(bounds), 'iteration')}."
    return [_picture("log-likelihood", alt, caption, lambda axes: drawing.draw_bounds(axes, bounds))]


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
    return Picture(name, alt, caption + more, svg.getvalue(), png.getvalue())


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
