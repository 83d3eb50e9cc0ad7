"""How sure a choice is, in numbers and in words."""

from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from gmm_dask import GaussianMixtureSearch
from gmm_dask.em.loop import Status
from gmm_dask.selection.diagnostics import agreement, remarks, smallest_within, starts_compared
from messages import names
from mixtures import outcome


def table_of(*rows):
    return pd.DataFrame(rows, columns=["n_components", "covariance_type", "delta"])


def remarks_of(table, **winner):
    best = table.loc[table["delta"].idxmin()].to_dict()
    return remarks(table, "bic", {**best, **winner})


def test_starts_that_agree():
    starts = [outcome(start=i, bound=bound) for i, bound in enumerate((-2.0, -1.0, -1.00005, -1.5))]
    assert agreement(starts) == (4, 0, 2, pytest.approx(1.0), (1, 2))


def numbers(text):
    """The numbers of a text, in order of size."""
    return sorted(map(float, re.findall(r"\d+(?:\.\d+)?", text)))


def test_which_starts_agreed_is_said():
    found = starts_compared({"starts": 6.0, "agreeing": (3, 4), "spread": 0.25})
    assert numbers(found) == [0.25, 2, 3, 4, 6]
    assert numbers(starts_compared({"starts": 2.0, "agreeing": (0, 1), "spread": 0.0})) == [0, 1, 2, 2]
    assert starts_compared({"starts": 1.0, "agreeing": (0,), "spread": 0.0}) == ""


def test_starts_that_failed_or_are_not_trusted_are_counted_but_not_compared():
    starts = [
        outcome(start=0, bound=-1.0),
        outcome(start=1, bound=5.0, status=Status.SPURIOUS),
        outcome(start=2, status=Status.SINGULAR),
    ]
    assert agreement(starts) == (3, 2, 1, 0.0, (0,))
    assert agreement(starts[1:]) == (2, 1, 1, 0.0, (1,))
    assert agreement(starts[2:])[:2] == (1, 1)
    assert math.isnan(agreement(starts[2:]).agreed)
    assert math.isnan(agreement(starts[2:]).spread)


def test_starts_that_say_nothing_of_each_other_do_not_agree():
    """Those without an iteration have no likelihood."""
    assert agreement([outcome(start=i) for i in range(3)]).agreed == 3
    unknown = agreement([outcome(start=i, bound=-math.inf) for i in range(3)])
    assert (unknown.starts, unknown.agreeing, math.isnan(unknown.agreed)) == (3, (), True)


def test_fewest_components_where_the_curve_is_flat():
    table = table_of((1, "full", 300.0), (3, "full", 9.0), (3, "tied", 4.0), (2, "diag", math.nan), (5, "full", 0.0))
    found = smallest_within(table)
    assert (found["n_components"], found["covariance_type"]) == (3, "tied")


def test_nothing_to_remark():
    assert remarks_of(table_of((1, "full", 50.0), (2, "full", 0.0), (3, "full", 20.0)), starts=3, agreed=2) == []


def test_the_edges_of_the_grid():
    [remark] = remarks_of(table_of((1, "full", 50.0), (2, "full", 0.0)))
    assert re.match(names("2 components", "more", "n_components", "extend: true"), remark)
    [remark] = remarks_of(table_of((2, "full", 0.0), (3, "full", 50.0)))
    assert re.match(names("2 components", "fewer", "n_components", "extend: true"), remark)
    assert remarks_of(table_of((1, "full", 0.0), (2, "full", 50.0))) == []
    assert len(remarks_of(table_of((2, "full", 0.0), (2, "tied", 50.0)))) == 1


def test_a_grid_that_is_widened_says_why_it_ends():
    table = table_of((1, "full", 50.0), (2, "full", 0.0))
    [remark] = remarks(table, "bic", {"n_components": 2}, "there are only 2 rows")
    assert re.match(names("2 components", "more", "there are only 2 rows"), remark)
    assert "extend: true" not in remark


def test_nothing_beyond_the_winner_can_be_trusted():
    table = table_of((1, "full", 50.0), (2, "full", 0.0), (3, "full", math.nan))
    [remark] = remarks_of(table)
    assert re.match(names("more than 2 components", "trusted"), remark)


def test_fewer_components_do():
    [remark] = remarks_of(table_of((1, "tied", 4.25), (2, "full", 0.0), (3, "full", 20.0)))
    assert re.match(names("1 component", "tied", "BIC", "4.2"), remark)


def test_starts_that_disagree():
    table = table_of((1, "full", 50.0), (2, "full", 0.0), (3, "full", 20.0))
    [remark] = remarks_of(table, starts=4.0, agreed=1.0, spread=0.0321)
    assert re.match(names("4 starts", "0.032", "n_init"), remark)


def test_starts_that_are_not_trusted_are_remarked():
    starts = [outcome(start=0), *(outcome(start=i, bound=9.0, status=Status.SPURIOUS) for i in range(1, 5))]
    table = table_of((1, "full", 50.0), (2, "full", 0.0), (3, "full", 20.0))
    [remark] = remarks_of(table, **agreement(starts)._asdict())
    assert re.match(names("5 starts", "degenerate", "spurious", "n_init"), remark)
    assert numbers(remark) == [4, 5]
    [remark] = remarks_of(table, **agreement([*starts, outcome(start=5, bound=-1.5)])._asdict())
    assert numbers(remark) == [0.5, 4, 6]
    said = starts_compared(agreement([outcome(start=9), *starts])._asdict())
    assert re.match(names("2 of", "6 starts", "degenerate", "spurious"), said)
    assert numbers(said) == [0, 2, 4, 6, 9]


@pytest.mark.slow
def test_searches_over_clear_groups_agree(blobs):
    search = GaussianMixtureSearch([2, 3, 4], n_init=3, init_params="auto", random_state=0).fit(blobs)
    winner = search.results_.loc[search.results_["delta"] == 0.0].iloc[0]
    assert (winner["n_components"], winner["agreed"], winner["agreeing"]) == (3, 3, (0, 1, 2))


def test_a_single_number_of_components_says_so():
    [remark] = remarks_of(table_of((2, "full", 0.0), (2, "tied", 50.0)))
    assert re.match(names("2", "more", "fewer", "n_components", "extend: true"), remark)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_remarks(iris):
    search = GaussianMixtureSearch((1, 2), n_init=3, init_params="kmeans", random_state=0).fit(iris)
    assert any(re.match(names("2 components", "extend: true"), remark) for remark in search.remarks_)
    assert (search.results_["starts"] == 3).all()
    assert search.results_["agreed"].between(1, 3).all()
    assert (search.results_["spread"] >= 0).all()
