"""The picture of a criterion: lines that are told apart, with their names at the end."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from gmm_dask.families import FAMILIES
from gmm_dask.families.full import Full
from gmm_dask.plotting.criteria import DASHES, NAME_HEIGHT, draw_criteria, isotonic, line_key, spread
from messages import names

ALIASES = {"VVV": "full", "EEE": "tied", "VVI": "diag", "VII": "spherical"}
MCLUST = ["EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV", "VVV"]
FOURTEEN = [ALIASES.get(name, name) for name in MCLUST]


@pytest.fixture
def fourteen(monkeypatch):
    """mclust's fourteen models; those that are no family are one for the test."""
    for name in set(FOURTEEN) - set(FAMILIES):
        monkeypatch.setitem(FAMILIES, name, type(name, (Full,), {"name": name, "structure": name})())


def table_of(kinds, counts=(1, 2, 3), apart=0.5):
    rows = [
        {"covariance_type": kind, "n_components": k, "bic": 100.0 + 10.0 * abs(k - 2) + apart * i}
        for i, kind in enumerate(kinds)
        for k in counts
    ]
    return pd.DataFrame(rows).assign(status="converged", n_parameters=range(len(rows)))


def drawn(table, **options):
    axes = Figure(figsize=(4.2, 3.3)).subplots()
    draw_criteria(axes, table, "bic", **options)
    return axes


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith(("_", "best"))}


def test_fourteen_models_are_told_apart(fourteen):
    lines = lines_of(drawn(table_of(FOURTEEN)))
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines.values()}
    assert len(lines) == len(looks) == 14
    # not by colour alone
    assert len({look[1:] for look in looks}) == 14


def test_names_stand_at_the_ends_of_the_lines_none_over_another(fourteen):
    axes = drawn(table_of(FOURTEEN))
    named = [text for text in axes.texts if text.get_text() in FOURTEEN]
    assert sorted(text.get_text() for text in named) == sorted(FOURTEEN)
    heights = sorted(text.get_position()[1] for text in named)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= NAME_HEIGHT - 1e-9
    assert 0.0 <= heights[0] < heights[-1] <= 1.0
    # in the order in which the lines end
    assert [text.get_text() for text in sorted(named, key=lambda text: text.get_position()[1])] == FOURTEEN
    # each beside the marker of its line
    marks = [line for line in axes.lines if line.get_label() == "_mark"]
    lines = lines_of(axes)
    for mark, text in zip(marks, named, strict=True):
        assert mark.get_marker() == lines[text.get_text()].get_marker()
        assert mark.get_ydata()[0] == text.get_position()[1]


def test_noise_is_a_line_of_its_own():
    table = table_of(["full", "tied"])
    both = pd.concat([table.assign(noise=False), table.assign(noise=True)], ignore_index=True)
    lines = lines_of(drawn(both))
    assert set(lines) == {"full", "tied", "full-noise", "tied-noise"}
    assert all(len(line.get_xdata()) == 3 for line in lines.values())
    assert len(set(DASHES.values())) == 4
    assert re.search(names("Dashed", "volume", "Dotted", "noise"), line_key(both))
    assert not re.search("Dashed|Dotted", line_key(table_of(["full", "diag"])))


def test_a_model_looks_the_same_in_every_picture():
    alone, beside = lines_of(drawn(table_of(["diag"]))), lines_of(drawn(table_of(["full", "diag"])))
    assert alone["diag"].get_color() == beside["diag"].get_color()


def test_with_one_feature_types_that_are_one_model_are_one_line():
    kinds = ["full", "tied", "diag", "spherical"]
    assert set(lines_of(drawn(table_of(kinds), n_features=1))) == {"full", "tied"}
    assert set(lines_of(drawn(table_of(kinds), n_features=2))) == set(kinds)
    # the best fit of the model is the line
    assert set(lines_of(drawn(table_of(["diag", "tied", "full"], apart=-0.5), n_features=1))) == {"full", "tied"}


def test_a_line_that_ends_early_is_named_there():
    table = table_of(["full", "tied"])
    table.loc[(table["covariance_type"] == "tied") & (table["n_components"] == 3), "bic"] = np.nan
    axes = drawn(table)
    (name,) = (text for text in axes.texts if text.get_text() == "tied")
    assert name.xy[0] == 2.0


def test_ticks_stand_at_the_numbers_that_were_tried():
    assert list(drawn(table_of(["full"], counts=(80, 100))).get_xticks()) == [80, 100]
    assert list(drawn(table_of(["full"], counts=range(1, 10))).get_xticks()) == list(range(1, 10))
    assert len(drawn(table_of(["full"], counts=(1, 2, 3, 50))).get_xticks()) < 20


def test_evidence_is_not_shaded_for_a_single_candidate():
    far = table_of(["full"]).assign(bic=[1e5, 0.0, 2e5])
    assert not draw_criteria(Figure().subplots(), far, "bic")
    assert draw_criteria(Figure().subplots(), far.assign(bic=[1e5, 0.0, 5.0]), "bic")


@pytest.mark.parametrize("places", [[0.5], [0.5, 0.5, 0.5], [0.99, 1.0, 0.2], [0.0, 0.01, 0.02], [0.1, 0.9]])
def test_places_are_spread_and_keep_their_order(places):
    found = spread(places, 0.1)
    assert np.argsort(found).tolist() == np.argsort(places, kind="stable").tolist()
    assert min(np.diff(np.sort(found)), default=0.1) >= 0.1 - 1e-12
    assert min(found) >= 0.0
    assert max(found) <= 1.0


@pytest.mark.parametrize("size", [1, 2, 9, 60])
def test_the_nearest_ascending_values_are_those_of_scipy(size):
    values = np.random.default_rng(size).normal(size=size) + 0.02 * np.arange(size)
    np.testing.assert_allclose(isotonic(values), isotonic_regression(values).x)


def test_places_that_are_apart_stay():
    assert spread([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.9, 0.1, 0.5])
    assert spread([], 0.1) == []
