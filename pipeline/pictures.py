"""Pictures of a result: the criterion by number of components, and the clusters themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gmm_dask.criteria import CRITERIA
from gmm_dask.families import Parameters, get_family

Array = NDArray[np.float64]

DPI = 150
# candidates this close to the winner are about as good (Kass and Raftery 1995: 10 is very strong evidence)
CLOSE = 10.0
MARKERS = "os^Dv<>"
# radius in standard deviations of the ellipse that holds 95 % of a two-dimensional Gaussian
RADIUS_95 = float(np.sqrt(-2.0 * np.log(0.05)))


def draw_criterion(table: pd.DataFrame, criterion: str, winner: int, title: str) -> Figure:
    """The criterion by number of components, a line a covariance type, the winner marked; and a close-up.

    Parameters
    ----------
    table : DataFrame
        A row a candidate, with n_components, covariance_type, delta and the criterion's column.
    criterion : {'bic', 'aic', 'icl'}
    winner : int
        Position of the winner's row.
    title : str
    """
    best: Any = table.iloc[winner]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    whole, close = figure.subplots(1, 2)
    for axes in (whole, close):
        _draw_lines(axes, table, criterion, best)
    _zoom(close, table, float(best[criterion]), criterion)
    close.annotate(
        f"{best['covariance_type']}, K = {best['n_components']}\n{best[criterion]:,.1f}",
        (best["n_components"], best[criterion]),
        textcoords="offset points",
        xytext=(0, -32),
        ha="center",
        fontsize=9,
    )
    whole.set_title("all candidates", fontsize=10)
    close.set_title("close to the winner", fontsize=10)
    whole.legend(frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def _draw_lines(axes: Axes, table: pd.DataFrame, criterion: str, best: Any) -> None:
    for i, (name, rows) in enumerate(table.groupby("covariance_type", sort=False)):
        rows = rows.sort_values("n_components")
        axes.plot(rows["n_components"], rows[criterion], marker=MARKERS[i % len(MARKERS)], ms=5, label=str(name))
    ring: dict[str, Any] = {"marker": "o", "ms": 15, "mfc": "none", "mec": "black", "mew": 1.5, "ls": "none"}
    axes.plot(best["n_components"], best[criterion], label="winner", **ring)
    axes.set_xlabel("number of components K")
    axes.set_ylabel(f"{criterion.upper()} (smaller is better)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def _zoom(axes: Axes, table: pd.DataFrame, best: float, criterion: str) -> None:
    """Show the better half of the candidates, and the band that is about as good as the winner."""
    height = max(6.0 * CLOSE, float(table["delta"].median()))
    axes.set_ylim(best - 0.2 * height, best + height)
    axes.axhspan(best, best + CLOSE, color="black", alpha=0.06, lw=0)
    axes.text(0.99, best + CLOSE, f"within {CLOSE:g}", transform=axes.get_yaxis_transform(), ha="right", fontsize=8)


def draw_clusters(
    rows: Array, labels: NDArray[np.int64], columns: Sequence[str], name: str, parameters: Parameters
) -> Figure:
    """Rows coloured by their component, its centre and the ellipse that holds 95 % of it, in two columns.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        A sample of the data, with at least two columns.
    labels : ndarray of shape (n_rows,)
    columns : sequence of str
    name : str
        The covariance type.
    parameters : Parameters
    """
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    covariances = get_family(name).full_covariances(parameters)
    a, b = most_telling_columns(parameters, covariances)
    palette = mpl.colormaps["tab10" if len(parameters.weights) <= 10 else "tab20"]
    for k, weight in enumerate(parameters.weights):
        color, part = palette(k % palette.N), rows[labels == k]
        axes.scatter(part[:, a], part[:, b], s=14, alpha=0.6, lw=0, color=color, label=f"{k}: {weight:.1%}")
        axes.add_patch(_ellipse(parameters.means[k][[a, b]], covariances[k][np.ix_([a, b], [a, b])], color))
    cross: dict[str, Any] = {"marker": "x", "c": "red", "s": 80, "lw": 2, "zorder": 3}
    axes.scatter(parameters.means[:, a], parameters.means[:, b], label="centres", **cross)
    axes.set_xlabel(columns[a])
    axes.set_ylabel(columns[b])
    axes.grid(alpha=0.3)
    axes.set_title(f"{len(parameters.weights)} components, {name} covariance; ellipses hold 95 % of each", fontsize=10)
    axes.legend(title="component: weight", fontsize=9, title_fontsize=9)
    return figure


def most_telling_columns(parameters: Parameters, covariances: Array) -> tuple[int, int]:
    """The two columns in which the means differ most, beside the spread within the components; ascending."""
    center = parameters.weights @ parameters.means
    between = parameters.weights @ (parameters.means - center) ** 2
    within = parameters.weights @ np.diagonal(covariances, axis1=1, axis2=2)
    first, second = np.argsort(-between / within, kind="stable")[:2]
    return min(int(first), int(second)), max(int(first), int(second))


def _ellipse(mean: Array, covariance: Array, color: Any) -> Ellipse:
    variances, axes = np.linalg.eigh(covariance)
    width, height = 2.0 * RADIUS_95 * np.sqrt(variances)
    angle = float(np.degrees(np.arctan2(axes[1, 0], axes[0, 0])))
    return Ellipse((mean[0], mean[1]), width, height, angle=angle, fill=False, ec=color, lw=1.8)


def clear_pictures(folder: Path) -> None:
    """Remove the pictures that an earlier run left in a folder; other files stay."""
    for name in (*CRITERIA, "clusters"):
        for suffix in (".png", ".partial"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a PNG that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    figure.savefig(partial, dpi=DPI, format="png")
    partial.replace(path)
