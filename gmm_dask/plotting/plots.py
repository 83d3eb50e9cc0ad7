"""Plots of a fitted mixture and of a search.

Each function draws on the given axes, or on those of a new figure, and returns them. Matplotlib is imported when a plot
is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import dask
import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gmm_dask.errors import UserError
from gmm_dask.formatting import listed
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import as_rows
from gmm_dask.plotting import drawing
from gmm_dask.plotting.criteria import draw_criteria
from gmm_dask.plotting.feature_pairs import components_of, separating_pairs
from gmm_dask.selection.criteria import CRITERIA

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Array = NDArray[np.float64]
# a fitted GaussianMixture, or a GaussianMixtureSearch, of which the winner is shown
Fitted: TypeAlias = Any

# of more rows, so many evenly spaced ones are shown
SHOWN_ROWS = 20_000


def plot_criteria(search: Any, criterion: str | None = None, *, close: bool = False, ax: Axes | None = None) -> Axes:
    """Plot a criterion by number of components, one line per covariance type; the ring is the best candidate.

    Parameters
    ----------
    search : GaussianMixtureSearch or DataFrame
        Fitted, or its ``results_``.
    criterion : str, default=None
        One of :data:`gmm_dask.selection.criteria.CRITERIA`; None takes the search's own.
    close : bool, default=False
        Whether to show the best candidates only; for BIC with Kass and Raftery's (1995) scale of evidence.
    ax : Axes, default=None

    Returns
    -------
    Axes
    """
    n_features = None
    if not isinstance(search, pd.DataFrame):
        _require_mixture(search)
        if not hasattr(search, "results_"):
            raise UserError(f"expected a GaussianMixtureSearch, or its results_; got {type(search).__name__}.")
        criterion, n_features, search = criterion or search.criterion_, search.n_features_in_, search.results_
    criterion = criterion or next(iter(CRITERIA))
    if criterion not in CRITERIA:
        raise UserError(f"criterion must be one of {', '.join(CRITERIA)}; got {criterion!r}.")
    if search[criterion].isna().all():
        raise UserError(f"{criterion} is not known of any candidate; held_out needs a search that holds rows out.")
    axes = _axes(ax)
    draw_criteria(axes, search, criterion, close, n_features)
    return axes


def plot_clusters(mixture: Fitted, X: Any, features: Sequence[Any] | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot rows coloured by component with 95 % ellipses; of a single feature, the densities.

    Parameters
    ----------
    mixture : GaussianMixture or GaussianMixtureSearch
        Fitted.
    X : array-like of shape (n_rows, n_features)
        Of more than 20,000 rows, evenly spaced ones are shown; more than 3,000 as densities.
    features : pair of str or int, default=None
        Names or positions; None takes the two in whose plane the components overlap least.
    ax : Axes, default=None

    Returns
    -------
    Axes
    """
    components = components_of(mixture)
    rows, labels, _ = _shown(mixture, X)
    axes = _axes(ax)
    if rows.shape[1] == 1:
        drawing.draw_density(axes, components, rows[:, 0])
        return axes
    pair = separating_pairs(components, most=1)[0] if features is None else _pair(components.names, features)
    drawing.draw_clusters(axes, components, rows, labels, pair)
    return axes


def plot_means(mixture: Fitted, *, ax: Axes | None = None) -> Axes:
    """Plot the components' means by feature as colours, in standard deviations from the mixture's mean.

    Parameters
    ----------
    mixture : GaussianMixture or GaussianMixtureSearch
        Fitted.
    ax : Axes, default=None

    Returns
    -------
    Axes
    """
    components = components_of(mixture)
    axes = _axes(ax)
    drawing.draw_means(axes, components)
    return axes


def plot_uncertainty(mixture: Fitted, X: Any, *, ax: Axes | None = None) -> Axes:
    """Plot how certain the labels are: each component's rows by the probability that they belong to another one.

    Parameters
    ----------
    mixture : GaussianMixture or GaussianMixtureSearch
        Fitted.
    X : array-like of shape (n_rows, n_features)
        As in :func:`plot_clusters`.
    ax : Axes, default=None

    Returns
    -------
    Axes
    """
    _, labels, largest = _shown(mixture, X)
    axes = _axes(ax)
    drawing.draw_uncertainty(axes, 1.0 - largest, labels, components_of(mixture))
    return axes


def plot_bounds(mixture: Fitted, *, ax: Axes | None = None) -> Axes:
    """Plot the mean log-likelihood per row by iteration of the best start.

    Parameters
    ----------
    mixture : GaussianMixture or GaussianMixtureSearch
        Fitted.
    ax : Axes, default=None

    Returns
    -------
    Axes
    """
    _require_mixture(mixture)
    best: Any = getattr(mixture, "best_estimator_", mixture)
    axes = _axes(ax)
    drawing.draw_bounds(axes, best.lower_bounds_)
    return axes


def _require_mixture(mixture: Fitted) -> None:
    from gmm_dask.inputs import require_mixture  # and scikit-learn, which reports draw without

    require_mixture(mixture)


def _shown(mixture: Fitted, X: Any) -> tuple[Array, NDArray[np.integer[Any]], Array]:
    """Return the rows of X that are shown, their labels, and how probable these are."""
    from gmm_dask.inputs import read_input  # and scikit-learn, which reports draw without

    _require_mixture(mixture)
    array = read_input(mixture, X, reset=False, gaps=mixture._gaps)
    if isinstance(array, da.Array) and np.isnan(array.shape[0]):
        array = array.compute_chunk_sizes()
    rows = array[:: max(1, -(-array.shape[0] // SHOWN_ROWS))]
    (rows,) = dask.compute(rows)
    if mixture._gaps:
        rows = rows[np.isfinite(rows).any(axis=1)]
    family, parameters = mixture._model
    found = predict_rows(replace(as_rows(rows), gaps=mixture._gaps), family, parameters, ["label", "responsibility"])
    return rows, found["label"], found["responsibility"].max(axis=1)


def _pair(names: tuple[str, ...], features: Sequence[Any]) -> tuple[int, int]:
    """Positions of two features, by name or position."""
    known: dict[Any, int] = {name: i for i, name in enumerate(names)} | {i: i for i in range(len(names))}
    if len(features) != 2 or any(feature not in known for feature in features):
        raise UserError(f"features must be two of {listed(names)}, or their positions; got {list(features)!r}.")
    return known[features[0]], known[features[1]]


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]
