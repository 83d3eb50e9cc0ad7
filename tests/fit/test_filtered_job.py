"""Jobs of the rows that a filter leaves: as jobs of a file of these rows."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import pipeline.sources.rows
from gmm_dask.errors import UserError
from messages import names
from pipeline.config.job import JobConfig, load_config
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store import rows_folder

CONDITION = "year == 2026 and depth < 700"


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=1200)
    rows = pd.DataFrame(rng.normal(size=(1200, 2)) + 8 * np.stack([group, group == 1], axis=1), columns=["a", "b"])
    return rows.assign(depth=rng.integers(1000, size=1200), year=np.repeat([2024, 2025, 2026], 400), id=np.arange(1200))


@pytest.fixture(params=["in memory", "in chunks"])
def size(request, monkeypatch):
    if request.param == "in chunks":
        monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)


def write(folder, frame):
    for year, rows in frame.groupby("year"):
        (folder / f"year={year}").mkdir(parents=True)
        rows.drop(columns="year").to_parquet(folder / f"year={year}/a.parquet", index=False, row_group_size=50)
    return str(folder)


def job(folder, source, condition=CONDITION, **output):
    return JobConfig.model_validate(
        {
            "data": {"source": source, "columns": ["a", "b"], "filter": condition, "chunk_rows": 100},
            "search": {"n_components": [2, 3], "covariance_types": ["full", "diag"], "init_params": "kmeans"},
            "output": {"store": str(folder / "job.zarr"), "log_density": True, "report": False, **output},
        }
    )


def rows_of(path):
    return xr.open_zarr(path, group="rows", consolidated=False)


@pytest.mark.parametrize("rows", ["zarr", "parquet"])
def test_a_job_is_that_of_the_rows_that_pass(tmp_path, frame, size, rows):
    left = frame.query(CONDITION)
    left.to_parquet(tmp_path / "left.parquet", index=False)
    output = {"rows": rows, "key_columns": ["id", "year"] if rows == "parquet" else []}
    summary = run(job(tmp_path, write(tmp_path / "data", frame), **output))
    (tmp_path / "left").mkdir()
    by_hand = run(job(tmp_path / "left", str(tmp_path / "left.parquet"), None))
    np.testing.assert_allclose(summary.table["bic"], by_hand.table["bic"], rtol=1e-9)
    assert (summary.n_rows, summary.best) == (len(left), by_hand.best)
    expected = rows_of(by_hand.store)
    if rows == "parquet":
        found = pd.read_parquet(rows_folder(summary.store))
        assert found["id"].tolist() == left["id"].tolist()
        assert set(found["year"]) == {2026}
    else:
        found = rows_of(summary.store)
    np.testing.assert_array_equal(found["label"], expected["label"])
    np.testing.assert_allclose(found["log_density"], expected["log_density"], rtol=1e-9)


def test_scores_take_the_filter_of_the_job(tmp_path, frame, size):
    """Of other rows in the same way; --set data.filter takes another, or none."""
    summary = run(job(tmp_path, write(tmp_path / "data", frame)))
    new = frame.assign(year=2026).sample(frac=1.0, random_state=0)
    new.to_parquet(tmp_path / "new.parquet", index=False, row_group_size=100)
    for condition, chosen in {None: CONDITION, "null": "depth >= 0", "'depth > 100'": "depth > 100"}.items():
        overrides = [] if condition is None else [f"data.filter={condition}"]
        settings = ScoreSettings.from_overrides([*overrides, "output.key_columns=[id]"])
        out = tmp_path / f"{len(chosen)}.parquet"
        found = score(summary.store, str(tmp_path / "new.parquet"), out, settings=settings)
        assert found.rows.n_rows == len(new.query(chosen))
        assert pd.read_parquet(out)["id"].tolist() == new.query(chosen)["id"].tolist()
    with pytest.raises(UserError, match=names("data.filter", "year")):
        score(summary.store, str(tmp_path / "data/year=2026/a.parquet"), tmp_path / "no.zarr")


def test_a_filter_that_no_row_passes(tmp_path, frame, size):
    source = write(tmp_path / "data", frame)
    for condition in ("year == 1999", "depth > 500 and depth < 501"):
        with pytest.raises(UserError, match=names("no rows", "data.filter")):
            run(job(tmp_path, source, condition))


def test_the_first_row_of_each_file_is_counted_after_the_filter(tmp_path, frame, size):
    summary = run(job(tmp_path, write(tmp_path / "data", frame), "depth < 300"))
    found = rows_of(summary.store)
    years = frame.query("depth < 300").groupby("year").size().cumsum().tolist()
    assert found.first_row.values.tolist() == [0, *years[:2]]
    assert len(found.label) == years[2]


def test_validate_says_what_is_left(tmp_path, frame):
    found = estimate_job(job(tmp_path, write(tmp_path / "data", frame)))
    assert any("1 of 3 files" in note and "8 of the 8 row groups" in note for note in found.notes)
    assert found.source.n_rows is None


@pytest.mark.parametrize(("condition", "part"), [("year = 2026", "=="), ("yaer == 2026", "did you mean year?")])
def test_an_error_names_the_line(tmp_path, frame, condition, part):
    text = f"data:\n  source: {write(tmp_path / 'data', frame)}\n  filter: {condition}\n"
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=names("job.yaml:3: data.filter", part)):
        run(load_config(tmp_path / "job.yaml"))


def test_another_filter_is_another_job(tmp_path, frame):
    source = write(tmp_path / "data", frame)
    run(job(tmp_path, source))
    with pytest.raises(UserError, match=names("data.filter", "--fresh")):
        run(job(tmp_path, source, "year == 2025"))
