"""Rows held out of a job: from every source, with rows dropped and scaled, through a resume, to what it shows."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from rich.console import Console

from gmm_dask import GaussianMixtureSearch, UserError
from gmm_dask.memory import thread_bytes
from gmm_dask.passes.holdout import Holdout
from groups import NAMES, N, three_groups, with_holes, write
from marks import slow
from messages import names
from pipeline.config.job import JobConfig
from pipeline.export import to_json
from pipeline.fit.job import run
from pipeline.fit.plan import data_shape
from pipeline.progress import PassDone
from pipeline.report.contents import read_contents
from pipeline.report.page import render
from pipeline.sources import open_source
from pipeline.store import open_result, read_candidates

SHARE, SEED = 0.25, 1


@pytest.fixture
def rows():
    return three_groups()


@pytest.fixture
def holes(rows):
    return with_holes(rows)


@pytest.fixture
def out():
    return Holdout(SHARE, SEED, (0,)).is_held_out(0, N)


def job(path, source, store="r.zarr", search=None, **data):
    settings = {"n_components": [3], "covariance_types": ["tied", "diag"], "init_params": "kmeans"}
    settings |= {"random_state": SEED, "held_out": SHARE}
    settings |= search or {}
    columns = None if str(source).endswith(".npy") else NAMES
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "columns": columns, "chunk_rows": 50, **data},
            "search": settings,
            "output": {"store": str(path / store), "log_density": True, "report": False},
        }
    )


def log_densities(summary):
    return zarr.open_group(summary.store, mode="r")["rows/log_density"][...]


def winner(summary):
    return summary.table.loc[summary.table["delta"].idxmin()]


# -- the numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *(("csv", "held"), ("npy", "in chunks"), ("parquet", "in chunks"), ("zarr", "held")),
        *slow([("csv", "in chunks"), ("npy", "held"), ("parquet", "held"), ("zarr", "in chunks")]),
    ],
    indirect=["size"],
)
def test_every_source_is_the_search_of_the_array(tmp_path, rows, size, kind, out):
    summary = run(job(tmp_path, write(kind, tmp_path, rows)))
    search = GaussianMixtureSearch([3], ["tied", "diag"], init_params="kmeans", random_state=SEED)
    by_hand = search.fit(rows[~out]).results_
    np.testing.assert_allclose(summary.table["bic"], by_hand["bic"], rtol=1e-9)
    np.testing.assert_array_equal(summary.table["n_iter"], by_hand["n_iter"])
    densities = log_densities(summary)
    assert len(densities) == N
    assert winner(summary)["held_out_log_likelihood"] == pytest.approx(densities[out].mean(), rel=1e-9)
    assert summary.held_out_log_likelihood == winner(summary)["held_out_log_likelihood"]
    assert summary.mean_log_likelihood == pytest.approx(densities[~out].mean(), rel=1e-9)
    store = open_result(summary.store)
    assert (store.n_rows, store.held_out_rows, summary.held_out_rows) == (N - out.sum(), out.sum(), out.sum())


@pytest.mark.parametrize(
    ("kind", "size", "weighted", "scale"),  # each two of these values in one case at least
    [
        ("csv", "held", True, "none"),
        ("csv", "in chunks", False, "standard"),
        ("parquet", "held", False, "none"),
        ("parquet", "in chunks", True, "standard"),
        ("zarr", "held", True, "standard"),
        ("zarr", "in chunks", False, "none"),
    ],
    indirect=["size"],
)
def test_rows_that_are_dropped_are_neither_fitted_nor_held_out(tmp_path, holes, size, kind, weighted, scale, out):
    rows, usable = holes
    weights, options = None, {"missing": "drop", "scale": scale}
    if weighted:
        weights = np.random.default_rng(1).uniform(0.5, 2.0, N)
        weights[200] = np.nan
        usable[200] = False
        options["weights"] = "w"
    summary = run(job(tmp_path, write(kind, tmp_path, rows, weights), **options))
    clean = tmp_path / "clean"
    clean.mkdir()
    fitted = usable & ~out
    source = write(kind, clean, rows[fitted], None if weights is None else weights[fitted])
    by_hand = run(job(clean, source, search={"held_out": 0.0}, **options))
    np.testing.assert_allclose(summary.table["bic"], by_hand.table["bic"], rtol=1e-9)
    densities, chosen = log_densities(summary), usable & out
    np.testing.assert_array_equal(np.isfinite(densities), usable)
    expected = np.average(densities[chosen], weights=None if weights is None else weights[chosen])
    assert winner(summary)["held_out_log_likelihood"] == pytest.approx(expected, rel=1e-9)
    assert open_result(summary.store).held_out_rows == chosen.sum()
    assert open_result(summary.store).data["missing"]["rows"] == N - usable.sum()


def test_no_more_passes_than_without(tmp_path, rows):
    source, search = write("zarr", tmp_path, rows), {"tol": 0.0, "max_iter": 5}
    with_rows, without = (
        run(job(tmp_path, source, f"{share}.zarr", {**search, "held_out": share})) for share in (SHARE, 0.0)
    )
    assert with_rows.passes == without.passes == 8
    assert with_rows.bytes_read == without.bytes_read


class Stop(Exception):
    pass


def stop(event):
    if isinstance(event, PassDone) and event.number == 3:
        raise Stop


@pytest.mark.parametrize(
    ("kind", "size"),
    [("csv", "in chunks"), *slow([("csv", "held"), ("parquet", "in chunks"), ("parquet", "held")])],
    indirect=["size"],
)
def test_going_on(tmp_path, holes, size, kind):
    source = write(kind, tmp_path, holes[0])
    search = {"criterion": "held_out", "tol": 0.0, "max_iter": 6}
    options = {"missing": "drop", "scale": "standard", "search": search}
    whole = run(job(tmp_path, source, "whole.zarr", **options), checkpoint_seconds=0.0)
    config = job(tmp_path, source, **options)
    with pytest.raises(Stop):
        run(config, progress=stop, checkpoint_seconds=0.0)
    unfinished = read_candidates(config.output.store)
    assert unfinished.leader is None
    assert unfinished.table["held_out"].isna().all()
    source.touch()  # so that what is in it is compared
    found = run(config, checkpoint_seconds=0.0)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)


def test_another_share_is_another_job(tmp_path, rows):
    source = write("npy", tmp_path, rows)
    run(job(tmp_path, source))
    with pytest.raises(UserError, match=names("search.held_out", "0.25", "0.5")):
        run(job(tmp_path, source, search={"held_out": 0.5}))


@pytest.mark.parametrize("change", ["fitted", "held out"])
def test_rows_that_changed_are_found(tmp_path, rows, out, change):
    source = write("npy", tmp_path, rows)
    config = job(tmp_path, source)
    with pytest.raises(Stop):
        run(config, progress=stop, checkpoint_seconds=0.0)
    rows[np.flatnonzero(out if change == "held out" else ~out)[0], 2] += 1e-4
    np.save(source, rows)
    parts = ("held out", "changed") if change == "held out" else ("mean", "'x2'")
    with pytest.raises(UserError, match=names(*parts)):
        run(config, checkpoint_seconds=0.0)


def test_a_copy_of_the_rows_is_projected(tmp_path, rows):
    source = write("npy", tmp_path, rows)
    configs = [job(tmp_path, source, search={"held_out": share}) for share in (0.0, SHARE)]
    shapes = [data_shape(config, open_source(config.data)) for config in configs]
    assert thread_bytes(shapes[1]) - thread_bytes(shapes[0]) >= 8 * shapes[1].chunk_rows * 3


# -- the choice, and what is told --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chosen")
    search = {"criterion": "held_out", "n_components": [1, 2, 3, 4], "covariance_types": ["diag", "tied"]}
    return run(job(folder, write("parquet", folder, three_groups()), search=search))


def test_the_criterion_chooses(chosen, out):
    table = chosen.table
    assert chosen.best.endswith("-k3")
    np.testing.assert_allclose(table["held_out"], -2.0 * out.sum() * table["held_out_log_likelihood"], rtol=1e-12)
    np.testing.assert_allclose(table["delta"], table["held_out"] - table["held_out"].min())


def test_xarray_reads_the_criterion_of_candidates_and_starts(chosen):
    criteria = xr.open_zarr(chosen.store, group="criteria", consolidated=False).load()
    assert criteria["held_out"].dims == ("n_components", "covariance_type")
    assert criteria["start_held_out_log_likelihood"].dims == ("n_components", "covariance_type", "start")
    assert criteria["held_out_log_likelihood"].max().item() == chosen.table["held_out_log_likelihood"].max()


def test_the_report_tells_what_was_held_out(chosen, out):
    from pipeline.report import figures, phrases, tables

    report = read_contents(chosen.store)
    lead, held_out, _ = phrases.decision(report)
    assert re.search(names("held-out deviance", "one standard error", "parameters", "BIC"), lead)
    assert any("one standard error" in note for note in chosen.notes)
    assert "std. error" in tables.closest_table(report).head
    assert re.search(names(f"{out.sum()} rows", "held out", f"{abs(chosen.held_out_log_likelihood):.4f}"), held_out)
    drawn = {name: [] for name in ("clusters", "means", "map", "bounds")} | {"choice": figures.draw_choice(report)}
    assert [p.name for p in drawn["choice"]] == ["held_out"]
    assert "eld-out deviance" in drawn["choice"][0].alt
    page = render(report, drawn)
    assert re.search(rf"\b{out.sum()} more rows", page)
    assert "Δheld-out deviance" in page


def test_a_report_by_bic_shows_it_among_the_others(tmp_path, rows):
    from pipeline.report import phrases
    from pipeline.report.tables import closest_table

    report = read_contents(run(job(tmp_path, write("npy", tmp_path, rows))).store)
    assert closest_table(report).head[4:7] == ["AIC", "ICL", "held-out deviance"]
    assert "held-out deviance" in phrases.other_criteria(report) or "Held-out deviance" in phrases.other_criteria(
        report
    )


def test_a_report_without_rows_held_out_does_not_speak_of_them(tmp_path, rows):
    from pipeline.report import phrases
    from pipeline.report.tables import closest_table

    report = read_contents(run(job(tmp_path, write("npy", tmp_path, rows), search={"held_out": 0.0})).store)
    assert report.criteria == ("bic", "aic", "icl")
    said = [*phrases.decision(report), phrases.other_criteria(report), *closest_table(report).head]
    assert "eld-out" not in " ".join(said)


def test_the_terminal_shows_it_within_80_columns(chosen):
    from flows.terminal import candidates_table, winner_line

    console = Console(file=io.StringIO(), width=80)
    console.print(candidates_table(chosen.table, "held_out", chosen.best))
    text = console.file.getvalue()
    assert "…" not in text
    assert f"{chosen.held_out_log_likelihood:.4f}" in text
    assert "held-out deviance" in winner_line(chosen)


def test_the_export_tells_it(chosen):
    result = open_result(chosen.store)
    exported = to_json(result, result.best_model)
    assert exported.criteria.held_out_log_likelihood == chosen.held_out_log_likelihood


# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        ({"held_out": 1.0}, ("less_than", "1.0")),
        ({"held_out": -0.1}, ("greater_than_equal", "-0.1")),
        ({"criterion": "held_out", "held_out": 0.0}, ("above 0", "0.2", "search.criterion")),
    ],
)
def test_shares_that_are_none(tmp_path, search, parts):
    with pytest.raises(ValueError, match=names("search.held_out", *parts)):
        job(tmp_path, "x.npy", search=search)


def test_a_share_that_holds_out_none_is_found_by_pass_0(tmp_path, rows):
    config = job(tmp_path, write("npy", tmp_path, rows), search={"held_out": 1e-9})
    with pytest.raises(UserError, match=names("held_out", "none", "400 rows")):
        run(config)
