"""Jobs merge the components that overlap, and label rows with the clusters."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from gmm_dask import load, merge_components
from messages import names
from paths import ROOT
from pipeline.config.job import JobConfig
from pipeline.export import Target, export
from pipeline.fit.job import run
from pipeline.progress import Message
from pipeline.report import write_report
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store import open_result

ROWS = pd.read_csv(ROOT / "tests/data/baudry.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two crosses of two components each, and two more clusters, as Parquet; and the result of a job."""
    folder = tmp_path_factory.mktemp("clusters")
    (folder / "rows.parquet").mkdir()
    for i in range(3):
        ROWS[200 * i : 200 * (i + 1)].to_parquet(folder / f"rows.parquet/part-{i}.parquet")
    run(config(folder))
    return folder


def config(folder, **output):
    return JobConfig.model_validate(
        {
            "data": {"source": str(folder / "rows.parquet")},
            "search": {"n_components": [1, 6], "covariance_types": ["full"], "n_init": 3, "init_params": "kmeans"},
            "output": {"store": str(folder / "job.zarr"), "clusters": "merged", "report": False, **output},
        }
    )


def test_crosses_are_clusters(folder):
    result, mixture = open_result(folder / "job.zarr"), load(folder / "job.zarr")
    assert result.best == "full-k6"
    assert sorted(map(len, result.cluster_titles)) == [1, 1, 2, 2]
    assert "make 4 clusters: " in result.clusters_note
    tree = merge_components(mixture, ROWS)
    np.testing.assert_array_equal(tree.merges, result.cluster_tree.merges)
    np.testing.assert_allclose(tree.entropy, result.cluster_tree.entropy, atol=1e-12)
    rows = xr.open_zarr(folder / "job.zarr", group="rows", consolidated=False)
    np.testing.assert_array_equal(rows["cluster"], tree.labels(mixture.predict_proba(ROWS)))
    np.testing.assert_array_equal(rows["label"], mixture.predict(ROWS))
    clusters = xr.open_zarr(folder / "job.zarr", group="clusters", consolidated=False)
    assert clusters["cluster"].values.tolist() == list(result.clusters)


def test_rows_without_a_value_have_no_cluster(folder, tmp_path):
    gaps = ROWS.copy()
    gaps.loc[3, "x"] = np.nan
    gaps.to_parquet(tmp_path / "gaps.parquet")
    settings = ScoreSettings.from_overrides(["data.missing=drop"])
    score(folder / "job.zarr", str(tmp_path / "gaps.parquet"), tmp_path / "scores.parquet", settings=settings)
    found = pd.read_parquet(tmp_path / "scores.parquet")
    assert found["cluster"].dtype == np.int32
    assert found["cluster"][3] == -1
    rows = xr.open_zarr(folder / "job.zarr", group="rows", consolidated=False)
    np.testing.assert_array_equal(found["cluster"].drop(3), np.delete(rows["cluster"].values, 3))


@pytest.mark.parametrize("ending", ["zarr", "parquet"])
def test_another_model_has_labels_without_clusters(folder, tmp_path, ending):
    data, out, events = str(folder / "rows.parquet"), tmp_path / f"scores.{ending}", []
    score(folder / "job.zarr", data, out, model="full-k1", progress=events.append)
    (note,) = [event.detail for event in events if isinstance(event, Message) and event.name == "note"]
    assert re.search(names("output.clusters", "full-k1", "full-k6"), note)
    found = pd.read_parquet(out) if ending == "parquet" else xr.open_zarr(out, group="rows", consolidated=False)
    assert "cluster" not in found
    assert not np.asarray(found["label"]).any()
    assert score(folder / "job.zarr", data, out, model="full-k1").reused


def test_another_model_has_a_report_and_exports_without_clusters(folder, tmp_path):
    page = Path(write_report(folder / "job.zarr", "full-k1")).read_text()
    assert "Components that overlap" not in page
    assert export(folder / "job.zarr", Target.JSON, tmp_path / "one.json", model="full-k1").exists()


def test_one_component_is_one_cluster(folder, tmp_path):
    job = config(folder, store=str(tmp_path / "one.zarr"))
    run(job.model_copy(update={"search": job.search.model_copy(update={"n_components": (1,)})}))
    result = open_result(tmp_path / "one.zarr")
    assert result.clusters == (0,)
    assert result.clusters_note == ""


def test_rows_count_by_their_weights(tmp_path):
    weights = np.where(ROWS["x"] > 4, 3, 1)
    ROWS.assign(times=weights).to_csv(tmp_path / "rows.csv", index=False)
    job = config(tmp_path).model_dump()
    job["data"] = {"source": str(tmp_path / "rows.csv"), "columns": ["x", "y"], "weights": "times"}
    job["search"]["n_components"] = [6]
    run(JobConfig.model_validate(job))
    result, mixture = open_result(tmp_path / "job.zarr"), load(tmp_path / "job.zarr")
    tree = merge_components(mixture, ROWS, sample_weight=weights)
    np.testing.assert_array_equal(tree.merges, result.cluster_tree.merges)
    np.testing.assert_allclose(tree.entropy, result.cluster_tree.entropy, atol=1e-12)
    unweighted = merge_components(mixture, ROWS)
    assert abs(unweighted.entropy[-1] - tree.entropy[-1]) > 1e-3
