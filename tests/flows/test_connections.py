"""``validate --connect``: what a job connects to is contacted ahead of it."""

import socket
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from flows.cli import app
from flows.connections import contact
from gmm_dask.errors import FaultError, UserError
from messages import names
from pipeline.config.job import load_config
from prefects import free_port
from s3 import bucket_in_environment

SEARCH = "search: {n_components: [2], covariance_types: [diag]}\n"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function that writes and loads a job with some more sections."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(50, 2)))

    def load(more=""):
        Path("job.yaml").write_text(f"data: {{source: rows.npy}}\n{SEARCH}{more}")
        return load_config("job.yaml")

    return load


def validate(*options):
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, ["validate", "job.yaml", *options])


@contextmanager
def server_at(url):
    with temporary_settings({PREFECT_API_URL: url}):
        yield


def test_a_job_on_threads_and_a_local_disk_connects_to_nothing(job):
    with server_at(None):
        assert contact(job()) == []


def test_a_scheduler_that_does_not_answer(job):
    config = job(f"cluster: {{kind: address, address: 'tcp://127.0.0.1:{free_port()}', timeout: 1}}\n")
    with server_at(None), pytest.raises(FaultError, match=names("127.0.0.1")):
        contact(config)


@pytest.mark.slow
def test_a_scheduler_that_answers(job):
    import distributed

    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        config = job(f"cluster: {{kind: address, address: '{cluster.scheduler_address}', timeout: 30}}\n")
        with server_at(None):
            (line,) = contact(config)
    assert cluster.scheduler_address in line
    assert "1 worker" in line


def test_a_server_that_does_not_answer(job):
    with server_at(f"http://127.0.0.1:{free_port()}/api"), pytest.raises(FaultError, match="does not answer"):
        contact(job())


def test_a_schedule_needs_a_server(job):
    config = job("output: {store: 'a-{started:%Y-%m-%d}.zarr'}\nschedule: {interval: 1d}\n")
    with server_at(None), pytest.raises(UserError, match="prefect server start"):
        contact(config)


@pytest.fixture(scope="module")
def bucket():
    with bucket_in_environment() as bucket:
        yield bucket


def test_a_bucket_that_can_be_written_is_left_as_it_was(job, bucket):
    before = bucket.objects()
    config = job("output: {store: 's3://out/results/night-{started:%Y-%m-%d}.zarr'}\n")
    with server_at(None):
        assert contact(config) == ["bucket: s3://out can be written"]
    assert bucket.objects() == before


def test_a_bucket_that_is_not_there_is_named(job, bucket):
    with server_at(None), pytest.raises(UserError, match=names("nowhere", "bucket")):
        contact(job("output: {store: 's3://nowhere/night.zarr'}\n"))


def test_validate_checks_what_needs_no_connection_without_it(job):
    job("cluster: {kind: class, class_path: no_such_package.Cluster}\n")
    result = validate()
    assert result.exit_code == 2
    assert "job.yaml:3: cluster.class_path" in result.stderr
    assert "no_such_package" in result.stderr
    job("output: {store: a.zarr}\nschedule: {interval: 1d}\n")
    assert "job.yaml:3: output.store" in validate().stderr
    with pytest.raises(UserError, match=names("schedule.cron")):
        job("schedule: {cron: every night at two please}\n")


def test_the_command_says_what_it_has_contacted(job):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.close()
        job()
        with server_at(f"http://127.0.0.1:{free_port()}/api"):
            result = validate("--connect")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
