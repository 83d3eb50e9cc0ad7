"""What a job writes about each row: right, in the order of the data, from one read, through kills and full disks."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from pyarrow import parquet
from rich.console import Console
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import pipeline.sources.base
import pipeline.sources.rows
from flows import cli
from flows.progress import LiveLine, describe
from gmm_dask import UserError
from gmm_dask.errors import FaultError
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import ChunksDone, StageStarted
from pipeline.store import open_result, read_summary, rows_folder

COLUMNS = ["a", "b", "c"]


def some_rows(n_rows=1000, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0, 0.0], [6.0, 1.0, -2.0], [-3.0, 5.0, 1.0]])
    return np.round(centres[rng.choice(3, n_rows, p=[0.5, 0.3, 0.2])] + rng.normal(size=(n_rows, 3)), 4)


def write_data(tmp_path, rows, kind, chunk=100):
    """Rows as a file of a kind, with an ``id`` where it has names; returns its path."""
    path, frame = str(tmp_path / f"data.{kind}"), pd.DataFrame(rows, columns=COLUMNS)
    if kind == "zarr":
        zarr.create_array(path, data=rows, chunks=(chunk, 3), overwrite=True)
    elif kind == "npy":
        np.save(path, rows)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        table = pa.Table.from_pandas(frame.assign(id=[f"row {i}" for i in range(len(frame))]), preserve_index=False)
        cut = len(rows) // 3
        Path(path).mkdir()
        for number, part in enumerate((table.slice(0, cut), table.slice(cut))):  # files that end where no chunk would
            parquet.write_table(part, f"{path}/{number}.parquet", row_group_size=chunk - 30)
    return path


def job(tmp_path, source, data=None, output=None, **search):
    columns = {} if source.endswith(("zarr", "npy")) else {"columns": COLUMNS}
    return JobConfig.model_validate(
        {
            "data": {"source": source, "chunk_rows": 100, **columns, **(data or {})},
            "search": {
                "n_components": [3],
                "covariance_types": ["full"],
                "init_params": "kmeans",
                "max_iter": 8,
                **search,
            },
            "output": {"store": str(tmp_path / "result.zarr"), "report": False, **(output or {})},
        }
    )


EVERYTHING = {"labels": True, "log_density": True, "responsibilities": True, "anomaly_quantile": 0.01}


def rows_of(store):
    return xr.open_zarr(store, group="rows", consolidated=False).load()


def as_sklearn(store, name):
    """The stored model by scikit-learn, in the user's units."""
    kind, parameters = open_result(store).model(name).in_units
    mixture = SklearnMixture(len(parameters.weights), covariance_type=kind)
    mixture.weights_, mixture.means_ = parameters.weights, parameters.means
    mixture.covariances_, mixture.precisions_cholesky_ = parameters.covariances, parameters.precisions_cholesky
    return mixture


def assert_right(found, mixture, rows):
    np.testing.assert_array_equal(found["label"], mixture.predict(rows))
    np.testing.assert_allclose(found["log_density"], mixture.score_samples(rows), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["responsibility"], mixture.predict_proba(rows), rtol=0, atol=1e-9)


# -- right, from one read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zarr", "npy", "csv", "parquet"])
def test_answers_of_all_kinds_of_data(tmp_path, unheld, kind):
    rows = some_rows()
    summary = run(job(tmp_path, write_data(tmp_path, rows, kind), output=EVERYTHING))
    found = rows_of(summary.store)
    assert_right(found, as_sklearn(summary.store, "full-k3"), rows)
    totals = read_summary(summary.store)
    assert (totals["n_rows"], totals["usable"], totals["unusable"]) == (1000, 1000, 0)
    assert totals["label_counts"] == np.bincount(found["label"]).tolist()
    assert totals["mean_log_density"] == pytest.approx(found["log_density"].mean().item(), rel=1e-12)
    assert totals["mean_log_density"] == pytest.approx(summary.mean_log_likelihood, rel=1e-9)
    assert totals["deviation_of_log_density"] == pytest.approx(found["log_density"].std().item(), rel=1e-9)


def test_the_pass_reads_every_chunk_once(tmp_path, unheld, monkeypatch):
    config = job(tmp_path, write_data(tmp_path, some_rows(), "parquet"), output=EVERYTHING)
    reads, stages, original = [], [], pipeline.sources.base._ReadRows.__call__

    def count(self, piece):
        reads.append((stages[-1], piece))
        return original(self, piece)

    monkeypatch.setattr(pipeline.sources.base._ReadRows, "__call__", count)
    run(config, progress=lambda event: type(event) is StageStarted and stages.append(event.name))
    pieces = [piece for stage, piece in reads if stage == "write rows"]
    assert len(pieces) == len(set(pieces)) > 10
    assert sum(len(piece.span) for piece in pieces) == 1000


def test_chunks_are_told_as_they_are_written(tmp_path, unheld):
    events = []
    run(job(tmp_path, write_data(tmp_path, some_rows(), "zarr")), progress=events.append)
    told = [event for event in events if isinstance(event, ChunksDone)]
    assert [(event.done, event.total) for event in told] == [(i, 10) for i in range(1, 11)]
    assert told[-1].rows == 1000
    assert describe(told[2]).startswith("3 of 10 chunks")


def test_chunks_move_the_live_line():
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with LiveLine(screen) as live:
        live(StageStarted("write rows", "label"))
        live(ChunksDone(12, 64, 1_200_000, 0.5))
        live._bar.refresh()
    drawn = screen.file.getvalue()
    for part in ("write rows", "12 of 64 chunks", "2.4 M rows/s"):
        assert part in drawn


def test_the_command_tells_of_rows_and_anomalies(tmp_path, monkeypatch):
    rows = some_rows()
    rows[3, 0] = np.nan
    config = job(tmp_path, write_data(tmp_path, rows, "parquet"), {"missing": "drop"}, EVERYTHING | {"rows": "parquet"})
    (tmp_path / "job.yaml").write_text(config.model_dump_json())
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["run", str(tmp_path / "job.yaml"), "--no-prefect"])
    assert result.exit_code == 0, result.stderr
    assert re.search(r"\b1 row .*label", result.stdout)
    assert re.search(r"anomalies: 10 .*-\d+\.\d+.* 0\.01 .*error 1e-05", result.stdout)
    assert f"rows: {rows_folder(config.output.store)}\n" in result.stdout


# -- unusable rows and scaling -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "held", "weighted"),
    [("csv", False, False), ("csv", True, True), ("parquet", False, True), ("parquet", True, False)],
)
def test_rows_that_are_not_usable_keep_their_places(tmp_path, monkeypatch, kind, held, weighted):
    if not held:
        monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    rows = some_rows()
    rows[[0, 5, 130, 999], [0, 1, 2, 0]] = np.nan
    rows[200:300] = np.nan  # a whole chunk of Zarr, and more than one of Parquet
    path = write_data(tmp_path, rows, kind)
    data = {"missing": "drop"}
    if weighted:
        frame = pd.DataFrame(rows, columns=COLUMNS).assign(w=1.0)
        frame.loc[700, "w"] = np.nan
        path = str(tmp_path / f"weighted.{kind}")
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
        data["weights"] = "w"
    store = run(job(tmp_path, path, data, EVERYTHING)).store
    bad = np.isnan(rows).any(axis=1)
    bad[700] |= weighted
    found = rows_of(store)
    assert found["label"].shape == (1000,)
    assert (found["label"].values[bad] == -1).all()
    for name in ("log_density", "responsibility"):
        np.testing.assert_array_equal(np.isnan(found[name]).values.any(axis=-1 if name[0] == "r" else ()), bad)
    assert not found["anomaly"].values[bad].any()
    assert_right(found.isel(row=~bad), as_sklearn(store, "full-k3"), rows[~bad])
    totals = read_summary(store)
    assert (totals["n_rows"], totals["unusable"]) == (1000, np.count_nonzero(bad))
    assert totals["anomalies"] == found["anomaly"].sum() == round(0.01 * np.count_nonzero(~bad))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_scaled_stores_answer_in_the_users_units(tmp_path, unheld, kind):
    rows = some_rows() * [1000.0, 0.01, 1.0] + [5000.0, -2.0, 0.0]
    config = job(
        tmp_path,
        write_data(tmp_path, rows, "zarr"),
        {"scale": "standard"},
        {**EVERYTHING, "anomaly_quantile": 0.05},
        covariance_types=[kind],
        tol=1e-6,
        max_iter=500,
    )
    summary = run(config)
    scaler = StandardScaler().fit(rows)
    theirs = SklearnMixture(3, covariance_type=kind, random_state=0, tol=1e-6, max_iter=500).fit(scaler.transform(rows))
    order = np.argsort(-theirs.weights_)
    density = theirs.score_samples(scaler.transform(rows)) - np.log(scaler.scale_).sum()
    found = rows_of(summary.store)
    np.testing.assert_allclose(found["log_density"], density, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found["label"], np.argsort(order)[theirs.predict(scaler.transform(rows))])
    probabilities = theirs.predict_proba(scaler.transform(rows))[:, order]
    np.testing.assert_allclose(found["responsibility"], probabilities, rtol=0, atol=1e-8)
    assert summary.mean_log_likelihood == pytest.approx(density.mean(), abs=1e-8)
    # and the parameters in the user's units say the same
    assert_right(found, as_sklearn(summary.store, f"{kind}-k3"), rows)
    assert read_summary(summary.store)["anomaly_threshold"] == pytest.approx(np.sort(density)[50], abs=1e-8)


# -- anomalies ---------------------------------------------------------------------------------------------------


def test_anomalies_are_the_rows_of_the_lowest_density(tmp_path, unheld):
    store = run(job(tmp_path, write_data(tmp_path, some_rows(), "zarr"), output={"anomaly_quantile": 0.03})).store
    found, totals = rows_of(store), read_summary(store)
    density = found["log_density"].values  # stored with them, though not asked for
    np.testing.assert_array_equal(found["anomaly"], density < totals["anomaly_threshold"])
    np.testing.assert_array_equal(found["anomaly"], density < np.sort(density)[30])
    assert (totals["anomalies"], totals["anomaly_quantile"], totals["anomaly_rank_error"]) == (30, 0.03, 0.0)


def test_the_threshold_does_not_depend_on_threads(tmp_path, unheld, monkeypatch):
    monkeypatch.setattr("gmm_dask.passes.quantiles.MOST_BINS", 32)
    path = write_data(tmp_path, some_rows(), "parquet")
    found = []
    for n_threads in (1, 4):
        (tmp_path / str(n_threads)).mkdir()
        with dask.config.set(num_workers=n_threads):
            store = run(job(tmp_path / str(n_threads), path, output={"anomaly_quantile": 0.03})).store
        found.append(read_summary(store))
    assert found[0] == found[1]
    totals, density = found[0], rows_of(store)["log_density"].values
    below = np.count_nonzero(density < totals["anomaly_threshold"])
    assert totals["anomalies"] == below
    assert totals["anomaly_rank_error"] == abs(below / 1000 - 0.03) > 0


# -- Parquet -----------------------------------------------------------------------------------------------------


def test_answers_as_parquet_have_the_key_columns_beside_them(tmp_path, unheld):
    rows = some_rows()
    rows[7, 1] = np.nan
    config = job(
        tmp_path,
        write_data(tmp_path, rows, "parquet"),
        {"missing": "drop"},
        {**EVERYTHING, "rows": "parquet", "key_columns": ["id", "b"]},
    )
    store = run(config).store
    table = parquet.read_table(rows_folder(store))
    assert table.column_names[:4] == ["id", "b", "label", "log_density"]
    frame = table.to_pandas()
    assert frame["id"].tolist() == [f"row {i}" for i in range(1000)]
    np.testing.assert_array_equal(frame["b"], rows[:, 1])
    usable = np.arange(1000) != 7
    assert frame.loc[7, ["label", "anomaly"]].tolist() == [-1, False]
    assert np.isnan(frame.loc[7, "log_density"])
    responsibility = frame[[f"responsibility_{k}" for k in range(3)]].to_numpy()
    found = {"label": frame["label"][usable], "log_density": frame["log_density"][usable]}
    found["responsibility"] = responsibility[usable]
    assert_right(found, as_sklearn(store, "full-k3"), rows[usable])
    assert frame["anomaly"].sum() == 10
    assert read_summary(store)["parquet"]["files"] == len(list(Path(rows_folder(store)).iterdir()))
    assert run(config).reused
    # an earlier result's files do not outlive it
    arrays = config.output.model_copy(update={"rows": "zarr", "key_columns": ()})
    run(config.model_copy(update={"output": arrays}), fresh=True)
    assert not Path(rows_folder(store)).exists()


@pytest.mark.parametrize(
    ("kind", "output", "parts"),
    [
        ("csv", {}, ("output.rows", "Parquet", "data.csv", "CSV", "zarr")),
        ("parquet", {"key_columns": ["idd"]}, ("output.key_columns", "0.parquet", "'idd'", "a, b, c, id")),
        ("parquet", {"key_columns": ["label"]}, ("output.key_columns", "label", "row output")),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_fit(tmp_path, kind, output, parts):
    config = job(tmp_path, write_data(tmp_path, some_rows(), kind), output={"rows": "parquet", **output})
    with pytest.raises(UserError, match=names(*parts)):
        run(config)
    assert not Path(config.output.store).exists()


# -- stopped and gone on -----------------------------------------------------------------------------------------


class Stop(BaseException):
    """Ends a run as a signal would."""


def stop_after(n_chunks):
    def watch(event):
        if isinstance(event, ChunksDone) and event.done >= n_chunks:
            raise Stop

    return watch


def everything_in(store):
    """All values of rows, byte by byte, wherever they are, and their summary."""
    summary = {key: value for key, value in read_summary(store).items() if key != "token"}
    if Path(rows_folder(store)).exists():
        table = parquet.read_table(rows_folder(store))
        return {name: table[name].to_numpy().tobytes() for name in table.column_names}, summary
    return {name: array.values.tobytes() for name, array in rows_of(store).items()}, summary


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("zarr", "zarr"),
        ("parquet", "parquet"),
        pytest.param("parquet", "zarr", marks=pytest.mark.slow),
        pytest.param("csv", "zarr", marks=pytest.mark.slow),
    ],
)
def test_only_missing_chunks_are_computed_again(tmp_path, unheld, kind, rows):
    path, output = write_data(tmp_path, some_rows(), kind), {**EVERYTHING, "rows": rows}
    (tmp_path / "whole").mkdir()
    whole, parts = job(tmp_path / "whole", path, output=output), job(tmp_path, path, output=output)
    run(whole)
    for n_chunks in (1, 3, 6):
        with dask.config.set(num_workers=2), pytest.raises(Stop):
            run(parts, progress=stop_after(n_chunks))
        assert not open_result(parts.output.store, unfinished=True).is_complete
        assert read_summary(parts.output.store) is None
        assert not Path(rows_folder(parts.output.store)).exists()
    events = []
    run(parts, progress=events.append)
    told = [event for event in events if isinstance(event, ChunksDone)]
    total = told[0].total
    (stage,) = [event for event in events if isinstance(event, StageStarted) and event.name == "write rows"]
    assert f"{total - len(told)} of {total}" in stage.detail
    assert 6 <= total - len(told) < total
    assert told[-1].done == total
    assert everything_in(parts.output.store) == everything_in(whole.output.store)


def test_a_pass_that_was_over_is_not_made_again(tmp_path, unheld):
    config = job(tmp_path, write_data(tmp_path, some_rows(), "zarr"))

    def stop(config, best, seconds, progress):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.fit.job.finish", stop)
        with pytest.raises(Stop):
            run(config)
    events = []
    run(config, progress=events.append)
    assert not [event for event in events if isinstance(event, ChunksDone)]
    assert rows_of(config.output.store)["label"].shape == (1000,)


KILLED = """
import os, signal, sys
import pipeline.sources.rows, pipeline.store.places.local, zarr
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
pipeline.sources.rows.IN_MEMORY_BYTES = 0
number, left = sys.argv[2], int(sys.argv[3])
target, name = (zarr.Array, "__setitem__") if number == "zarr" else (pipeline.store.places.local.os, "replace")
original = getattr(target, name)
def count(*arguments):
    # writes of the row pass, the last one before the kill half of a chunk's
    global left
    stack = sys._getframe(1).f_code.co_name
    if stack in ("write", "join", "mark", "write_with"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(target, name, count)
run(JobConfig.model_validate_json(sys.argv[1]))
"""
# writes until the kill: in the first chunk, within another, and when the chunks are put together or marked
LEFT = {"zarr": (0, 1, 8, 40, 65), "parquet": (0, 1, 8, 10, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["zarr", "parquet"])
def test_kill_9_in_the_row_pass(tmp_path, unheld, rows):
    path, output = write_data(tmp_path, some_rows(), "parquet"), {**EVERYTHING, "rows": rows}
    (tmp_path / "whole").mkdir()
    whole, parts = job(tmp_path / "whole", path, output=output), job(tmp_path, path, output=output)
    run(whole)
    kills = 0
    for left in LEFT[rows]:
        command = [sys.executable, "-c", KILLED, parts.model_dump_json(), rows, str(left)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        if done.returncode:
            kills += 1
            assert read_summary(parts.output.store) is None
            assert not Path(rows_folder(parts.output.store)).exists()
            with pytest.raises(UserError, match=names(parts.output.store, "not complete")):
                open_result(parts.output.store)
    assert kills >= 4
    run(parts)
    assert everything_in(parts.output.store) == everything_in(whole.output.store)
    assert not list(tmp_path.rglob("*.partial"))


# -- disks -------------------------------------------------------------------------------------------------------

FULL = """
import resource, sys
import pipeline.sources.rows
import flows.cli
pipeline.sources.rows.IN_MEMORY_BYTES = 0
import pipeline.fit.job
original = pipeline.fit.job.write_rows
def limited(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return original(*arguments)
pipeline.fit.job.write_rows = limited
sys.argv = ["gmm-dask", "run", "job.yaml", "--no-prefect"]
flows.cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["zarr", "parquet"])
def test_a_disk_that_fills_in_the_row_pass(tmp_path, unheld, rows):
    table = pd.DataFrame(some_rows(20_000), columns=COLUMNS)
    table.to_parquet(tmp_path / "data.parquet", row_group_size=5000)
    config = job(
        tmp_path, str(tmp_path / "data.parquet"), {"chunk_rows": 5000}, {"responsibilities": True, "rows": rows}
    )
    (tmp_path / "job.yaml").write_text(config.model_dump_json())
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    place = rows_folder(config.output.store) if rows == "parquet" else f"{config.output.store}/rows"
    for part in ("gmm-dask: ", place, "File too large", "ree some space"):
        assert part in last
    assert "Traceback" not in done.stderr
    assert not open_result(config.output.store, unfinished=True).is_complete
    assert not Path(rows_folder(config.output.store)).exists()
    run(config)  # with room again
    assert open_result(config.output.store).is_complete
    assert read_summary(config.output.store)["usable"] == 20_000


def test_data_that_shrink_during_the_pass_are_refused(tmp_path, unheld):
    path = write_data(tmp_path, some_rows(), "csv")
    config = job(tmp_path, path)

    def shrink(event):
        if isinstance(event, StageStarted) and event.name == "write rows":
            pd.DataFrame(some_rows(600), columns=COLUMNS).to_csv(path, index=False)

    with pytest.raises((UserError, FaultError), match=r"chang|truncated"):
        run(config, progress=shrink)
    assert not open_result(config.output.store, unfinished=True).is_complete
