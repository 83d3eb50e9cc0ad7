"""Rows that are held out: as if they were not there, and scored by the final pass."""

from __future__ import annotations

import itertools
import re

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from counting import CountingRows
from gmm_dask import GaussianMixtureSearch, UserError
from gmm_dask import search as search_module
from gmm_dask.estimator import GaussianMixture
from gmm_dask.families import get_family
from gmm_dask.inputs import sample_seed
from gmm_dask.passes.data_summary import Draw, summarize_rows
from gmm_dask.passes.holdout import Holdout
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.rows import as_rows, hold_out
from gmm_dask.passes.statistics import collect_totals
from gmm_dask.plotting.notebook import estimator_html
from gmm_dask.plotting.plots import plot_criteria
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.diagnostics import chosen_within_error, smallest_within
from marks import slow
from messages import names
from mixtures import assert_same_parameters, every_model, random_parameters, random_rows
from naive import e_step, model_of, numbers

SEED, SHARE = 3, 0.3


def held_out_rows(n_rows, share=SHARE, random_state=SEED):
    """Which rows of an array are held out."""
    return Holdout(share, sample_seed(random_state), (0,)).is_held_out(0, n_rows)


def searched(X, weights=None, held_out=SHARE, **settings):
    settings = {
        "n_components": [1, 3],
        "init_params": "kmeans",
        "tol": 1e-7,
        "max_iter": 500,
        "random_state": SEED,
        **settings,
    }
    return GaussianMixtureSearch(**settings, held_out=held_out).fit(X, sample_weight=weights)


@pytest.fixture
def states(monkeypatch):
    """The states that searches end with, in order."""
    seen = []

    def recording(rows, data_summary, states, **options):
        seen.extend(states)
        return evaluate(rows, data_summary, states, **options)

    evaluate = search_module.evaluate_states
    monkeypatch.setattr(search_module, "evaluate_states", recording)
    return seen


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init_params", ["kmeans", *slow(["random_from_data", "auto"])])
def test_a_fit_is_that_of_the_other_rows(blobs, states, weighted, init_params):
    weights = np.random.RandomState(0).randint(0, 4, len(blobs)).astype(float) if weighted else None
    out = held_out_rows(len(blobs))
    assert 0.2 < out.mean() < 0.4
    found = searched(blobs, weights, init_params=init_params, n_init=2)
    ours, states[:] = list(states), []
    by_hand = searched(blobs[~out], None if weights is None else weights[~out], 0.0, init_params=init_params, n_init=2)
    for one, other in zip(ours, states, strict=True):
        assert one.n_iter == other.n_iter
        assert one.status is other.status
        assert_same_parameters(one, other, rtol=1e-8)
    same = [name for name in found.results_ if not name.startswith("held_out")]
    pd.testing.assert_frame_equal(found.results_[same], by_hand.results_[same], rtol=1e-8)
    assert by_hand.results_[["held_out", "held_out_log_likelihood"]].isna().all(axis=None)
    row = found.results_.loc[found.results_["delta"] == 0].iloc[0]
    densities = found.score_samples(blobs[out])
    expected = np.average(densities, weights=None if weights is None else weights[out])
    assert row["held_out_log_likelihood"] == pytest.approx(expected, rel=1e-10)
    total = densities.sum() if weights is None else densities @ weights[out]
    assert row["held_out"] == pytest.approx(-2.0 * total, rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e8], ids=["feature map", "about each mean"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_closing_pass_is_the_oracles(covariance_type, offset, dtype, lazy):
    """``offset`` puts one component far away, which the feature map's rounding would not bear."""
    X = random_rows(300, 2).astype(dtype)
    parameters = random_parameters(covariance_type, 3, 2)
    means = parameters.means + np.array([[0.0], [0.0], [offset]])
    family = get_family(covariance_type)
    parameters = family.parameters(parameters.weights, means, parameters.covariances)
    rows = hold_out(as_rows(da.from_array(X, chunks=(70, 2)) if lazy else X), SHARE, 5)
    data_summary = summarize_rows(rows, 5)
    assert (family.kappa(parameters, data_summary.center) > 1e7) == bool(offset)
    [totals] = collect_totals(rows, data_summary, [(family, parameters)])
    out = Holdout(SHARE, 5, (0,)).is_held_out(0, len(X))
    model = model_of(covariance_type, parameters)
    for chosen, total in ((~out, totals.log_likelihood), (out, totals.held_out)):
        _, densities = e_step(numbers(X[chosen]), model)
        assert total == pytest.approx(sum(densities), rel=1e-10)
    assert data_summary.held_out.n_rows == out.sum()
    np.testing.assert_allclose(data_summary.held_out.center, X[out].mean(axis=0, dtype=float), rtol=1e-9)


def test_all_models_of_a_stack_are_told_apart(blobs):
    rows = hold_out(as_rows(blobs), SHARE, 5)
    data_summary, models = summarize_rows(rows, 5), every_model(2)
    together = collect_totals(rows, data_summary, models)
    for model, totals in zip(models, together, strict=True):
        alone = collect_totals(rows, data_summary, [model])[0]
        assert totals[:3] == pytest.approx(alone[:3], rel=1e-12)
        assert alone.held_out_errors == (0.0,)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_paired_differences(blobs, weighted):
    """A row of weight w counts as w rows."""
    weights = np.random.RandomState(0).randint(1, 4, len(blobs)) if weighted else np.ones(len(blobs), dtype=int)
    lazy = [da.from_array(one, chunks=(97, *one.shape[1:])) for one in (blobs, weights.astype(float))]
    rows = hold_out(as_rows(*lazy), SHARE, 5)
    models = every_model(2)[:4]
    found = [totals.held_out_errors for totals in collect_totals(rows, summarize_rows(rows, 5), models)]
    out = Holdout(SHARE, 5, (0,)).is_held_out(0, len(blobs))
    copies = as_rows(np.repeat(blobs[out], weights[out], axis=0))
    densities = [predict_rows(copies, *model, ["log_density"])["log_density"] for model in models]
    expected = [[np.sqrt(len(a)) * np.std(a - b) for b in densities] for a in densities]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)


def test_the_smallest_model_within_one_standard_error_is_chosen(blobs):
    settings = {"n_components": range(1, 6), "covariance_types": ["full", "tied"], "criterion": "held_out"}
    search = searched(blobs, **settings, tol=1e-3, random_state=1)
    table = search.results_
    good = table[table["delta"] <= table["held_out_error"]]
    assert len(good) > 1
    winner = good.loc[good["n_parameters"].idxmin()]
    assert search.best_params_ == {name: winner[name] for name in search.best_params_}
    assert search.best_params_["n_components"] == 3
    assert table.loc[table["delta"].idxmin(), "held_out_error"] == 0.0
    assert chosen_within_error(table, "bic", winner) == ""
    if winner["delta"]:
        said = chosen_within_error(table, "held_out", winner)
        assert re.search(names(f"{winner['delta']:.1f}", f"{winner['held_out_error']:.1f}"), said)


@pytest.mark.parametrize("chunks", [1, 7, 97, 600])
def test_which_rows_does_not_depend_on_chunks(blobs, chunks):
    whole = Holdout(SHARE, 9, (0,)).is_held_out(0, 600)
    rows = hold_out(as_rows(da.from_array(blobs, chunks=(chunks, 2))), SHARE, 9)
    edges = [*rows.holdout.starts, 600]
    parts = [rows.holdout.is_held_out(i, b - a) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    data_summary = summarize_rows(rows, 9)
    np.testing.assert_array_equal(data_summary.sample, blobs[~whole])
    assert data_summary.n_rows == data_summary.total_weight == np.count_nonzero(~whole)
    assert sum(data_summary.chunk_rows) == 600


@pytest.mark.parametrize("given", ["dask", "frame", "unknown lengths", "float32"])
def test_results_do_not_depend_on_how_rows_are_given(blobs, given):
    expected, settings = searched(blobs).results_, {}
    if given == "frame":
        X = pd.DataFrame(blobs, columns=["a", "b"])
    elif given == "unknown lengths":  # one partition: it begins with the first row
        X = dd.from_pandas(pd.DataFrame(blobs, columns=["a", "b"]), npartitions=1)
    elif given == "float32":  # at 1e-7 a row its sums are too coarse to tell whether a fit stands still
        X, settings = da.from_array(blobs.astype(np.float32), chunks=(100, 2)), {"tol": 1e-6}
    else:
        X = da.from_array(blobs, chunks=(41, 2))
    found = searched(X, **settings).results_
    numbers = ["bic", "held_out", "held_out_log_likelihood"]
    pd.testing.assert_frame_equal(found[numbers], expected[numbers], rtol=1e-4 if given == "float32" else 1e-7)


def test_partitions_of_unknown_lengths_hold_out_the_same_rows_in_every_pass(blobs):
    frame = dd.from_pandas(pd.DataFrame(blobs, columns=["a", "b"]), npartitions=4)
    lengths = [len(frame.partitions[i]) for i in range(4)]
    out = np.concatenate([Holdout(SHARE, sample_seed(SEED), None).is_held_out(i, n) for i, n in enumerate(lengths)])
    found = searched(frame)
    together = frame.compute()
    row = found.results_.loc[found.results_["delta"] == 0].iloc[0]
    assert row["held_out_log_likelihood"] == pytest.approx(found.score(together[out]), rel=1e-9)
    assert row["bic"] == pytest.approx(found.best_estimator_.bic(together[~out]), rel=1e-9)


def test_threads_do_not_change_the_bits(digits):
    X = da.from_array(digits, chunks=(100, 10))
    tables = []
    for n_threads in (1, 4):
        with dask.config.set(num_workers=n_threads):
            tables.append(searched(X, n_components=[4], tol=1e-3).results_)
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_holding_out_takes_no_more_reads(blobs):
    reads = []
    for share in (0.0, SHARE):
        data = CountingRows(blobs)
        settings = {"n_components": [2], "tol": 0.0, "max_iter": 5, "covariance_types": "diag", "init_params": "random"}
        with pytest.warns(UserWarning, match=names("max_iter")):
            searched(data.as_dask((50, 2)), held_out=share, **settings)
        reads.append(data.reads)
    assert reads == [7, 7]


def test_the_sample_is_drawn_apart_from_what_is_held_out():
    n_rows = 100_000
    priorities = Draw(4, 1.0, (0,)).priorities(0, n_rows)
    out = Holdout(0.5, 4, (0,)).is_held_out(0, n_rows)
    assert abs(np.corrcoef(priorities, out)[0, 1]) < 4.0 / np.sqrt(n_rows)


def test_of_many_rows_the_sample_is_full_and_has_none_that_is_held_out(monkeypatch):
    monkeypatch.setattr("gmm_dask.passes.data_summary.SAMPLE_ROWS", 2000)
    X = np.arange(50_000.0)[:, None]
    rows = hold_out(as_rows(X), 0.9, 2)
    sample = summarize_rows(rows, 2).sample[:, 0].astype(int)
    assert len(sample) == 2000
    assert not Holdout(0.9, 2, (0,)).is_held_out(0, 50_000)[sample].any()


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_the_criterion_finds_the_components_of_a_clear_mixture(blobs, criterion):
    """Held-out rows alone hardly tell three components from more: the smallest within one standard error is right."""
    search = searched(blobs, n_components=range(1, 7), criterion=criterion, n_init=2, init_params="auto")
    table = search.results_
    assert smallest_within(table)["n_components"] == 3
    assert search.best_params_["n_components"] == 3
    assert table["delta"].min() == 0.0
    may_win = table[table["delta"].notna()]
    assert len(may_win) >= 15
    np.testing.assert_allclose(may_win["delta"], may_win[criterion] - may_win[criterion].min())
    winner = table.loc[table["delta"].idxmin()]
    assert winner["held_out_log_likelihood"] >= table["held_out_log_likelihood"].max() - 0.05


def test_held_out_rows_tell_of_too_many_components():
    """On rows of one component, more components describe the fitted rows better and the others worse."""
    X = np.random.default_rng(0).normal(size=(300, 4))
    table = searched(X, n_components=[1, 6], covariance_types="full", criterion="held_out", reg_covar=1e-3).results_
    one, six = table.to_dict("records")
    assert six["log_likelihood"] > one["log_likelihood"]
    assert six["held_out_log_likelihood"] < one["held_out_log_likelihood"]
    assert one["delta"] == 0.0


def test_pictures_tables_and_remarks_name_the_criterion(blobs):
    search = searched(blobs, n_components=[1, 2], criterion="held_out")
    assert CRITERIA["held_out"].label in plot_criteria(search).get_ylabel()
    assert f"Δ{CRITERIA['held_out'].label}" in estimator_html("", search)
    with pytest.raises(UserError, match=names("held_out", "search")):
        plot_criteria(searched(blobs, held_out=0.0), "held_out")


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan"), "half"])
def test_shares_that_are_none(blobs, share):
    with pytest.raises(ValueError, match=names("GaussianMixtureSearch", "held_out", repr(share))):
        searched(blobs, held_out=share)


def test_the_criterion_without_rows_held_out(blobs):
    with pytest.raises(UserError, match=names("criterion='held_out'", "held_out=0.2")):
        searched(blobs, held_out=0.0, criterion="held_out")


@pytest.mark.parametrize(
    ("share", "parts"),
    [(1e-9, ["held_out", "600 rows", "larger"]), (1 - 1e-9, ["600 rows", "600 of them held out", "n_samples = 0"])],
)
def test_shares_that_leave_nothing(blobs, share, parts):
    with pytest.raises(UserError, match=names(*parts)):
        searched(blobs, held_out=share)


def test_weights_of_zero_hold_out_nothing(blobs):
    out = held_out_rows(len(blobs))
    with pytest.raises(UserError, match=names("held_out", "600 rows", "positive weight")):
        searched(blobs, np.where(out, 0.0, 1.0))
    with pytest.raises(UserError, match=names("weights", "zero")):
        searched(blobs, np.where(out, 1.0, 0.0))


def test_bad_weights_are_refused_where_they_are_held_out_too(blobs):
    weights = np.ones(len(blobs))
    weights[np.flatnonzero(held_out_rows(len(blobs)))[0]] = -1.0
    with pytest.raises(UserError, match=names("1 sample weights", "negative")):
        searched(blobs, weights)


def test_values_that_overflow_are_refused_where_they_are_held_out_too(blobs):
    X = blobs.copy()
    X[np.flatnonzero(held_out_rows(len(X)))[0], 1] = 1e200
    with pytest.raises(UserError, match=names("column 1", "float64")):
        searched(X)


def test_the_winner_is_a_mixture_of_its_own(blobs):
    """Its parameters do not know the share: it is fitted to all rows that it is given."""
    best = searched(blobs).best_estimator_
    assert isinstance(best, GaussianMixture)
    assert "held_out" not in best.get_params()
