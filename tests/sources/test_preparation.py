"""Rows that are not usable, and columns that are scaled, from the chunk to the stored result."""

from __future__ import annotations

import re

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.mixture import GaussianMixture as SklearnMixture

from gmm_dask.errors import UserError
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import Rows
from groups import NAMES, N, three_groups, with_holes, write
from marks import slow
from messages import names
from mixtures import random_rows
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import PassDone, StageStarted
from pipeline.sources.preparation import Preparation, column_notes
from pipeline.store import open_result
from pipeline.transforms import Chain
from pipeline.transforms.fitting import scaled_summary
from pipeline.transforms.scale import Scale


@pytest.fixture
def rows():
    return three_groups()


@pytest.fixture
def holes(rows):
    return with_holes(rows)


def job(path, source, store="r.zarr", search=None, **data):
    settings = {"n_components": [2, 3], "init_params": "kmeans", "random_state": 1, "max_iter": 300, **(search or {})}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "columns": NAMES, "chunk_rows": 50, **data},
            "search": settings,
            "output": {"store": str(path / store), "log_density": True, "responsibilities": True, "report": False},
        }
    )


def notes_of(events):
    return [event.detail for event in events if isinstance(event, StageStarted) and event.name == "note"]


def stored(summary, *names):
    group = zarr.open_group(summary.store, mode="r")
    return [group[name][...] for name in names]


# -- a chunk -------------------------------------------------------------------------------------------------


def test_a_chunk_without_unusable_rows_is_not_copied(rows):
    preparation = Preparation(drop=True)
    assert preparation.chunk(rows)[0] is rows


def test_unusable_rows_leave_with_their_weights(holes):
    rows, usable = holes
    weights = np.arange(N, dtype=float)
    weights[100] = np.nan
    usable[100] = False
    found, left = Preparation(drop=True).chunk(rows, weights)
    np.testing.assert_array_equal(found, rows[usable])
    np.testing.assert_array_equal(left, weights[usable])
    assert Preparation().chunk(rows, weights)[0] is rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_rows_keep_their_precision(dtype):
    rows = random_rows(20_000, 2).astype(dtype)
    center, scale = np.array([1e3, -2.0]), np.array([0.5, 7.0])
    found = Chain((Scale(center, scale),)).rows(rows)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, ((rows.astype(float) - center) / scale).astype(dtype))


def test_the_summary_is_scaled_without_a_read(rows):
    found = summarize_rows(Rows(rows), 0)
    scaling = Scale(rows.mean(axis=0), rows.std(axis=0))
    scaled, expected = scaled_summary(found, scaling), summarize_rows(Rows(scaling.rows(rows)), 0)
    for name in ("center", "scatter", "minimum", "maximum", "sample"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(expected, name), rtol=1e-12, atol=1e-11)
    for name, values in scaled.resolution.to_dict().items():
        np.testing.assert_allclose(values, getattr(expected.resolution, name), rtol=1e-9, atol=1e-9)
    assert scaled.log_scale == pytest.approx(np.log(rows.std(axis=0)).sum())
    np.testing.assert_allclose(np.diagonal(scaled.scatter) / N, 1.0)


# -- columns that tell nothing -------------------------------------------------------------------------------


def test_constant_and_dependent_columns_are_named():
    a, b = random_rows(500, 2).T
    columns = {"a": a, "one": np.full(500, 0.1), "b": b, "a2": a, "minus": 3.0 - 2.0 * b, "noisy": a + 1e-4 * b}
    notes = column_notes(summarize_rows(Rows(np.column_stack(list(columns.values()))), 0), list(columns))
    expected = [("'one'", "same value", "0.1"), ("'a2'", "duplicate", "'a'"), ("'minus'", "linear", "'b'")]
    for note, parts in zip(notes, expected, strict=True):
        assert re.search(names(*parts), note)


def test_columns_of_any_unit_and_offset_have_no_notes(rows):
    assert column_notes(summarize_rows(Rows(rows * [1e-9, 1e6, 1.0] + 1e3), 0), NAMES) == []


@pytest.mark.parametrize("fill", [1e20, float(np.float32(1e20)), 9.969209968386869e36, -9999.0, -32768.0, 999.0])
def test_a_fill_value_is_named(fill):
    X = random_rows(600, 2)
    X[5:25, 0] = fill
    (note,) = column_notes(summarize_rows(Rows(X), 0), ["a", "b"])
    assert re.search(names("'a'", f"{fill:.7g}", "3.33%", "fill value", "data.missing: drop"), note)


def test_a_value_among_others_or_of_one_row_is_no_fill_value():
    X = random_rows(600, 2) * 1000.0
    X[5:25, 0] = 999.0
    X[7, 1] = 99999.0
    assert column_notes(summarize_rows(Rows(X), 0), ["a", "b"]) == []


def test_frequent_values_and_copies_are_named():
    X = random_rows(600, 2)
    X[:300, 1] = 0.0
    (note,) = column_notes(summarize_rows(Rows(X), 0), ["a", "b"])
    assert re.search(names("'b'", "value 0", "50%"), note)
    (note,) = column_notes(summarize_rows(Rows(np.repeat(random_rows(300, 2), 2, axis=0)), 0), ["a", "b"])
    assert re.search(names("50%", "copies"), note)


# -- a job with values that are missing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size", "weighted"),
    [
        ("csv", "held", False),
        ("csv", "in chunks", True),
        ("parquet", "held", True),
        ("parquet", "in chunks", False),
        ("zarr", "held", False),
        ("zarr", "in chunks", True),
    ],
    indirect=["size"],
)
def test_missing_rows_are_as_if_they_were_not_there_and_keep_their_places(tmp_path, holes, size, kind, weighted):
    rows, usable = holes
    weights = None
    if weighted:
        weights = np.random.default_rng(1).uniform(0.5, 2.0, N)
        weights[200] = np.nan
        usable[200] = False
    options = {"search": {"n_components": [2], "max_iter": 20}} | ({"weights": "w"} if weighted else {})
    clean = tmp_path / "clean"
    clean.mkdir()
    expected = run(
        job(clean, write(kind, clean, rows[usable], None if weights is None else weights[usable]), **options)
    )
    found = run(job(tmp_path, write(kind, tmp_path, rows, weights), missing="drop", **options))
    assert found.best == expected.best
    np.testing.assert_allclose(found.table["bic"], expected.table["bic"], rtol=1e-10)
    labels, densities, responsibilities = stored(found, "rows/label", "rows/log_density", "rows/responsibility")
    assert len(labels) == N
    np.testing.assert_array_equal(labels >= 0, usable)
    np.testing.assert_array_equal(np.isfinite(densities), usable)
    np.testing.assert_array_equal(np.isfinite(responsibilities).all(axis=1), usable)
    np.testing.assert_array_equal(labels[usable], stored(expected, "rows/label")[0])
    np.testing.assert_allclose(densities[usable], stored(expected, "rows/log_density")[0], rtol=1e-7)
    store = open_result(found.store)
    assert store.data["missing"] == {
        "rows": int(N - usable.sum()),
        "columns": {"height": 51, "width": 2, "depth": 1},
    }
    assert store.n_rows == usable.sum()


def test_missing_rows_are_told(tmp_path, holes):
    rows, _ = holes
    events = []
    run(job(tmp_path, write("csv", tmp_path, rows), missing="drop"), progress=events.append)
    assert any("53 of 400 rows" in note for note in notes_of(events))


def test_missing_rows_are_an_error_that_counts_them(tmp_path, holes):
    config = job(tmp_path, write("parquet", tmp_path, holes[0]))
    counts = ("53 of 400 rows", "51 in column 'height'", "2 in column 'width'", "1 in column 'depth'")
    with pytest.raises(UserError, match=names(config.data.source, *counts, "data.missing: drop")):
        run(config)


def test_a_job_whose_rows_are_all_missing(tmp_path):
    config = job(tmp_path, write("csv", tmp_path, np.full((30, 3), np.nan)), missing="drop")
    with pytest.raises(UserError, match=names("no rows", "usable", 30)):
        run(config)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("kind", "size"),
    [("csv", "in chunks"), *slow([("csv", "held"), ("parquet", "in chunks"), ("parquet", "held")])],
    indirect=["size"],
)
def test_going_on_with_rows_dropped_and_scaled(tmp_path, holes, size, kind):
    source = write(kind, tmp_path, holes[0])
    search = {"covariance_types": ["full", "diag"], "tol": 0.0, "max_iter": 6}
    options = {"missing": "drop", "scale": "standard", "search": search}
    whole = run(job(tmp_path, source, "whole.zarr", **options), checkpoint_seconds=0.0)

    def stop(event):
        if isinstance(event, PassDone) and event.number == 3:
            raise Stop

    config = job(tmp_path, source, **options)
    with pytest.raises(Stop):
        run(config, progress=stop, checkpoint_seconds=0.0)
    found = run(config, checkpoint_seconds=0.0)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    np.testing.assert_array_equal(stored(found, "rows/label"), stored(whole, "rows/label"))


# -- a job with scaled columns -------------------------------------------------------------------------------


def test_a_scaled_job_is_scikit_learns_fit_of_scaled_rows(tmp_path, rows, size):
    search = {"n_components": [3], "tol": 1e-8, "reg_covar": 1e-3}
    summary = run(job(tmp_path, write("zarr", tmp_path, rows), search=search, scale="standard"))
    center, scale = rows.mean(axis=0), rows.std(axis=0)
    theirs = {}
    for kind in ("full", "tied", "diag", "spherical"):
        fit = SklearnMixture(3, covariance_type=kind, tol=1e-8, max_iter=300, reg_covar=1e-3, random_state=1)
        fit.fit((rows - center) / scale)
        theirs[kind] = fit.bic((rows - center) / scale) + 2 * N * np.log(scale).sum()
    ours = summary.table.set_index("covariance_type")["bic"]
    np.testing.assert_allclose([ours[kind] for kind in theirs], list(theirs.values()), rtol=1e-9)
    model = f"models/{summary.best}"
    found = stored(summary, f"{model}/center", f"{model}/scale", f"{model}/means", f"{model}/means_unscaled")
    np.testing.assert_allclose(found[0], center)
    np.testing.assert_allclose(found[1], scale)
    np.testing.assert_allclose(found[2] * scale + center, found[3])
    density = stored(summary, "rows/log_density")[0]
    assert density.mean() == pytest.approx(summary.mean_log_likelihood, rel=1e-12)


def test_the_units_of_the_columns_do_not_matter_when_they_are_scaled(tmp_path, rows):
    found = {}
    for name, factor in (("metres", 1.0), ("millimetres", 1000.0)):
        folder = tmp_path / name
        folder.mkdir()
        found[name] = run(job(folder, write("csv", folder, rows * factor), scale="standard"))
    (a, a_labels), (b, b_labels) = ((each.table, *stored(each, "rows/label")) for each in found.values())
    np.testing.assert_allclose(b["bic"] - a["bic"], 2 * N * 3 * np.log(1000.0), rtol=1e-9)
    np.testing.assert_array_equal(a_labels, b_labels)


@pytest.mark.parametrize("scale", ["none", "standard"])
def test_constant_columns_are_an_error_only_where_they_are_scaled(tmp_path, rows, scale):
    rows[:, 1] = 7.5
    config = job(tmp_path, write("csv", tmp_path, rows), scale=scale)
    events = []
    if scale == "standard":
        with pytest.raises(UserError, match=names("data.scale", "'width'", "same value", "data.columns")):
            run(config, progress=events.append)
    else:
        (note,) = open_result(run(config, progress=events.append).store).data["notes"]
        assert re.search(names("'width'", "7.5"), note)
    assert any(re.search(names("'width'", "7.5"), note) for note in notes_of(events))


def test_leading_values_while_a_scaled_job_runs_are_in_the_users_units(tmp_path, rows):
    events = []
    config = job(tmp_path, write("csv", tmp_path, rows), scale="standard")
    summary = run(config, progress=events.append)
    last = [event for event in events if isinstance(event, PassDone)][-1]
    assert last.value == pytest.approx(summary.table["bic"].min(), rel=1e-5)


def test_columns_that_are_left_out_are_told_and_stored(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=NAMES).assign(name="x", when=pd.Timestamp("2013-01-01"))
    frame.to_parquet(tmp_path / "a.parquet")
    config = job(tmp_path, tmp_path / "a.parquet", columns=None)
    notes = open_result(run(config).store).data["notes"]
    assert any(re.search(names("name (", "when (timestamp"), note) for note in notes)


def test_the_sample_of_a_dask_array_with_unknown_chunks():
    known = da.from_array(random_rows(100, 2), chunks=(30, 2))
    unknown = da.Array(known.dask, known.name, chunks=((np.nan,) * 4, (2,)), dtype=known.dtype)
    np.testing.assert_array_equal(summarize_rows(Rows(unknown), 0).sample, known.compute())
