"""The flights of New York in 2013, once as CSV, once as Parquet and once as Zarr."""

from __future__ import annotations

import runpy

import numpy as np
import pandas as pd
import pytest
import zarr

import pipeline.sources.rows
from gmm_dask.passes.data_summary import sample_limit
from paths import ROOT
from pipeline.config.job import load_config
from pipeline.fit.job import run
from pipeline.sources import open_source
from pipeline.store import open_result

KINDS = ("csv", "parquet", "zarr")
MISSING = {"dep_delay": 8255, "arr_delay": 9430, "air_time": 9430}
N_ROWS = 336_776


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """The folder with the three, and which rows are whole."""
    script = runpy.run_path(str(ROOT / "configs/data/write_flights.py"))
    folder = tmp_path_factory.mktemp("flights")
    script["write_flights"](folder)
    whole = pd.read_csv(folder / "flights.csv").notna().all(axis=1).to_numpy()
    assert (len(whole), whole.sum()) == (N_ROWS, N_ROWS - 9430)
    assert whole.sum() > sample_limit(4)  # the starts are made from some of the rows
    return folder, whole


def job(folder, kind, *overrides):
    return load_config(
        ROOT / "configs/flights.yaml",
        [
            f"data.source={folder}/flights.{kind}",
            f"output.store={folder}/{kind}.zarr",
            "search.n_components=[2, 4]",
            "search.covariance_types=[full]",
            "search.max_iter=15",
            "output.report=false",
            "output.anomaly_quantile=null",
            *overrides,
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("held", [True, False], ids=["held in memory", "read in chunks"])
def test_all_three_have_one_winner_and_the_same_criteria(flights, monkeypatch, held):
    folder, whole = flights
    if not held:
        monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    found = {kind: run(job(folder, kind, "data.chunk_rows=60000"), fresh=True) for kind in KINDS}
    assert len({open_source(job(folder, kind).data).array.numblocks for kind in KINDS}) > 1 or held
    assert len({summary.best for summary in found.values()}) == 1
    first = found["csv"].table
    for kind in KINDS:
        np.testing.assert_allclose(found[kind].table["bic"], first["bic"], rtol=1e-9)
        store = open_result(found[kind].store)
        assert store.data["missing"] == {"rows": 9430, "columns": MISSING}
        assert store.n_rows == whole.sum()
        label = zarr.open_array(f"{found[kind].store}/rows/label", mode="r")[...]
        assert label.shape == (N_ROWS,)
        np.testing.assert_array_equal(label >= 0, whole)
        np.testing.assert_array_equal(label, zarr.open_array(f"{found['csv'].store}/rows/label", mode="r")[...])
