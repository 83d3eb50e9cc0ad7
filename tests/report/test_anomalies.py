"""How likely rows are, as the report shows it: the distribution of log densities, and the least likely rows."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from gmm_dask.plotting.feature_pairs import Components
from messages import names
from pages import Cells
from pipeline.fit import job as stages
from pipeline.report import write_report
from pipeline.report.anomalies import UNUSUAL_HEAD, log_densities, read_anomalies
from pipeline.report.contents import read_contents
from pipeline.store import open_result
from pipeline.store.rows.unlikely import least_likely_rows
from reports import job, rows_of

ODD = 123  # the row that lies far from the others


def store_of(folder, **output):
    rows = rows_of(2)
    rows[ODD] = [40.0, -40.0]
    search = {"n_components": [3], "covariance_types": ["spherical"], "init_params": "auto"}
    data = {"columns": ["x0", "x1"]} if output.get("key_columns") else {}
    frame = np.column_stack([rows, np.arange(len(rows)) + 1000.0])
    columns = ["x0", "x1", "id"]
    config = job(folder, frame if data else rows, columns if data else columns[:2], data, search, output)
    return stages.run(config).store


def test_log_densities_are_those_of_the_mixture():
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(3, 4, 4))
    covariances = halves @ halves.transpose(0, 2, 1) + np.eye(4)
    weights, means, rows = np.array([0.5, 0.3, 0.2]), rng.normal(size=(3, 4)), rng.normal(size=(50, 4))
    expected = np.log(
        sum(w * multivariate_normal(m, c).pdf(rows) for w, m, c in zip(weights, means, covariances, strict=True))
    )
    found = log_densities(Components(weights, means, covariances, ("a", "b", "c", "d")), rows)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_least_likely_rows_are_shown_by_their_positions(tmp_path):
    store = store_of(tmp_path, report=False, log_density=True, anomaly_quantile=0.01)
    report = read_contents(store)
    shown = read_anomalies(report)
    first = [cell.text for cell in shown.least.rows[0]]
    assert first[0] == str(ODD)
    assert re.search("x0 40.*above|x1 .40.*below", first[3])  # the sample is all rows
    histogram = shown.histogram
    assert histogram.threshold == pytest.approx(report.rows.anomaly_threshold)
    low, high = histogram.ends
    assert low + histogram.threshold_part * (high - low) == pytest.approx(histogram.threshold)
    assert histogram.below == 1  # the odd one
    page = Path(write_report(store)).read_text()
    assert re.search(r'<rect [^>]*class="marked"', page)
    (table,) = [table for table in Cells(page).tables if table[0][0] == "row"]
    assert [row[0] for row in table[1:]] == [row[0].text for row in shown.least.rows]
    assert len(table) == 11


@pytest.mark.parametrize("kind", ["zarr", "parquet"])
def test_the_lowest_of_all_stored_rows_are_found(tmp_path, kind, monkeypatch):
    keys = ["id"] if kind == "parquet" else []
    store = store_of(tmp_path, report=False, log_density=True, rows=kind, key_columns=keys)
    monkeypatch.setattr("pipeline.store.rows.unlikely.BLOCK_ROWS", 70)
    found = least_likely_rows(store, 5, keys if keys else None)
    report = read_contents(store)
    frame = pd.read_parquet(tmp_path / "rows.parquet")
    expected = log_densities(report.components, frame[["x0", "x1"]].to_numpy())
    assert [row.position for row in found] == np.argsort(expected)[:5].tolist()
    np.testing.assert_allclose([row.log_density for row in found], np.sort(expected)[:5], rtol=1e-9)
    assert [row.keys for row in found] == [{"id": 1000.0 + row.position} if keys else {} for row in found]
    labels = {row.position: row.label for row in found}
    numbers = report.model.numbers
    sample = open_result(store).sample
    assert labels == {position: numbers[sample.label[position]] for position in labels}


def test_without_stored_densities_the_sample_is_shown_with_what_is_unusual(tmp_path):
    shown = read_anomalies(read_contents(store_of(tmp_path, report=False)))
    assert shown.least.head == ["log density", "component", UNUSUAL_HEAD]
    assert re.search("x0 40.*above|x1 .40.*below", shown.least.rows[0][2].text)
    assert re.search(names("sampled", "output.log_density"), shown.least.note)


def test_densities_that_are_too_many_to_be_read_are_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.report.anomalies.MOST_READ", 10)
    shown = read_anomalies(read_contents(store_of(tmp_path, report=False, log_density=True)))
    assert re.search("sampled", shown.least.note)
    assert "output.log_density" not in shown.least.note
