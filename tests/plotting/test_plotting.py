"""Pictures in a notebook: functions that return axes, and what is drawn on them."""

import subprocess
import sys
from dataclasses import replace

import dask.array as da
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.plotting import drawing
from gmm_dask.plotting.plots import (
    components_of,
    plot_bounds,
    plot_clusters,
    plot_criteria,
    plot_means,
    plot_uncertainty,
)
from gmm_dask.selection.criteria import KASS_RAFTERY
from messages import names


@pytest.fixture(scope="module")
def frame(iris):
    return pd.DataFrame(iris, columns=["sepal length", "sepal width", "petal length", "petal width"])


@pytest.fixture(scope="module")
def search(frame):
    return GaussianMixtureSearch([1, 2, 3, 4], n_init=2, init_params="kmeans", random_state=0).fit(frame)


@pytest.fixture
def axes():
    return Figure().subplots()


def ellipses(axes):
    return [patch for patch in axes.patches if isinstance(patch, Ellipse)]


def test_importing_plotting_does_not_import_matplotlib():
    code = "import sys, gmm_dask.plotting.plots; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_axes_a_new_figure_is_made(search):
    mpl.use("agg")
    from matplotlib import pyplot

    first, second = plot_criteria(search), plot_bounds(search)
    assert first.figure is not second.figure
    pyplot.close("all")


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
def test_criteria_ring_the_smallest(search, axes, criterion):
    assert plot_criteria(search, criterion, ax=axes) is axes
    lines = {line.get_label(): line for line in axes.lines}
    best = search.results_.loc[search.results_[criterion].idxmin()]
    assert lines["best"].get_xdata() == [best["n_components"]]
    assert lines["best"].get_ydata() == [0.0]
    rows = search.results_[search.results_["covariance_type"] == "tied"]
    above = rows[criterion] - search.results_[criterion].min()
    np.testing.assert_allclose(lines["tied"].get_ydata(), above)


def test_criteria_take_the_table_too(search, axes):
    plot_criteria(search.results_, ax=axes)
    assert "BIC" in axes.get_ylabel()
    with pytest.raises(UserError, match=names("criterion", "bic", "aic", "icl", "held_out", "hqc")):
        plot_criteria(search, "hqc")


def three_candidates(status="converged"):
    columns = {"n_components": [1, 2, 3], "covariance_type": "full", "n_parameters": [1, 2, 3], "status": status}
    return pd.DataFrame(columns)


def test_close_criteria_show_how_strong_the_evidence_is(axes):
    table = three_candidates()
    plot_criteria(table.assign(bic=[30.0, 0.0, 5.0]), close=True, ax=axes)
    assert {text.get_text() for text in axes.texts} >= {level.label for level in KASS_RAFTERY.levels}
    far = Figure().subplots()
    plot_criteria(table.assign(bic=[1e6, 0.0, 1e5]), close=True, ax=far)
    assert not {level.label for level in KASS_RAFTERY.levels} & {text.get_text() for text in far.texts}


def test_criteria_of_failed_candidates_leave_gaps(axes):
    table = three_candidates()
    plot_criteria(table.assign(bic=[9.0, np.nan, 5.0]), close=True, ax=axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [4.0, np.nan, 0.0])


def test_criteria_of_candidates_that_may_not_win_leave_gaps(axes):
    table = three_candidates(["converged", "spurious", "converged"])
    plot_criteria(table.assign(bic=[9.0, 1.0, 5.0]), close=True, ax=axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [4.0, np.nan, 0.0])


def test_ellipses_hold_95_percent(axes):
    mixture = GaussianMixture(2, random_state=0)
    random = np.random.default_rng(0)
    rows = np.concatenate([random.multivariate_normal(m, [[4, 1.5], [1.5, 1]], 5000) for m in ([0, 0], [40, 9])])
    plot_clusters(mixture.fit(rows), rows, ax=axes)
    for ellipse in ellipses(axes):
        path = ellipse.get_path().transformed(ellipse.get_patch_transform())
        part = rows[np.abs(rows[:, 0] - ellipse.get_center()[0]) < 20]
        assert path.contains_points(part).mean() == pytest.approx(0.95, abs=0.01)


def test_clusters_of_chosen_features(search, frame, axes):
    assert plot_clusters(search, frame, ["petal width", "sepal length"], ax=axes) is axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("petal width", "sepal length")
    assert len(ellipses(axes)) == search.best_params_["n_components"]
    with pytest.raises(UserError, match=names("features", "sepal length", "['petal', 0]")):
        plot_clusters(search, frame, ["petal", 0], ax=axes)
    with pytest.raises(UserError, match=names("features", "two", "[1]")):
        plot_clusters(search, frame, [1], ax=axes)


def test_clusters_take_lazy_rows_and_show_some_of_many(axes):
    rows = da.random.default_rng(0).normal(size=(40_000, 2), chunks=(9_000, 2))
    unknown = rows[rows[:, 0] > -100.0]
    plot_clusters(GaussianMixture(2, random_state=0, max_iter=2, tol=1.0).fit(rows), unknown, ax=axes)
    (image,) = axes.images  # cells instead of dots
    cells = image.get_array()
    assert cells.shape == (*drawing.CELLS[::-1], 4)
    assert 0.1 < (cells[..., 3] > 0.0).mean() < 1.0


def test_few_rows_are_dots_over_the_density(axes):
    rows = np.random.default_rng(0).normal(size=(500, 2))
    plot_clusters(GaussianMixture(1).fit(rows), rows, ax=axes)
    contours, dots = sorted(axes.collections, key=lambda drawn: len(drawn.get_offsets()))
    assert len(dots.get_offsets()) == 500
    # a line of equal density that holds so many of the rows
    inner = contours.get_paths()[-1]
    assert inner.contains_points(rows).mean() == pytest.approx(0.25, abs=0.03)
    assert not axes.images


def test_an_ellipse_far_beyond_the_rows_does_not_set_the_frame(axes):
    rows = np.random.default_rng(0).normal(size=(500, 2))
    parts = components_of(GaussianMixture(1).fit(rows))
    wide = replace(parts, covariances=parts.covariances * 1e4)
    drawing.draw_clusters(axes, wide, rows, np.zeros(500, dtype=int), (0, 1))
    assert axes.get_xlim()[1] < 1.3 * rows[:, 0].max()


def test_a_number_stands_beside_a_component_that_it_would_cover(axes):
    rows = np.random.default_rng(0).normal(size=(500, 2))
    parts = components_of(GaussianMixture(1).fit(rows))
    three = replace(
        parts,
        weights=np.array([0.4, 0.3, 0.3]),
        means=np.array([[0.0, 0.0], [50.0, 0.0], [50.0, 5.0]]),
        covariances=np.array([np.eye(2) * 100.0, np.eye(2) * 0.01, np.eye(2) * 0.01]),
    )
    drawing.draw_clusters(axes, three, np.array([[-30.0, -30.0], [60.0, 30.0]]), np.array([0, 1]), (0, 1))
    offsets = {text.get_text(): text.get_position() for text in axes.texts}
    assert offsets["0"] == (0.0, 0.0)
    # 1 lies below 2: their numbers stand on the outer sides
    assert offsets["1"][1] < -5.0 < 5.0 < offsets["2"][1]


def test_a_number_beside_a_component_stays_within_the_frame(axes):
    rows = np.random.default_rng(0).normal(size=(500, 2))
    parts = components_of(GaussianMixture(1).fit(rows))
    two = replace(
        parts,
        weights=np.array([0.5, 0.5]),
        means=np.array([[0.0, 0.0], [100.0, 0.0]]),
        covariances=np.array([np.eye(2) * 0.01, np.eye(2) * 0.01]),
    )
    drawing.draw_clusters(axes, two, np.array([[0.0, -20.0], [100.0, 20.0]]), np.array([0, 1]), (0, 1))
    offsets = {text.get_text(): text.get_position() for text in axes.texts}
    assert offsets["0"][0] > 0.0 > offsets["1"][0]


def test_criteria_far_apart_leave_room_for_those_close_to_the_best(axes):
    table = pd.DataFrame({"n_components": [1, 2, 3], "covariance_type": "full", "status": "converged"})
    table = table.assign(n_parameters=[1, 2, 3], bic=[1e8, 0.0, 7.0])
    plot_criteria(table, ax=axes)
    height = axes.transScale + axes.transLimits
    (_, near), (_, far) = height.transform([(2, 7.0), (1, 1e8)])
    assert 0.2 < near < 0.6 < far < 1.0


def test_a_single_feature_is_drawn_as_densities(line, axes):
    plot_clusters(GaussianMixture(3, random_state=0, max_iter=500).fit(line), line, ax=axes)
    total = {drawn.get_label(): drawn for drawn in axes.lines}["their sum"]
    assert np.trapezoid(total.get_ydata(), total.get_xdata()) == pytest.approx(1.0, abs=0.01)


def test_of_very_many_components_the_heaviest_are_drawn(axes):
    weights = np.linspace(1.0, 2.0, 30)
    assert drawing.heaviest(weights) == list(range(29, 29 - drawing.MOST_DRAWN, -1))
    assert drawing.heaviest(weights[:20]) == list(range(19, -1, -1))


def test_rows_outside_the_frame_are_counted(axes):
    parts = components_of(GaussianMixture(1).fit(np.random.default_rng(0).normal(size=(500, 2))))
    rows = np.concatenate([np.random.default_rng(1).normal(size=(999, 2)), [[1e6, 0.0]]])
    assert drawing.draw_clusters(axes, parts, rows, np.zeros(1000, dtype=int), (0, 1)) >= 1
    assert axes.get_xlim()[1] < 10.0


def test_uncertainty_by_component(axes):
    shares = drawing.uncertainty_shares(np.array([0.0, 0.01, 0.05, 0.2, 0.5]), np.array([0, 0, 0, 2, 2]), 3)
    np.testing.assert_allclose(shares[[0, 2]], [[2 / 3, 1 / 3, 0, 0], [0, 0, 0.5, 0.5]])
    assert np.isnan(shares[1]).all()


def test_uncertainty_bars_add_up(search, frame, axes):
    plot_uncertainty(search, frame, ax=axes)
    widths = np.reshape([bar.get_width() for bar in axes.patches], (4, -1))
    np.testing.assert_allclose(widths.sum(axis=0), 100.0)


def test_means_in_standard_deviations(search, frame, axes):
    plot_means(search, ax=axes)
    shown = axes.images[0].get_array()
    best = search.best_estimator_
    np.testing.assert_allclose(shown, (best.means_ - frame.mean().to_numpy()) / frame.std(ddof=0).to_numpy(), atol=0.01)


def test_bounds_rise_to_the_end(search, axes):
    plot_bounds(search, ax=axes)
    assert axes.lines[0].get_ydata()[-1] == search.best_estimator_.lower_bound_


def test_components_have_names(search, frame):
    assert components_of(search).names == tuple(frame.columns)
    assert components_of(GaussianMixture().fit(frame.to_numpy())).names == ("x0", "x1", "x2", "x3")


def test_what_is_not_fitted_is_refused(frame):
    from sklearn.exceptions import NotFittedError

    for plot in (plot_clusters, plot_uncertainty):
        with pytest.raises(NotFittedError):
            plot(GaussianMixture(), frame)
    with pytest.raises(NotFittedError):
        plot_criteria(GaussianMixtureSearch())
