"""A stored model over new rows: the same answers whatever holds them, and a word when they are unlike the fit's."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pyarrow import parquet
from typer.testing import CliRunner

from flows import cli
from flows.documents.scores import ScoreDocument
from gaps import with_gaps
from gmm_dask.errors import UserError
from messages import names
from peaks import peak_of
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.load import load
from pipeline.progress import ChunksDone, StageStarted
from pipeline.score.new_rows import score
from pipeline.score.reference import make_reference
from pipeline.score.settings import ScoreSettings
from pipeline.store import open_result, read_scores, read_summary
from pipeline.synth import Plan, write_synthetic

COLUMNS = ["a", "b", "c"]
runner = CliRunner(env={"COLUMNS": "200"})


def some_rows(n_rows, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0, 0.0], [6.0, 1.0, -2.0], [-3.0, 5.0, 1.0]])
    return np.round(centres[rng.choice(3, n_rows, p=[0.5, 0.3, 0.2])] + rng.normal(size=(n_rows, 3)), 4) + shift


def fit(
    folder, scale="none", columns=COLUMNS, n_components=(3,), covariance_type="full", rows=None, data=None, **output
):
    """A store fitted to 2000 rows, with log densities and anomalies."""
    frame = pd.DataFrame(some_rows(2000, 0) if rows is None else rows, columns=columns)
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "fit.csv", index=False)
    output = {"log_density": True, "responsibilities": True, "anomaly_quantile": 0.01, "report": False, **output}
    config = JobConfig.model_validate(
        {
            "data": {"source": str(folder / "fit.csv"), "scale": scale, **(data or {})},
            "search": {
                "n_components": list(n_components),
                "covariance_types": [covariance_type],
                "init_params": "kmeans",
            },
            "output": {"store": str(folder / "model.zarr"), **output},
        }
    )
    return run(config).store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("fit"))


def rows_of(out):
    return xr.open_zarr(out, group="rows", consolidated=False).load()


def labels_of(out):
    """Labels of scores in either format."""
    return (pd.read_parquet(out) if out.suffix == ".parquet" else rows_of(out))["label"].to_numpy()


def write_new(tmp_path, kind, rows, columns=("c", "a", "b")):
    """New rows, the columns in another order, with others between them."""
    frame = pd.DataFrame(rows, columns=COLUMNS)[list(columns)]
    frame.insert(1, "other", "text" if kind != "zarr" else 7.0)
    path = str(tmp_path / f"new.{kind}")
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.assign(id=np.arange(len(frame)) * 10).to_parquet(path, index=False, row_group_size=70)
    else:
        group = zarr.create_group(path)
        for name in frame:
            group.create_array(name, data=frame[name].to_numpy(), chunks=(64,))
    return path


# -- the same answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "out"), [("csv", "out.zarr"), ("parquet", "out.zarr"), ("zarr", "out.zarr"), ("parquet", "out.parquet")]
)
def test_the_rows_of_the_fit_have_the_answers_of_the_fit(tmp_path, store, unheld, kind, out):
    data, out = write_new(tmp_path, kind, some_rows(2000, 0)), str(tmp_path / out)
    events = []
    summary = score(
        store, data, out, settings=ScoreSettings.from_overrides(["data.chunk_rows=128"]), progress=events.append
    )
    expected = rows_of(store)
    if out.endswith("parquet"):
        frame = parquet.read_table(out).to_pandas()
        found = {name: frame[name] for name in ("label", "log_density", "anomaly")}
        found["responsibility"] = frame[[f"responsibility_{k}" for k in range(3)]]
    else:
        found = rows_of(out)
        assert read_scores(out).status == "complete"
        assert read_scores(out).summary["n_rows"] == 2000
    np.testing.assert_array_equal(found["label"], expected["label"])
    np.testing.assert_allclose(found["log_density"], expected["log_density"], rtol=1e-12)
    np.testing.assert_allclose(found["responsibility"], expected["responsibility"], atol=1e-12)
    # the threshold is for rows that the fit has not seen: of its own, fewer lie below
    marked = np.asarray(found["anomaly"])
    assert not (marked & ~expected["anomaly"].values).any()
    assert (summary.rows.n_rows, summary.rows.unusable, summary.threshold_of_fit) == (2000, 0, True)
    assert summary.rows.anomalies == np.count_nonzero(marked) > 10
    assert summary.mean_log_density == pytest.approx(summary.fit_mean_log_density, rel=1e-9)
    assert summary.rows.label_shares == pytest.approx([one.fit_share for one in summary.components], abs=1e-12)
    assert not summary.drift
    told = [event for event in events if isinstance(event, ChunksDone)]
    assert told[-1].done == told[-1].total > 10


def test_a_scaled_model_answers_in_the_users_units(tmp_path, store, unheld):
    scaled = fit(tmp_path / "scaled", scale="standard")
    data = write_new(tmp_path, "parquet", some_rows(500, 1))
    summary = score(scaled, data, tmp_path / "a.zarr")
    plain = score(store, data, tmp_path / "b.zarr")
    a, b = rows_of(tmp_path / "a.zarr"), rows_of(tmp_path / "b.zarr")
    np.testing.assert_array_equal(a["label"], b["label"])
    np.testing.assert_allclose(a["log_density"], b["log_density"], atol=0.05)  # another scale stops elsewhere
    assert summary.mean_log_density == pytest.approx(plain.mean_log_density, abs=0.01)
    # to the bit what the job itself says of its rows
    again = score(scaled, write_new(tmp_path, "csv", some_rows(2000, 0)), tmp_path / "c.zarr")
    np.testing.assert_allclose(rows_of(tmp_path / "c.zarr")["log_density"], rows_of(scaled)["log_density"], rtol=1e-12)
    assert not again.drift


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_that_are_not_usable(tmp_path, store, unheld, kind):
    rows = some_rows(300, 1)
    rows[[3, 170], [0, 2]] = np.nan
    data = write_new(tmp_path, kind, rows)
    with pytest.raises(UserError, match=names("NaN or infinity in 2 of", "1 in 'a'", "1 in 'c'", "row 3", "=drop")):
        score(store, data, tmp_path / "out.zarr")
    with pytest.raises(UserError, match=names("out.zarr", "not complete")):
        read_scores(tmp_path / "out.zarr")
    summary = score(store, data, tmp_path / "out.zarr", settings=ScoreSettings.from_overrides(["data.missing=drop"]))
    found = rows_of(tmp_path / "out.zarr")
    assert np.flatnonzero(found["label"] == -1).tolist() == [3, 170]
    assert (summary.rows.n_rows, summary.rows.unusable) == (300, 2)
    assert sum(summary.rows.label_shares) == pytest.approx(1.0)


def test_rows_that_are_infinitely_far(tmp_path, store):
    """Their squares overflow: they have no density, and are anomalies, and nothing else is disturbed."""
    rows = some_rows(300, 1)
    rows[5] = 1e200
    data, out = write_new(tmp_path, "parquet", rows), tmp_path / "out.zarr"
    summary = score(store, data, out)
    found = rows_of(out)
    assert found["log_density"][5] == -np.inf
    assert found["anomaly"][5]
    assert 0 <= found["label"][5] < 3
    assert np.isfinite(found["log_density"].values[np.arange(300) != 5]).all()
    assert summary.mean_log_density == -np.inf
    assert "float64" in summary.drift[0]
    assert len(summary.drift) == 1


def test_another_quantile_takes_its_threshold_from_the_new_rows(tmp_path, store):
    data = write_new(tmp_path, "parquet", some_rows(400, 1, shift=3.0))
    of_fit = score(store, data, tmp_path / "a.zarr")
    own = score(
        store, data, tmp_path / "b.zarr", settings=ScoreSettings.from_overrides(["output.anomaly_quantile=0.05"])
    )
    assert (of_fit.threshold_of_fit, own.threshold_of_fit) == (True, False)
    assert of_fit.rows.anomalies > 100
    assert own.rows.anomalies == 20
    thresholds = [read_summary(path)["anomaly_threshold"] for path in (tmp_path / "a.zarr", store)]
    assert thresholds[0] < thresholds[1] < thresholds[0] + 0.5


def test_key_columns_of_new_rows(tmp_path, store):
    data = write_new(tmp_path, "parquet", some_rows(300, 1))
    score(
        store,
        data,
        tmp_path / "out.parquet",
        settings=ScoreSettings.from_overrides(["output.key_columns=[id]", "output.responsibilities=false"]),
    )
    frame = parquet.read_table(tmp_path / "out.parquet").to_pandas()
    assert list(frame) == ["id", "label", "log_density", "anomaly"]
    assert frame["id"].tolist() == list(range(0, 3000, 10))


# -- columns -----------------------------------------------------------------------------------------------------


def test_columns_that_are_lacking_are_all_named(tmp_path, store):
    pd.DataFrame(some_rows(9, 1), columns=["x", "b", "z"]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(UserError, match=names("new.csv", "2 of", "3 features", "a, c", "--columns", "a, b, c")):
        score(store, str(tmp_path / "new.csv"), tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_columns_by_other_names(tmp_path, store):
    rows = some_rows(200, 1)
    np.save(tmp_path / "new.npy", rows[:, [2, 0, 1]])
    with pytest.raises(UserError, match=names("new.npy", "3 of", "3 features", "--columns")):
        score(store, str(tmp_path / "new.npy"), tmp_path / "a.zarr")
    score(store, str(tmp_path / "new.npy"), tmp_path / "a.zarr", columns=["x1", "x2", "x0"])
    score(store, write_new(tmp_path, "csv", rows), tmp_path / "b.zarr")
    a, b = rows_of(tmp_path / "a.zarr"), rows_of(tmp_path / "b.zarr")
    np.testing.assert_allclose(a["log_density"], b["log_density"], rtol=1e-12)
    with pytest.raises(UserError, match=names("--columns", "3 names", "a, b, c", "x0, x1")):
        score(store, str(tmp_path / "new.npy"), tmp_path / "c.zarr", columns=["x0", "x1"])


def test_a_column_that_is_no_number_is_refused_by_name(tmp_path, store):
    frame = pd.DataFrame(some_rows(9, 1), columns=COLUMNS).assign(b="text")
    frame.to_parquet(tmp_path / "new.parquet")
    with pytest.raises(UserError, match=names("'b'", "new.parquet", "numeric")):
        score(store, str(tmp_path / "new.parquet"), tmp_path / "out.zarr")


@pytest.mark.parametrize(
    "override", ["search.tol=1", "data.columns=[a]", "data.scale=none", "output.store=x", "name=x"]
)
def test_what_the_model_fixes_cannot_be_set(tmp_path, store, override):
    with pytest.raises(UserError, match=names("--set", override.split("=")[0])):
        score(store, "new.csv", tmp_path / "out.zarr", settings=ScoreSettings.from_overrides([override]))


def test_values_that_are_wrong_are_explained(tmp_path, store):
    with pytest.raises(UserError, match=names("scores", "data.missing", "'error'", "'drop'", "'maybe'")):
        score(store, "new.csv", tmp_path / "out.zarr", settings=ScoreSettings.from_overrides(["data.missing=maybe"]))


def test_the_filter_of_the_job_is_named_where_new_rows_lack_its_column(tmp_path):
    frame = pd.DataFrame(some_rows(600, 0), columns=COLUMNS).assign(year=np.repeat([2025, 2026], 300))
    frame.to_parquet(tmp_path / "fit.parquet")
    values = {
        "data": {"source": str(tmp_path / "fit.parquet"), "columns": COLUMNS, "filter": "year == 2026"},
        "search": {"n_components": [2], "covariance_types": ["full"], "init_params": "kmeans"},
        "output": {"store": str(tmp_path / "model.zarr"), "report": False},
    }
    model = run(JobConfig.model_validate(values)).store
    new = str(tmp_path / "new.parquet")
    frame.drop(columns="year").to_parquet(new)
    with pytest.raises(UserError, match=names("'year'", "of the job", "--set data.filter=null")):
        score(model, new, tmp_path / "s.zarr")
    settings = ScoreSettings.from_overrides(["data.filter=null"])
    assert score(model, new, tmp_path / "s.zarr", settings=settings).rows.n_rows == 600


def test_chunks_of_new_rows_that_are_not_stored(tmp_path, store):
    """They are lost, unless the job, or the command, says that they are fill values; only Zarr has such chunks."""
    rows = zarr.create_group(tmp_path / "new.zarr")
    for name, values in zip(COLUMNS, some_rows(600, 1).T, strict=True):
        rows.create_array(name, data=values, chunks=200, fill_value=0.5)
    (tmp_path / "new.zarr/a/c/1").unlink()
    new, out = str(tmp_path / "new.zarr"), tmp_path / "s.zarr"
    with pytest.raises(UserError, match=names("a/c/1", "data.missing_chunks")):
        score(store, new, out, fresh=True)
    fill = ScoreSettings.from_overrides(["data.missing_chunks=fill"])
    filled = score(store, new, out, settings=fill, fresh=True)
    assert filled.rows.n_rows == 600
    with pytest.raises(UserError, match=names("data.missing_chunks", "fit.csv", "Zarr")):
        score(store, str(Path(store).with_name("fit.csv")), tmp_path / "t.zarr", settings=fill)

    values = {
        "data": {"source": new, "missing_chunks": "fill"},
        "search": {"n_components": [2], "covariance_types": ["full"], "init_params": "kmeans"},
        "output": {"store": str(tmp_path / "model.zarr"), "report": False},
    }
    model = run(JobConfig.model_validate(values)).store
    labels = rows_of(model)["label"]
    assert rows_of(score(model, new, tmp_path / "u.zarr").out)["label"].equals(labels)
    rows = pd.DataFrame({name: np.nan_to_num(zarr.open(new)[name][:]) for name in COLUMNS})
    rows.to_parquet(tmp_path / "new.parquet")
    assert rows_of(score(model, str(tmp_path / "new.parquet"), tmp_path / "v.zarr").out)["label"].equals(labels)


# -- stopped, again, other ---------------------------------------------------------------------------------------


class Stop(BaseException):
    """Ends a command as a signal would."""


def stop(event):
    if isinstance(event, ChunksDone) and event.done >= 3:
        raise Stop


@pytest.mark.parametrize("out", ["out.zarr", "out.parquet"])
def test_what_a_killed_run_could_not_tell_is_told_by_the_next(tmp_path, store, unheld, out):
    data, out = write_new(tmp_path, "parquet", some_rows(500, 3) + 1.0), str(tmp_path / out)
    settings = ScoreSettings.from_overrides([f"output.metrics={tmp_path}/prom"])
    told = []

    def killed(summary):
        assert summary.drift
        raise Stop

    with pytest.raises(Stop):
        score(store, data, out, settings=settings, tell=killed)
    (metrics,) = (tmp_path / "prom").iterdir()
    summary = score(store, data, out, settings=settings, tell=told.append)
    metrics.unlink()
    again = score(store, data, out, settings=settings, tell=told.append)
    assert metrics.exists()
    assert [one.reused for one in told] == [False, True] == [summary.reused, again.reused]
    assert told[0].drift == told[1].drift == summary.drift


@pytest.mark.parametrize("out", ["out.zarr", "out.parquet"])
def test_scores_go_on_where_they_were_stopped(tmp_path, store, unheld, out):
    data, out = write_new(tmp_path, "parquet", some_rows(1000, 1)), tmp_path / out
    settings = {"settings": ScoreSettings.from_overrides(["data.chunk_rows=70"])}
    with dask.config.set(num_workers=1), pytest.raises(Stop):
        score(store, data, out, progress=stop, **settings)
    if out.suffix == ".zarr":
        with pytest.raises(UserError, match=names("not complete", "gmm-dask score")):
            read_scores(out)
    else:
        assert not out.exists()
    events = []
    first = score(store, data, out, progress=events.append, **settings)
    told = [event for event in events if isinstance(event, ChunksDone)]
    assert 0 < len(told) < told[-1].total
    (detail,) = [event.detail for event in events if isinstance(event, StageStarted) and event.name == "write rows"]
    assert f"{told[-1].total - len(told)} of {told[-1].total}" in detail
    again = score(store, data, out, **settings)
    assert again.reused
    assert again.rows == first.rows
    whole = tmp_path / f"whole{out.suffix}"
    assert score(store, data, whole, **settings).mean_log_density == first.mean_log_density
    leftovers = {path.name for path in tmp_path.iterdir()} - {"new.parquet", out.name, whole.name}
    assert leftovers == {f"{out.name}.lock", f"{whole.name}.lock"}


@pytest.mark.parametrize(("kind", "out"), [("parquet", "out.parquet"), ("parquet", "out.zarr"), ("zarr", "out.zarr")])
def test_rows_that_change_while_they_are_scored(tmp_path, store, unheld, kind, out):
    """No scores are complete that are of some rows before and some after."""
    data, changed, out = write_new(tmp_path, kind, some_rows(300, 1)), [], tmp_path / out

    def meddle(event):
        if isinstance(event, ChunksDone) and event.done == 3 and not changed:
            changed.append(shutil.rmtree(data) if kind == "zarr" else None)
            write_new(tmp_path, kind, some_rows(300, 2))

    settings = {"settings": ScoreSettings.from_overrides(["data.chunk_rows=70"])}
    with dask.config.set(num_workers=1), pytest.raises(UserError, match=names(data, "changed")):
        score(store, data, out, progress=meddle, **settings)
    assert not score(store, data, out, **settings).reused
    truth = score(store, data, tmp_path / "truth.zarr", **settings)
    np.testing.assert_array_equal(labels_of(out), labels_of(Path(truth.out)))


@pytest.mark.parametrize("out", ["out.zarr", "out.parquet"])
def test_other_scores_are_replaced_only_when_asked(tmp_path, store, out):
    (tmp_path / "one").mkdir()
    first, second = (write_new(folder, "parquet", some_rows(50, 1)) for folder in (tmp_path, tmp_path / "one"))
    score(store, first, tmp_path / out)
    with pytest.raises(UserError, match="--fresh"):
        score(store, second, tmp_path / out)
    assert not score(store, second, tmp_path / out, fresh=True).reused


@pytest.mark.parametrize("out", ["out.zarr", "out.parquet"])
def test_scores_stay_until_others_are_complete(tmp_path, store, unheld, out):
    (tmp_path / "one").mkdir()
    first = write_new(tmp_path, "parquet", some_rows(1000, 1))
    second = write_new(tmp_path / "one", "parquet", some_rows(700, 2))
    settings = {"settings": ScoreSettings.from_overrides(["data.chunk_rows=70"])}
    score(store, first, tmp_path / out, **settings)
    before = labels_of(tmp_path / out)
    with dask.config.set(num_workers=1), pytest.raises(Stop):
        score(store, second, tmp_path / out, fresh=True, progress=stop, **settings)
    np.testing.assert_array_equal(labels_of(tmp_path / out), before)
    events = []
    score(store, second, tmp_path / out, progress=events.append, **settings)  # resumes what --fresh began
    assert any("resuming after" in str(getattr(event, "detail", "")) for event in events)
    assert len(labels_of(tmp_path / out)) == 700
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith((".fresh", ".unfinished", ".removed"))]


@pytest.mark.parametrize("out", ["out.zarr", "out.parquet"])
def test_something_else_is_never_touched(tmp_path, store, out):
    data = write_new(tmp_path, "parquet", some_rows(50, 1))
    (tmp_path / out).mkdir()
    (tmp_path / out / "precious.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(UserError, match=names(tmp_path / out, "another path")):
            score(store, data, tmp_path / out, fresh=fresh)
    assert (tmp_path / out / "precious.txt").read_text() == "mine"


def test_an_unfinished_store_is_no_model(tmp_path):
    class StopFit(BaseException):
        pass

    def watch(event):
        if isinstance(event, StageStarted) and event.name == "select":
            raise StopFit

    frame = pd.DataFrame(some_rows(100, 0), columns=COLUMNS)
    frame.to_csv(tmp_path / "fit.csv", index=False)
    config = JobConfig.model_validate(
        {
            "data": {"source": str(tmp_path / "fit.csv")},
            "search": {"n_components": [2], "covariance_types": ["diag"], "init_params": "kmeans"},
            "output": {"store": str(tmp_path / "r.zarr")},
        }
    )
    with pytest.raises(StopFit):
        run(config, progress=watch)
    with pytest.raises(UserError, match=names(config.output.store, "not complete")):
        score(config.output.store, str(tmp_path / "fit.csv"), tmp_path / "out.zarr")


def test_a_link_that_is_set_to_another_store_meanwhile_changes_nothing(tmp_path, store):
    link, new = tmp_path / "latest.zarr", tmp_path / "new.zarr"
    shutil.copytree(store, new)
    link.symlink_to(store)

    def swap(event):
        if isinstance(event, StageStarted) and event.name == "open":  # the model has been read
            link.unlink()
            link.symlink_to(new)

    data = write_new(tmp_path, "csv", some_rows(50, 1))
    out = score(link, data, tmp_path / "out.zarr", progress=swap).out
    assert link.resolve() == new
    assert read_scores(out).model["store"] == str(Path(store).resolve())


def test_a_little_memory_is_refused_with_the_remedy(tmp_path, store):
    data = write_new(tmp_path, "parquet", some_rows(50, 1))
    with pytest.raises(UserError, match=names("100 MiB", "--set cluster.memory_limit")):
        score(
            store, data, tmp_path / "out.zarr", settings=ScoreSettings.from_overrides(["cluster.memory_limit=100MiB"])
        )
    assert not (tmp_path / "out.zarr").exists()


# -- drift -------------------------------------------------------------------------------------------------------


def test_new_rows_of_the_same_kind_do_not_drift(tmp_path, store):
    for seed in range(1, 4):
        data = write_new(tmp_path, "parquet", some_rows(500, seed))
        found = score(store, data, tmp_path / f"{seed}.zarr")
        assert not found.drift
        assert not any(component.moved for component in found.components)
        assert 0.0 < found.gain < 3.0 * found.chance_gain


def test_a_component_that_has_moved_is_named_in_the_users_units(tmp_path, unheld):
    """Scaled for the fit: a third of the rows moves by 0.8 sd in one column, and is wider in another."""
    scaled = fit(tmp_path / "scaled", scale="standard")
    rows = some_rows(3000, 7)
    near = rows[:, 0] > 3.0
    rows[near] += [0.8, 0.0, 0.0]
    rows[near, 2] = -2.0 + 1.5 * (rows[near, 2] + 2.0)
    summary = score(scaled, write_new(tmp_path, "csv", rows), tmp_path / "out.zarr")
    (k,) = [k for k, one in enumerate(summary.components) if {"mean", "scatter"} <= set(one.moved)]
    moved = summary.components[k]
    assert moved.fit_mean == pytest.approx((6.0, 1.0, -2.0), abs=0.2)
    assert moved.mean == pytest.approx((6.8, 1.0, -2.0), abs=0.2)
    assert moved.deviation == pytest.approx((1.0, 1.0, 1.5), abs=0.15)
    line = next(line for line in summary.drift if line.startswith(f"component {k}"))
    assert re.search(names("mean", "a", "shape", "c"), line)
    assert summary.gain > 5 * summary.chance_gain
    stored = read_scores(tmp_path / "out.zarr").summary
    assert stored["components"][k]["moved"] == list(moved.moved)
    assert stored["drift"] == list(summary.drift)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_a_mean_that_has_moved_is_no_change_of_shape(tmp_path, covariance_type):
    """Sums for diagonal covariances tell of no correlation, and what lies beside the fit is no outlier yet."""
    rows = some_rows(3000, 7) + np.array([0.9, 0.7, 0.0])
    store = fit(tmp_path / "fit", covariance_type=covariance_type)
    summary = score(store, write_new(tmp_path, "csv", rows), tmp_path / "out.zarr")
    assert all("mean" in one.moved for one in summary.components)
    for one in summary.components:
        assert one.deviation == pytest.approx((1.0, 1.0, 1.0), abs=0.15)
    assert "correlation" not in " ".join(summary.drift)


def test_the_share_of_outliers_is_told(tmp_path, store):
    rows = np.concatenate([some_rows(3000, 7), some_rows(1000, 8, shift=40.0)])
    summary = score(store, write_new(tmp_path, "csv", rows), tmp_path / "out.zarr")
    (line,) = [line for line in summary.drift if "of the others" in line]
    assert float(line.split("%")[0]) == pytest.approx(25.0, abs=0.3)


def test_shares_that_have_changed(tmp_path, store):
    rows = some_rows(4000, 3)
    summary = score(store, write_new(tmp_path, "csv", rows[400:][rows[400:, 1] < 3.5]), tmp_path / "out.zarr")
    assert all("share" in one.moved for one in summary.components)
    assert any(re.search(names("share", "in the fit"), line) for line in summary.drift)


def test_without_rows_in_the_store_the_weights_stand_for_the_shares(tmp_path):
    bare = fit(tmp_path / "bare", labels=False, log_density=False, responsibilities=False, anomaly_quantile=None)
    data = write_new(tmp_path, "parquet", some_rows(2000, 0))
    with pytest.raises(UserError, match=names("output.labels=true")):
        score(bare, data, tmp_path / "out.zarr")
    summary = score(bare, data, tmp_path / "out.zarr", settings=ScoreSettings.from_overrides(["output.labels=true"]))
    assert summary.rows.label_shares == pytest.approx([one.fit_share for one in summary.components], abs=0.01)
    assert summary.rows.anomalies is None
    assert not summary.drift


# -- another model than the chosen one ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """A store of full-k3, which won, and of full-k2."""
    return fit(tmp_path_factory.mktemp("two"), n_components=[2, 3])


def test_another_model_labels_rows_and_is_compared_with_the_fit(tmp_path, two_models):
    rows, out = some_rows(2000, 0), tmp_path / "out.zarr"
    summary = score(two_models, write_new(tmp_path, "csv", rows), out, model="full-k2")
    assert summary.model == read_scores(out).model["name"] == "full-k2"
    expected = load(two_models, "full-k2")
    frame = pd.DataFrame(rows, columns=COLUMNS)
    found = rows_of(out)
    np.testing.assert_array_equal(found["label"], expected.predict(frame))
    np.testing.assert_allclose(found["log_density"], expected.score_samples(frame), rtol=1e-9)
    # the sample of a small store is all rows of the fit
    assert summary.fit_sample is None
    assert summary.rows.label_shares == pytest.approx([one.fit_share for one in summary.components], abs=1e-12)
    assert summary.mean_log_density == pytest.approx(summary.fit_mean_log_density, rel=1e-9)
    assert not summary.drift
    # anomalies are those of the fit's quantile, without the rows that took part in the fit
    assert summary.threshold_of_fit
    assert summary.rows.anomaly_quantile == 0.01
    assert 10 <= summary.rows.anomalies <= 20


def test_drift_from_another_model_is_found(tmp_path, two_models):
    data = write_new(tmp_path, "csv", some_rows(2000, 1, shift=[1.0, 0.0, 0.0]))
    summary = score(two_models, data, tmp_path / "out.zarr", model="full-k2")
    assert summary.drift
    assert len(summary.components) == 2


def test_a_sample_that_stands_for_the_rows_of_the_fit_is_told(two_models):
    result = open_result(two_models)
    rows = result.sample.rows[::4]
    known = make_reference(result.best_model, rows, result.n_rows, result.row_summary)
    assert known.n_sampled is None
    reference = make_reference(result.model("full-k2"), rows, result.n_rows, quantile=0.01)
    assert (reference.n_sampled, reference.n_labels) == (500, 500)
    density = load(two_models, "full-k2").score_samples(pd.DataFrame(result.sample.rows, columns=COLUMNS))
    assert reference.mean == pytest.approx(density.mean(), abs=0.1)
    assert np.mean(density < reference.threshold) == pytest.approx(0.01, abs=0.01)


def test_the_scores_of_two_models_are_not_taken_for_each_other(tmp_path, two_models):
    data, out = write_new(tmp_path, "csv", some_rows(50, 3)), tmp_path / "out.zarr"
    score(two_models, data, out, model="full-k2")
    assert score(two_models, data, out, model="full-k2").reused
    with pytest.raises(UserError, match=names(out, "another model", "--fresh")):
        score(two_models, data, out)
    with pytest.raises(UserError, match=names("'tied-k2'", "full-k2", "full-k3")):
        score(two_models, data, tmp_path / "other.zarr", model="tied-k2")


# -- rows with gaps ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[[], [{"arcsinh": {"cofactor": 2.0}}]], ids=["plain", "arcsinh"])
def gappy_store(tmp_path_factory, request):
    """A store fitted to rows of which 30 % of the values are missing."""
    rows, data = with_gaps(some_rows(4000, 0), 0.3), {"missing": "likelihood", "transform": request.param}
    return fit(tmp_path_factory.mktemp("gappy"), rows=rows, data=data)


@pytest.mark.parametrize("share", [0.3, 0.0, 0.6])
def test_rows_with_other_gaps_have_not_drifted(tmp_path, gappy_store, share):
    rows = with_gaps(some_rows(4000, 1), share, seed=1)
    summary = score(gappy_store, write_new(tmp_path, "csv", rows), tmp_path / "out.zarr")
    assert not summary.drift
    changed = {one.column: (one.share, one.fit_share) for one in summary.missing}
    assert set(changed) == (set(summary.columns) if share != 0.3 else set())
    present = np.isfinite(rows).any(axis=1)
    for name, column in zip(summary.columns, rows[present].T, strict=True):
        if name in changed:
            assert changed[name] == pytest.approx((np.isnan(column).mean(), 0.29), abs=0.03)


@pytest.mark.parametrize("share", [0.3, 0.0, 0.6])
def test_drift_is_found_behind_other_gaps(tmp_path, gappy_store, share):
    rows = with_gaps(some_rows(4000, 1, shift=[0.0, 0.5, 0.0]), share, seed=1)
    summary = score(gappy_store, write_new(tmp_path, "csv", rows), tmp_path / "out.zarr")
    assert any(
        "all rows have moved within their components: b by +0." in line.replace("arcsinh(b)", "b")
        for line in summary.drift
    )


def test_gaps_in_new_rows_alone_are_no_drift(tmp_path, store):
    rows = with_gaps(some_rows(4000, 1), 0.4)
    told = ScoreSettings.from_overrides(["data.missing=likelihood"])
    data = write_new(tmp_path, "csv", rows)
    summary = score(store, data, tmp_path / "out.zarr", settings=told)
    assert not summary.drift
    assert {(one.column, one.fit_share) for one in summary.missing} == {("a", 0.0), ("b", 0.0), ("c", 0.0)}
    again = ScoreDocument.of(score(store, data, tmp_path / "out.zarr", settings=told))
    assert again.reused
    assert [one.column for one in again.missing] == ["a", "b", "c"]


def test_how_gaps_are_filled_does_not_depend_on_chunks(tmp_path, gappy_store):
    rows = with_gaps(some_rows(1500, 1), 0.5, seed=1)
    rows[100:400] = np.nan
    data = write_new(tmp_path, "csv", rows)
    one, other = (
        score(
            gappy_store, data, tmp_path / f"{n}.zarr", settings=ScoreSettings.from_overrides([f"data.chunk_rows={n}"])
        )
        for n in (77, 1500)
    )
    np.testing.assert_allclose([c.mean for c in one.components], [c.mean for c in other.components], rtol=1e-9)
    assert one.gain == pytest.approx(other.gain, rel=1e-6)


# -- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_the_comparison_and_warns(tmp_path, store):
    data = write_new(tmp_path, "csv", some_rows(600, 1, shift=[8.0, 0.0, 0.0]))
    result = runner.invoke(cli.app, ["score", store, data, "-o", str(tmp_path / "out.zarr")])
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "component share here in the fit difference moved" in text
    assert re.search(r"one M-step .* gains \d+\.\d{4} per row", text)
    assert re.search(r"\b600 rows.* full-k3", text)
    assert re.search(r"mean log density -\d+\.\d{4} .*-\d\.\d{4} in the fit", text)
    assert re.search(r"anomalies: \d+ .*quantile 0\.01 .*the fit", text)
    assert "drift: " in text
    assert f"scores: {tmp_path}/out.zarr" in text
    assert "write rows: label, log_density, responsibility, anomaly" in result.stderr


def test_the_command_takes_another_model(tmp_path, two_models):
    data, out = write_new(tmp_path, "csv", some_rows(600, 0)), str(tmp_path / "out.zarr")
    result = runner.invoke(cli.app, ["score", two_models, data, "-o", out, "--model", "full-k2"])
    assert result.exit_code == 0, result.stderr
    assert re.search(r"\b600 rows.* full-k2", result.stdout)
    result = runner.invoke(cli.app, ["score", two_models, data, "-o", out, "--model", "full-k9"])
    assert result.exit_code == 2
    assert re.match(names("'full-k9'", "full-k2", "full-k3"), result.stderr)


def test_the_command_fails_in_a_paragraph(tmp_path, store):
    result = runner.invoke(cli.app, ["score", store, "nowhere.csv", "-o", str(tmp_path / "out.zarr")])
    assert result.exit_code == 2
    assert "nowhere.csv" in result.stderr
    result = runner.invoke(cli.app, ["score", str(tmp_path / "no.zarr"), "nowhere.csv", "-o", str(tmp_path / "o.zarr")])
    assert result.exit_code == 2
    assert f"{tmp_path}/no.zarr" in result.stderr
    assert "gmm-dask run" in result.stderr
    assert not Path(tmp_path / "out.zarr").exists()
    assert open_result(store).is_complete


# -- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["zarr", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path, kind):
    write_synthetic(tmp_path / f"few.{kind}", Plan(1_000_000, 8, 3))
    write_synthetic(tmp_path / f"many.{kind}", Plan(6_000_000, 8, 3))
    output = {"store": str(tmp_path / "model.zarr"), "anomaly_quantile": 0.001, "responsibilities": True}
    config = JobConfig.model_validate(
        {
            "data": {"source": str(tmp_path / f"few.{kind}")},
            "search": {"n_components": [3], "covariance_types": ["full"], "init_params": "kmeans", "max_iter": 3},
            "output": {**output, "report": False},
        }
    )
    run(config)
    peaks = []
    for name in ("few", "many"):
        arguments = [
            "score",
            output["store"],
            str(tmp_path / f"{name}.{kind}"),
            "-o",
            str(tmp_path / f"{name}-out.{kind}"),
        ]
        # a quantile of its own: the sketch is merged over all chunks
        peaks.append(peak_of(*arguments, "--set", "output.anomaly_quantile=0.01") >> 20)
    print(f"{kind}: {peaks} MiB")
    assert peaks[1] < 1024
    assert peaks[1] - peaks[0] < 120  # of 500 MB more rows and answers


# -- weights -----------------------------------------------------------------------------------------------------


def fit_weighted(tmp_path, **output):
    """A store fitted to rows near zero that count a tenth, and rows far off that count nine times; and the data."""
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(900, 3)), rng.normal(size=(100, 3)) * 3.0 + 20.0
    frame = pd.DataFrame(np.vstack([near, far]), columns=COLUMNS).assign(w=[0.1] * 900 + [9.1] * 100)
    data = str(tmp_path / "weighted.parquet")
    frame.to_parquet(data, index=False)
    values = {
        "data": {"source": data, "columns": COLUMNS, "weights": "w"},
        "search": {"n_components": [2], "covariance_types": ["full"], "init_params": "auto"},
        "output": {"store": str(tmp_path / "weighted.zarr"), "report": False, **output},
    }
    return run(JobConfig.model_validate(values)).store, data


def test_the_rows_of_a_weighted_fit_have_not_drifted(tmp_path):
    """Each row counts once in what is compared: new rows may have no weights."""
    store, data = fit_weighted(tmp_path, log_density=True)
    summary = score(store, data, tmp_path / "out.zarr")
    assert not summary.drift
    assert summary.mean_log_density == pytest.approx(summary.fit_mean_log_density, rel=1e-9)
    assert summary.rows.label_shares == pytest.approx((0.9, 0.1)[:: 1 if summary.rows.label_shares[0] > 0.5 else -1])


def test_a_weighted_fit_without_rows_is_compared_by_its_sample(tmp_path):
    store, data = fit_weighted(tmp_path, labels=False)
    summary = score(store, data, tmp_path / "out.zarr", settings=ScoreSettings.from_overrides(["output.labels=true"]))
    assert not summary.drift
    assert sorted([one.fit_share for one in summary.components]) == pytest.approx([0.1, 0.9])
