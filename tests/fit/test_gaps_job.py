"""A job whose rows have gaps and take part: from every kind of source, through a resume, to scores and exports."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import zarr

import gmm_dask
from gaps import with_gaps
from gmm_dask import GaussianMixtureSearch
from gmm_dask.families.candidate import Candidate
from gmm_dask.memory import model_bytes, thread_bytes
from groups import NAMES, N, three_groups, write
from marks import slow
from pipeline.config.job import JobConfig
from pipeline.export import Target
from pipeline.export import exported as exported_bytes
from pipeline.fit.job import run
from pipeline.fit.plan import data_shape
from pipeline.fit.profile import profile_job
from pipeline.fit.refresh import refresh
from pipeline.report.page import write_report
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.sources import open_source
from pipeline.store import open_result
from runs import Stop, everything_in, stop_at

OUTPUTS = {"log_density": True, "responsibilities": True, "anomaly_quantile": 0.01, "report": False}


@pytest.fixture(scope="module")
def gappy():
    rows = with_gaps(three_groups(), 0.3)
    rows[:3] = rows[60:120] = np.nan  # a whole chunk without any value
    return rows


def job(path, source, store="r.zarr", search=None, cluster=None, output=None, **data):
    settings = {"n_components": [2, 3], "covariance_types": ["full", "tied"], "init_params": "kmeans"}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "columns": NAMES, "chunk_rows": 50, "missing": "likelihood", **data},
            "search": settings | (search or {}),
            "cluster": cluster or {},
            "output": {"store": str(path / store), **OUTPUTS, **(output or {})},
        }
    )


@pytest.mark.parametrize(
    ("kind", "size", "weighted"),
    [("csv", "in chunks", True), ("parquet", "held", False), *slow([("zarr", "in chunks", False)])],
    indirect=["size"],
)
def test_a_job_is_the_search_of_the_array(tmp_path, gappy, kind, size, weighted):
    weights = np.random.RandomState(1).uniform(0.5, 2, N) if weighted else None
    options = {"weights": "w"} if weighted else {}
    summary = run(job(tmp_path, write(kind, tmp_path, gappy, weights), **options))
    valued = np.isfinite(gappy).any(axis=1)
    search = GaussianMixtureSearch([2, 3], ["full", "tied"], init_params="kmeans", missing="likelihood", random_state=0)
    search.fit(gappy[valued], sample_weight=None if weights is None else weights[valued])
    np.testing.assert_allclose(summary.table["bic"], search.results_["bic"], rtol=1e-9)
    best = gmm_dask.load(summary.store)
    assert best.missing == "likelihood"
    found = zarr.open_group(summary.store, mode="r")["rows"]
    frame = pd.DataFrame(gappy, columns=NAMES)
    expected = best.predict(frame).to_numpy()
    np.testing.assert_array_equal(found["label"][...][valued], expected[valued])
    assert set(found["label"][...][~valued]) == {-1}
    np.testing.assert_allclose(found["log_density"][...], best.score_samples(frame), rtol=1e-9)
    np.testing.assert_allclose(found["responsibility"][...], best.predict_proba(frame), atol=1e-9)
    counts = np.isnan(gappy).sum(axis=0).tolist()
    missing = {"rows": int((~valued).sum()), "columns": dict(zip(NAMES, counts, strict=True))}
    assert open_result(summary.store).data["missing"] == {
        **missing,
        "incomplete": int((np.isnan(gappy).any(axis=1) & valued).sum()),
    }


def test_without_a_gap_every_bit_is_as_with_the_default(tmp_path, unheld):
    source = write("parquet", tmp_path, three_groups())
    stores = [
        run(job(tmp_path, source, f"{missing}.zarr", missing=missing)).store for missing in ("error", "likelihood")
    ]
    one, other = map(everything_in, stores)
    assert one[0] == other[0]


def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bits(tmp_path, gappy, unheld):
    source = write("parquet", tmp_path, gappy)
    search = {"held_out": 0.2, "accelerate": True}
    whole, parts = (job(tmp_path, source, f"{name}.zarr", search) for name in ("whole", "parts"))
    run(whole, checkpoint_seconds=0.0)
    for number in (1, 3, 5):
        with pytest.raises(Stop):
            run(parts, progress=stop_at(number), checkpoint_seconds=0.0)
    run(parts, checkpoint_seconds=0.0)
    assert everything_in(parts.output.store) == everything_in(whole.output.store)


def test_infinite_values_are_missing(tmp_path, gappy, unheld):
    infinite = np.where(np.isnan(gappy), np.where(np.arange(N)[:, None] % 2, np.inf, -np.inf), gappy)
    stores = []
    for name, rows in {"nan": gappy, "infinite": infinite}.items():
        (tmp_path / name).mkdir()
        config = job(
            tmp_path, write("npy", tmp_path / name, rows), f"{name}.zarr", columns=None, output={"report": True}
        )
        stores.append(run(config).store)
    one, other = ({**everything_in(store)[0], "rows/file": None} for store in stores)
    assert one == other


@pytest.mark.slow
def test_workers_end_with_the_bits_of_threads(tmp_path, gappy, unheld):
    source = write("parquet", tmp_path, gappy)
    workers = {"kind": "local", "workers": 2, "threads_per_worker": 1}
    stores = [run(job(tmp_path, source, f"{i}.zarr", cluster=c)).store for i, c in enumerate([{}, workers])]
    one, other = map(everything_in, stores)
    assert one[0] == other[0]


def test_what_follows_a_job_knows_gaps(tmp_path, gappy):
    source = write("parquet", tmp_path, gappy)
    summary = run(job(tmp_path, source))
    write_report(summary.store)
    page = (tmp_path / "r.zarr-report/index.html").read_text()
    assert "rows with gaps" in page
    assert "Missing: the share of the rows" in page
    scored = score(summary.store, str(source), tmp_path / "scores.zarr")
    assert not scored.drift
    labels = [zarr.open_group(path, mode="r")["rows/label"][...] for path in (summary.store, tmp_path / "scores.zarr")]
    np.testing.assert_array_equal(*labels)
    exported = json.loads(exported_bytes(summary.store, Target.JSON))
    np.testing.assert_allclose(exported["means"], gmm_dask.load(summary.store).means_)
    profile = profile_job(job(tmp_path, source))
    assert [column.missing for column in profile.columns] == np.isnan(gappy).sum(axis=0).tolist()


def test_complete_models_label_rows_with_gaps_if_they_are_told_to(tmp_path, gappy):
    source = write("parquet", tmp_path, three_groups())
    summary = run(job(tmp_path, source, missing="error"))
    (tmp_path / "new").mkdir()
    new = write("parquet", tmp_path / "new", gappy)
    told = ScoreSettings.from_overrides(["data.missing=likelihood"])
    score(summary.store, str(new), tmp_path / "scores.zarr", settings=told)
    best = gmm_dask.load(summary.store).set_params(missing="likelihood")
    frame = pd.DataFrame(gappy, columns=NAMES)
    found = zarr.open_group(tmp_path / "scores.zarr", mode="r")["rows"]
    np.testing.assert_allclose(found["log_density"][...], best.score_samples(frame), rtol=1e-9)


def test_a_refresh_keeps_the_winner(tmp_path, gappy):
    template = {"store": f"{tmp_path}/{{started:%Y-%m-%dT%H%M%S%f}}.zarr"}
    source = write("parquet", tmp_path, gappy)
    first = refresh(job(tmp_path, source, output=template))
    rows = with_gaps(three_groups() + 1e-3, 0.2, seed=9)
    second = refresh(job(tmp_path, write("parquet", tmp_path, rows), output=template))
    assert not second.decision.searched, second.decision.reason
    assert second.summary.best == first.summary.best


@pytest.mark.parametrize(
    ("search", "data", "key"),
    [
        ({"resamples": 20}, {}, "search"),
        ({"inference": "variational"}, {}, "search"),
        ({"noise": True}, {}, "search"),
        ({}, {"transform": [{"pca": {"n_components": 2}}]}, "transform"),
    ],
)
def test_what_does_not_go_with_gaps_is_refused_by_name(tmp_path, search, data, key):
    with pytest.raises(ValueError, match=rf"(?s){key}.*data\.missing is likelihood"):
        job(tmp_path, "rows.parquet", search=search, **data)


def test_memory_counts_what_gaps_take(tmp_path, gappy):
    source = write("parquet", tmp_path, gappy)
    shapes = [
        data_shape(config, open_source(config.data))
        for config in (job(tmp_path, source, missing="drop"), job(tmp_path, source))
    ]
    assert thread_bytes(shapes[1]) >= thread_bytes(shapes[0]) + 2 * shapes[0].chunk_bytes
    # of tied covariances the sums of incomplete rows have the quadratic terms, too
    assert model_bytes(Candidate("tied", 3), 8, gaps=True) == 8 * 3 * (9 + 45)
