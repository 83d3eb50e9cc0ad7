"""Resamples of a job: the numbers of a search's, in any chunks, through a stop at each pass, to what is shown."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from flows.documents import ResultDocument
from flows.terminal import candidates_table
from gmm_dask import GaussianMixtureSearch, UserError
from gmm_dask import search as search_module
from gmm_dask.families.candidate import Candidate
from gmm_dask.memory import Machine, Resamples, Shape
from gmm_dask.selection.stability import STABILITY_NUMBERS
from groups import NAMES, three_groups, with_holes, write
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.progress import PassDone, StageStarted
from pipeline.report import tables
from pipeline.report.contents import read_contents
from pipeline.sources import rows as source_rows
from pipeline.store import open_result
from runs import Stop, everything_in

SEED, N_RESAMPLES = 1, 4
NUMBERS = list(STABILITY_NUMBERS)


@pytest.fixture
def chunked(monkeypatch):
    """Rows are read chunk by chunk, however few they are."""
    monkeypatch.setattr(source_rows, "IN_MEMORY_BYTES", 0)


def job(path, source, store="r.zarr", search=None, **data):
    settings = {"n_components": [2, 3], "covariance_types": ["full", "diag"], "init_params": "kmeans"}
    settings |= {"random_state": SEED, "resamples": N_RESAMPLES, "tol": 1e-4, **(search or {})}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "columns": NAMES, "chunk_rows": 50, **data},
            "search": settings,
            "output": {"store": str(path / store), "report": False},
        }
    )


def assert_same_stores(one, other):
    """The same bits in all arrays, and the same attributes but for what names the store itself."""
    (arrays, attributes), (others, other_attributes) = map(everything_in, (one, other))
    assert arrays == others
    assert attributes == other_attributes


def searched(X, monkeypatch, weights=None, **settings):
    """The search with the seed of the job."""
    monkeypatch.setattr(search_module, "sample_seed", lambda random_state: random_state)
    settings = {"init_params": "kmeans", "tol": 1e-4, "random_state": SEED, "resamples": N_RESAMPLES, **settings}
    return GaussianMixtureSearch([2, 3], ("full", "diag"), **settings).fit(X, sample_weight=weights)


@pytest.mark.parametrize("kind", ["plain", "weights", "held out, dropped"])
@pytest.mark.parametrize("size", ["memory", "chunks"])
def test_the_numbers_of_a_search(kind, size, tmp_path, monkeypatch, request):
    if size == "chunks":
        request.getfixturevalue("chunked")
    X, usable = with_holes(three_groups())
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(X)) if kind == "weights" else None
    if kind == "held out, dropped":
        # a search knows no rows that are dropped: rows of weight 0 stand for them
        source, data = write("parquet", tmp_path, X), {"missing": "drop"}
        settings = {"held_out": 0.25, "criterion": "held_out"}
        filled, of_rows = np.where(usable[:, None], X, 0.0), usable.astype(np.float64)
    else:
        source, data, settings = (
            write("parquet", tmp_path, X[usable], None if weights is None else weights[usable]),
            {},
            {},
        )
        data = {} if weights is None else {"weights": "w"}
        filled, of_rows = X[usable], None if weights is None else weights[usable]
    summary = run(job(tmp_path, source, search=settings, **data))
    search = searched(filled, monkeypatch, of_rows, **settings)
    np.testing.assert_allclose(summary.table[["refits", "wins"]], search.results_[["refits", "wins"]])
    np.testing.assert_allclose(summary.table["stability"], search.results_["stability"], atol=0.02)
    np.testing.assert_allclose(summary.table["delta_error"], search.results_["delta_error"], rtol=1e-3, atol=1e-3)
    order = np.argsort(-search.best_estimator_.weights_)
    np.testing.assert_allclose(summary.errors.weights, search.weights_error_[order], rtol=1e-3)
    np.testing.assert_allclose(summary.errors.means, search.means_error_[order], rtol=1e-3)


def test_errors_of_scaled_columns_are_in_their_units(tmp_path):
    source = write("parquet", tmp_path, three_groups())
    search = {"reg_covar": 0.0, "covariance_types": "diag"}
    plain, scaled = (run(job(tmp_path, source, f"{scale}.zarr", search, scale=scale)) for scale in ("none", "standard"))
    np.testing.assert_allclose(scaled.errors.means, plain.errors.means, rtol=1e-4)
    np.testing.assert_allclose(scaled.table[NUMBERS], plain.table[NUMBERS], rtol=1e-4, atol=1e-4)


def test_stops_resume_to_the_same_bits(tmp_path, chunked):
    source = write("parquet", tmp_path, three_groups())
    events = []
    run(job(tmp_path, source, "whole.zarr"), progress=events.append, checkpoint_seconds=0.0)
    begun = next(i for i, e in enumerate(events) if isinstance(e, StageStarted) and e.name == "resample")
    passes = [event.number for event in events[begun:] if isinstance(event, PassDone)]
    passes = [passes[0], passes[len(passes) // 2], passes[-1]]
    assert len(set(passes)) == 3
    config, stops = job(tmp_path, source, "stopped.zarr"), []

    def stop(event):
        if isinstance(event, PassDone) and event.number in passes and event.number not in stops:
            stops.append(event.number)
            raise Stop

    for _ in passes:
        with pytest.raises(Stop):
            run(config, progress=stop, checkpoint_seconds=0.0)
    run(config, progress=stop, checkpoint_seconds=0.0)
    assert stops == passes
    assert_same_stores(tmp_path / "whole.zarr", tmp_path / "stopped.zarr")


def test_a_stop_after_the_resamples_resumes_to_the_same_bits(tmp_path, chunked):
    source = write("parquet", tmp_path, three_groups())
    run(job(tmp_path, source, "whole.zarr"))

    def stop(event):
        if isinstance(event, StageStarted) and event.name == "write rows":
            raise Stop

    with pytest.raises(Stop):
        run(job(tmp_path, source, "stopped.zarr"), progress=stop)
    run(job(tmp_path, source, "stopped.zarr"))
    assert_same_stores(tmp_path / "whole.zarr", tmp_path / "stopped.zarr")


def test_what_is_shown(tmp_path):
    summary = run(job(tmp_path, write("parquet", tmp_path, three_groups())))
    console = Console(file=io.StringIO(), width=80)
    console.print(candidates_table(summary.table, "bic", summary.best))
    assert {"stable", "wins"} <= set(console.file.getvalue().split())
    assert "resamples" in " ".join(summary.notes)
    document = ResultDocument.of(open_result(summary.store))
    best = next(one for one in document.candidates if one.name == summary.best)
    assert (best.refits, best.delta_error) == (N_RESAMPLES, 0.0)
    assert best.stability == summary.row()["stability"]
    assert sum(one.wins for one in document.candidates) == pytest.approx(1.0)
    assert document.weights_error == summary.errors.weights.tolist()
    report = read_contents(summary.store)
    closest = tables.closest_table(report)
    assert {"Δ error", "stable", "wins"} <= set(closest.head)
    assert f"In {N_RESAMPLES} resamples" in closest.note
    weight = tables.components_table(report).rows[0][1].text
    assert weight == f"{summary.weights[0]:.1%} ± {summary.errors.weights[0]:.1%}"
    found = xr.open_zarr(summary.store, group="resamples", consolidated=False)
    assert found["stability"].dims == ("n_components", "covariance_type")
    model = xr.open_zarr(summary.store, group=f"resamples/{summary.best}", consolidated=False)
    assert model["means_error"].dims == ("component", "feature")


def test_without_resamples(tmp_path):
    summary = run(job(tmp_path, write("parquet", tmp_path, three_groups()), search={"resamples": 0}))
    assert summary.errors is None
    assert not set(NUMBERS) & set(summary.table)
    document = ResultDocument.of(open_result(summary.store))
    assert (document.candidates[0].refits, document.candidates[0].wins, document.weights_error) == (0, None, [])
    report = read_contents(summary.store)
    assert "stable" not in tables.closest_table(report).head
    assert "±" not in tables.components_table(report).rows[0][1].text


def test_the_extended_grid_is_resampled_too(tmp_path):
    search = {"n_components": [2], "extend": True}
    summary = run(job(tmp_path, write("parquet", tmp_path, three_groups()), search=search))
    assert summary.row()["n_components"] == 3
    assert (summary.table["refits"] == N_RESAMPLES).all()


# -- memory --------------------------------------------------------------------------------------------------------


def test_waves_of_refits():
    shape = Shape(n_features=20, n_chunks=10, chunk_rows=100, copies_rows=True)
    candidates = [Candidate("full", 5), Candidate("diag", 5)]
    found, fits = Resamples(tuple(candidates), 1, 50), candidates * 50
    room = found.projected_bytes(shape, Machine(1, 0), fits, [100])
    assert found.plan_waves(shape, Machine(1, room), fits) == (100,)
    waves = found.plan_waves(shape, Machine(1, room - (1 << 20)), fits)
    assert len(waves) > 1
    assert sum(waves) == 100
    assert found.projected_bytes(shape, Machine(1, 0), fits, waves) <= room - (1 << 20)
    with pytest.raises(UserError, match=names("50 resamples", "search.resamples", "memory")):
        found.plan_waves(shape, Machine(1, 100 << 20), fits)


def test_resamples_are_projected(tmp_path):
    source = write("parquet", tmp_path, three_groups())
    few, many = (estimate_job(job(tmp_path, source, search={"resamples": n})).plan for n in (0, 10_000))
    assert few.refits is None
    assert many.refits.waves == (40_000,)
    assert many.memory_bytes > few.memory_bytes


def test_waves_give_the_same_numbers(tmp_path, chunked, monkeypatch):
    source = write("parquet", tmp_path, three_groups())
    whole = run(job(tmp_path, source, "whole.zarr"))
    monkeypatch.setattr(Resamples, "plan_waves", lambda self, shape, machine, fits: (5, len(fits) - 5))
    cut = run(job(tmp_path, source, "cut.zarr"))
    np.testing.assert_allclose(cut.table[NUMBERS], whole.table[NUMBERS], rtol=1e-9, atol=1e-9)
    assert cut.passes > whole.passes
