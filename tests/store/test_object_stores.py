"""Results on an object store: a real server of S3 on loopback, and runs that are killed, frozen or shut out."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import xarray as xr
from pyarrow import parquet
from typer.testing import CliRunner
from zarr.storage import ObjectStore

from flows.cli import app
from gmm_dask.errors import LockedError, UserError
from marks import slow
from messages import names
from paths import ROOT
from pipeline.config.job import JobConfig
from pipeline.fit import job
from pipeline.fit.job import run
from pipeline.fit.refresh import refresh
from pipeline.load import load
from pipeline.score.new_rows import score
from pipeline.store import DamagedError, open_result, read_candidates, read_scores, rows_folder
from pipeline.store.arrays import open_root
from pipeline.store.locks import is_locked, lock
from pipeline.store.paths import report_folder
from pipeline.store.places import place_of
from pipeline.store.places.lease import Lease, Witness
from pipeline.store.places.objects.place import ObjectPlace
from pipeline.store.places.objects.requests import StoredObject, connect
from runs import everything_in
from s3 import bucket_in_environment, in_trouble

SECONDS = 1.5
runner = CliRunner(env={"COLUMNS": "400"})

# a run that reads its rows chunk by chunk, saves each pass, and does something in a pass or after it
RUN = f"""
import json, os, signal, sys, time
import pipeline.sources.rows
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.load import load
from pipeline.progress import PassDone
from pipeline.sources.location import Location

pipeline.sources.rows.IN_MEMORY_BYTES = 0
config, moment, number = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
passes, fill = [], Location.fill

def counted(self, *arguments):
    if moment == "in" and len(passes) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    fill(self, *arguments)

def listen(event):
    if isinstance(event, PassDone):
        passes.append(event)
        if moment == "after" and len(passes) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "wait" and len(passes) == number:
            print("waiting", flush=True)
            sys.stdin.readline()

Location.fill = counted
run(JobConfig.model_validate(config), progress=listen, checkpoint_seconds=0.0, lease_seconds={SECONDS})
"""


@pytest.fixture(scope="module")
def bucket():
    with bucket_in_environment() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def rows(bucket, tmp_path_factory):
    """A folder with a file of rows, which the bucket has as well."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(centre, 1.0, (150, 2)) for centre in (0.0, 4.0)]
    folder = tmp_path_factory.mktemp("rows")
    values = rng.permutation(np.concatenate(groups))
    np.save(folder / "rows.npy", values)
    pd.DataFrame(values, columns=["a", "b"]).assign(id=range(300)).to_parquet(folder / "rows.parquet", index=False)
    for file in ("rows.npy", "rows.parquet"):
        bucket.client.upload_file(str(folder / file), "out", f"data/{file}")
    return folder


def make_job(source, store, **sections):
    values = {
        "name": "night",
        "data": {"source": str(source), "chunk_rows": 100, "cache": "none"},
        "search": {"n_components": [2, 3], "covariance_types": ["full"], "init_params": "kmeans", "tol": 0.0},
        "output": {"store": str(store), "report": False},
    }
    values["search"]["max_iter"] = 8
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return JobConfig.model_validate(values)


@contextmanager
def started(config, moment, number, folder):
    """A process with a run of its own, in another folder."""
    arguments = [config.model_dump_json(exclude_unset=True), moment, str(number)]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def chunk_by_chunk(monkeypatch):
    monkeypatch.setattr("pipeline.sources.rows.IN_MEMORY_BYTES", 0)


@pytest.fixture(scope="module")
def complete(rows):
    """A complete result in the bucket, which no test changes."""
    output = {"responsibilities": True, "anomaly_quantile": 0.1}
    return run(make_job("s3://out/data/rows.npy", "s3://out/complete.zarr", output=output)).store


def arrays_of(store):
    """All arrays but the paths of the data, which a run may reach in another place."""
    return {name: array for name, array in everything_in(store)[0].items() if name != "rows/file"}


def labels(store):
    return np.asarray(open_root(store)["rows/label"][...])


# -- a job -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moment", "number"), [("after", 3), *slow([("in", 4)])])
def test_a_killed_job_is_resumed_from_another_folder_to_the_same_bits(rows, tmp_path, chunk_by_chunk, moment, number):
    local = run(make_job(rows / "rows.npy", tmp_path / "local.zarr"))
    config = make_job("s3://out/data/rows.npy", f"s3://out/killed-{moment}/night.zarr")
    with started(config, moment, number, tmp_path) as process:
        assert process.wait(120) == -signal.SIGKILL, process.stderr.read()
    stopped = read_candidates(config.output.store)
    assert stopped.checkpoint is not None
    begin = time.monotonic()
    summary = run(config, lease_seconds=SECONDS)
    assert time.monotonic() - begin >= SECONDS  # the killed run might have lived
    assert summary.attempts == 2
    assert arrays_of(summary.store) == arrays_of(local.store)
    assert summary.best == local.best


def test_one_run_at_a_time_and_a_frozen_one_that_wakes_writes_nothing(bucket, rows, tmp_path, chunk_by_chunk):
    config = make_job("s3://out/data/rows.npy", "s3://out/frozen/night.zarr")
    with started(config, "wait", 3, tmp_path) as process:
        assert process.stdout.readline() == "waiting\n", process.stderr.read()
        with pytest.raises(LockedError, match=names("frozen/night.zarr", f"process {process.pid}")):
            run(config)
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        summary = run(config, lease_seconds=SECONDS)
        assert summary.attempts == 2
        before = bucket.objects()
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate("go on\n", timeout=120)
    assert "LockedError: another run has taken over s3://out/frozen/night.zarr" in errors
    assert bucket.objects() == before


def test_fresh_replaces_the_result_when_it_is_complete(bucket, rows, monkeypatch):
    config = make_job(rows / "rows.parquet", "s3://out/fresh.zarr", data={"columns": ["a", "b"]})
    first = run(config, lease_seconds=600.0)
    assert not is_locked(first.store)
    other = config.model_copy(update={"search": config.search.model_copy(update={"n_components": (1, 4)})})
    copied, copy = [], ObjectPlace._copy

    def killed(self, new, key):
        copied.append(key)
        if len(copied) > 20:
            raise KeyboardInterrupt
        copy(self, new, key)

    monkeypatch.setattr(ObjectPlace, "_copy", killed)
    with pytest.raises(KeyboardInterrupt):
        run(other, fresh=True)
    found = open_result(first.store)
    found.require_whole()
    assert set(found.table["n_components"]) == {1, 4}  # before all of it is copied
    assert len(labels(found.store)) == 300
    monkeypatch.undo()
    summary = run(other)
    assert summary.reused
    assert summary.store == first.store
    summary.require_whole()
    assert not bucket.objects("fresh.zarr.fresh")
    assert set(open_result(first.store).table["n_components"]) == {1, 4}


def test_a_fresh_run_that_fails_leaves_the_result(rows, complete):
    config = make_job("s3://out/data/rows.npy", complete, data={"columns": ["x7"]})
    before = arrays_of(complete)
    with pytest.raises(UserError, match="x7"):
        run(config, fresh=True)
    assert arrays_of(complete) == before


@pytest.mark.slow
def test_workers_of_a_cluster_write_rows(rows, complete, chunk_by_chunk, tmp_path):
    cluster = {"kind": "local", "workers": 1, "threads_per_worker": 1, "local_directory": str(tmp_path)}
    summary = run(make_job("s3://out/data/rows.npy", "s3://out/cluster.zarr", cluster=cluster))
    np.testing.assert_array_equal(labels(summary.store), labels(complete))


@pytest.mark.slow
def test_nightly_results_are_linked_to_and_removed(bucket, rows, monkeypatch):
    store = "s3://out/nightly/{name}-{started:%Y-%m-%d}.zarr"
    config = make_job(rows / "rows.npy", store, refresh={"keep": 1})
    days = iter(range(1, 9))

    class Clock:
        @staticmethod
        def now(zone):
            return datetime(2026, 11, next(days))

    monkeypatch.setattr("pipeline.store.paths.datetime", Clock)
    refresh(config)
    found = refresh(config)
    assert found.removed == ("s3://out/nightly/night-2026-11-01.zarr",)
    assert not bucket.objects("nightly/night-2026-11-01")
    linked = open_result(found.link)
    assert linked.store == "s3://out/nightly/night-2026-11-02.zarr"
    assert linked.refresh.previous == "s3://out/nightly/night-2026-11-01.zarr"


# -- what reads it -----------------------------------------------------------------------------------------------


def test_commands_read_a_result_and_write_beside_it(bucket, rows, complete, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = runner.invoke(app, ["show", complete])
    assert shown.exit_code == 0
    assert f"store: {complete}" in shown.output
    reported = runner.invoke(app, ["report", complete])
    assert reported.output == f"report: {report_folder(complete)}/index.html\n"
    page = bucket.client.get_object(Bucket="out", Key="complete.zarr-report/index.html")["Body"].read()
    assert page.startswith(b"<!doctype html>")
    exported = runner.invoke(app, ["export", complete, "--to", "json"])
    assert exported.exit_code == 0
    best = open_result(complete).best
    assert json.loads(Path(f"complete-{best}.json").read_text())["n_components"] == int(best[-1])
    for name in open_result(complete).models:
        assert f"{load(complete, name).covariance_type}-k{len(load(complete, name).means_)}" == name


@pytest.mark.parametrize("name", ["scores", "scores.parquet"])
def test_scores_are_written_and_replaced(bucket, rows, complete, name):
    out = f"s3://out/new/{name}"
    first = score(complete, "s3://out/data/rows.parquet", out, columns=["a", "b"])
    assert score(complete, "s3://out/data/rows.parquet", out, columns=["a", "b"]).reused
    again = score(complete, str(rows / "rows.parquet"), out, columns=["a", "b"], fresh=True)
    assert again.rows == first.rows
    assert not again.reused
    if name == "scores":
        found = xr.open_zarr(ObjectStore(connect(out), read_only=True), group="rows", consolidated=False)
        assert read_scores(out).summary["n_rows"] == 300
    else:
        files = sorted(key for key in bucket.objects(f"new/{name}/") if key.endswith(".parquet"))
        parts = [bucket.client.get_object(Bucket="out", Key=key)["Body"].read() for key in files]
        found = pd.concat([parquet.read_table(io.BytesIO(part)).to_pandas() for part in parts])
        assert not bucket.objects(f"new/{name}.unfinished")
    np.testing.assert_array_equal(found["label"], labels(complete))


@pytest.mark.slow
def test_rows_as_parquet_files_lie_beside_the_store(bucket, rows):
    output = {"rows": "parquet", "key_columns": ["id"]}
    config = make_job("s3://out/data/rows.parquet", "s3://out/rows.zarr", data={"columns": ["a", "b"]}, output=output)
    summary = run(config)
    summary.require_parquet()
    assert len(bucket.objects("rows.zarr-rows/")) == summary.row_summary.parquet.files == 4
    bucket.client.delete_object(Bucket="out", Key="rows.zarr-rows/part-00001.parquet")
    with pytest.raises(DamagedError, match=names(rows_folder(summary.store), "3 files")):
        open_result(summary.store).require_parquet()


def test_a_lost_object_is_refused_by_name(bucket, complete):
    for key in ("models/full-k2/means/c/0/0", "rows/label/c/1", "manifest/zarr.json"):
        stored = bucket.client.get_object(Bucket="out", Key=f"complete.zarr/{key}")["Body"].read()
        bucket.client.delete_object(Bucket="out", Key=f"complete.zarr/{key}")
        try:
            with pytest.raises(DamagedError, match=names(complete, key.rpartition("/c/")[0])):
                open_result(complete).require_whole()
        finally:
            bucket.client.put_object(Bucket="out", Key=f"complete.zarr/{key}", Body=stored)


def test_nothing_secret_is_stored(bucket, complete):
    keys = bucket.objects("complete.zarr")
    stored = b"".join(bucket.client.get_object(Bucket="out", Key=key)["Body"].read() for key in keys)
    assert b"owner" not in stored


# -- the lease ---------------------------------------------------------------------------------------------------


def test_a_lease_is_for_one_and_taken_over_when_it_has_run_out(bucket):
    said = []
    first, second = (Lease(StoredObject("s3://out/lease.lock"), SECONDS) for _ in range(2))
    first.take(said.append)
    with pytest.raises(LockedError, match=names("s3://out/lease", f"process {os.getpid()}")):
        second.take(said.append)
    assert len(said) == 1
    witness = Witness(StoredObject("s3://out/lease.lock"), first.terms.holder)
    witness.require()
    first._ended.set()  # it is renewed no more
    second.take(said.append)
    for holder in (first.require, Witness(StoredObject("s3://out/lease.lock"), first.terms.holder).require):
        first._renewed = -np.inf
        with pytest.raises(LockedError, match="taken over"):
            holder()
    first.leave()
    second.renew()
    second.leave()
    third = Lease(StoredObject("s3://out/lease.lock"), SECONDS)
    third.take(said.append)
    third.leave()
    assert len(said) == 2


def test_a_place_that_is_sent_to_a_worker_knows_the_holder_of_its_lease(bucket):
    with lock("s3://out/sent.zarr"):
        sent = pickle.dumps(place_of("s3://out/sent.zarr"))
        pickle.loads(sent).write("a", b"1")
    with pytest.raises(LockedError, match="taken over"):
        pickle.loads(sent).write("a", b"2")
    assert place_of("s3://out/sent.zarr").read("a") == b"1"


def test_a_store_in_trouble_is_asked_again(bucket, monkeypatch):
    """Of five requests one is refused and one loses its answer, also those that are on a condition."""
    count, conditional = itertools.count(), Counter()

    def trouble(method, path):
        found = {1: "busy", 2: "lost"}.get(next(count) % 5)
        conditional[method, found] += path.endswith((".lock", "/zarr.json"))
        return found

    with in_trouble(bucket.url, trouble) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        place = place_of("s3://out/trouble.zarr")
        for number in range(4):
            with lock(place.path, seconds=SECONDS):
                place.publish(json.dumps({"number": number}).encode())
                place.write("a", b"1")
        assert json.loads(place.read("zarr.json")) == {"number": 3}
        assert not is_locked(place.path)
    assert conditional["PUT", "lost"] > 1
    assert conditional["PUT", "busy"] > 1


def test_what_is_published_is_written_if_nobody_else_did(bucket):
    place = place_of("s3://out/published.zarr")
    place.publish(b"{}")
    root = StoredObject("s3://out/published.zarr/zarr.json")
    _, version = root.read()
    assert root.write(b"{1}", version) is not None
    assert root.write(b"{2}", version) is None
    assert place.read("zarr.json") == b"{1}"


# -- what cannot be used -----------------------------------------------------------------------------------------


def test_credentials_are_those_of_sources(bucket, monkeypatch, tmp_path):
    """A profile of ~/.aws is found, as for data."""
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = owner\naws_secret_access_key = owner\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    place_of("s3://out/profile").write("a", b"1")
    assert place_of("s3://out/profile").read("a") == b"1"


@pytest.mark.parametrize("url", ["s3://out", "s3://u:p@out/x", "s3://out/x?y=1", "ftp://host/x", "memory://x/y"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match=names("s3://bucket/results")):
        make_job("rows.npy", url)


def test_a_bucket_that_is_not_there_is_named(bucket, rows):
    with pytest.raises(UserError, match=names("no bucket gone", "s3://gone/x.zarr")):
        run(make_job(rows / "rows.npy", "s3://gone/x.zarr"))


def test_a_bucket_that_goes_during_a_run_is_named(bucket, rows):
    bucket.client.create_bucket(Bucket="going")

    def remove(*_):
        found = bucket.client.list_objects_v2(Bucket="going").get("Contents", [])
        for one in found:
            bucket.client.delete_object(Bucket="going", Key=one["Key"])
        if found:
            bucket.client.delete_bucket(Bucket="going")

    def as_task(stage):
        if stage is job.fit_wave:
            remove()
        return stage

    with pytest.raises(UserError, match=names("no bucket going")):
        run(make_job(rows / "rows.npy", "s3://going/x.zarr"), as_task=as_task)


def test_something_else_at_the_place_is_left_alone(bucket, rows):
    bucket.client.put_object(Bucket="out", Key="taken.zarr/notes.txt", Body=b"mine")
    with pytest.raises(UserError, match=names("s3://out/taken.zarr", "left as it is")):
        run(make_job(rows / "rows.npy", "s3://out/taken.zarr"), fresh=True)
    assert "taken.zarr/notes.txt" in bucket.objects()


def test_a_result_within_another_is_refused(rows, complete):
    with pytest.raises(UserError, match=names(f"the Zarr group {complete}")):
        run(make_job(rows / "rows.npy", f"{complete}/mine/night.zarr"))


def test_data_and_result_lie_apart(rows):
    for source, store in (("s3://out/data/rows.npy", "s3://out/data"), ("s3://out/data/*.npy", "s3://out/data/a.npy")):
        with pytest.raises(UserError, match="lies within"):
            run(make_job(source, store))


def test_a_bucket_that_refuses_is_named_with_the_remedy(bucket, rows, monkeypatch):
    """The last test of the module: the server checks requests from here on."""
    bucket.deny()
    with pytest.raises(UserError, match=names("s3://out/denied.zarr", "AWS_ACCESS_KEY_ID")):
        run(make_job(rows / "rows.npy", "s3://out/denied.zarr"))
