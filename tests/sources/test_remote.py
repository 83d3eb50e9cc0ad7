"""Data behind URLs: a real server of S3 on loopback, a plain HTTP server, and memory."""

from __future__ import annotations

import http.server
import importlib
import json
import sys
import threading
import traceback
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import zarr
from typer.testing import CliRunner

from flows.cli import app
from gmm_dask.errors import FaultError, UserError
from marks import slow
from messages import names
from paths import ROOT
from pipeline.config.data import DataConfig
from pipeline.config.job import load_config
from pipeline.fit.job import run
from pipeline.sources import open_source
from pipeline.sources.location import find_location
from pipeline.store import open_result
from s3 import free_port, s3_server

FAITHFUL = pd.read_csv(ROOT / "configs/data/old_faithful.csv")
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


def write_faithful(folder):
    """Old Faithful in the ways that a bucket may hold it."""
    FAITHFUL.to_parquet(folder / "faithful.parquet", index=False)
    parts = folder / "parts"
    parts.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(FAITHFUL)), 3)):
        FAITHFUL.iloc[part].to_parquet(parts / f"part-{number}.parquet", index=False)
    group = zarr.create_group(folder / "faithful.zarr")
    for name in FAITHFUL:
        group.create_array(name, data=FAITHFUL[name].to_numpy(dtype=float), chunks=(100,))
    zarr.create_array(folder / "array.zarr", data=FAITHFUL.to_numpy(dtype=float), chunks=(50, 2), shards=(100, 2))
    zarr.create_array(folder / "old.zarr", data=FAITHFUL.to_numpy(dtype=float), chunks=(50, 2), zarr_format=2)
    FAITHFUL.to_csv(folder / "faithful.csv", index=False)
    np.save(folder / "faithful.npy", FAITHFUL.to_numpy(dtype=float))
    import h5py

    with h5py.File(folder / "faithful.h5", "w") as file:
        file["data"] = FAITHFUL.to_numpy(dtype=float)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_faithful(tmp_path_factory.mktemp("files"))


class Bucket:
    """A server with a bucket ``data``, and the credentials of somebody who may read it."""

    def __init__(self, url, files):
        import boto3

        self.url = url
        options = {"endpoint_url": url, "region_name": "us-east-1"}
        admin = {**options, "aws_access_key_id": "admin", "aws_secret_access_key": "admin"}
        s3, iam = boto3.client("s3", **admin), boto3.client("iam", **admin)
        for bucket in ("data", "empty"):
            s3.create_bucket(Bucket=bucket)
        for file in files.rglob("*"):
            if file.is_file():
                s3.put_object(Bucket="data", Key=file.relative_to(files).as_posix(), Body=file.read_bytes())
        self.key, self.secret = self._user(iam, "reader", POLICY)
        self.stranger = self._user(iam, "stranger", None)
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{url}/moto-api/reset-auth", data=b"0", headers=headers, method="POST")
        with urllib.request.urlopen(request):  # from here on requests must be signed by somebody who may
            pass
        reader = {**options, "aws_access_key_id": self.key, "aws_secret_access_key": self.secret}
        self.client = boto3.client("s3", **reader)

    @staticmethod
    def _user(iam, name, policy):
        iam.create_user(UserName=name)
        if policy:
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.fixture(scope="module")
def bucket(files):
    with s3_server() as url:
        yield Bucket(url, files)


@pytest.fixture
def credentials(bucket, monkeypatch):
    monkeypatch.setenv("BUCKET_KEY", bucket.key)
    monkeypatch.setenv("BUCKET_SECRET", bucket.secret)
    return {
        "key": "${BUCKET_KEY}",
        "secret": "${BUCKET_SECRET}",
        "client_kwargs": {"endpoint_url": bucket.url, "region_name": "us-east-1"},
    }


def source(url, options=None, **data):
    return open_source(DataConfig(source=url, storage_options=options or {}, **data))


# -- S3 ------------------------------------------------------------------------------------------------------

EVERY_KIND = [
    "faithful.parquet",
    "parts",
    "parts/*.parquet",
    "faithful.zarr",
    "array.zarr",
    "old.zarr",
    "faithful.csv",
    "faithful.npy",
    "faithful.h5",
]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_kind_is_read_from_s3(credentials, files, name):
    url = f"s3://data/{name}"
    remote, local = source(url, credentials, chunk_rows=100), source(str(files / name), chunk_rows=100)
    assert remote.path == url
    assert (remote.format, remote.columns, remote.n_rows) == (local.format, local.columns, local.n_rows)
    assert remote.array.chunks == local.array.chunks or remote.n_rows is None
    np.testing.assert_array_equal(remote.array.compute(), local.array.compute())


@pytest.fixture
def job(tmp_path, credentials, monkeypatch):
    """A config for Old Faithful in the bucket; the folder is the current one."""
    monkeypatch.chdir(tmp_path)

    def job(name):
        text = (ROOT / "configs/quickstart.yaml").read_text()
        Path("job.yaml").write_text(text)
        options = json.dumps(credentials)
        return [
            "job.yaml",
            *("--set", f"data.source={name if name.startswith('s3:') else 's3://data/' + name}"),
            *("--set", f"data.storage_options={options}"),
            *("--set", f"output.store={tmp_path}/r.zarr"),
            *("--set", "search.n_components=[2, 3]"),
            *("--set", "search.init_params=kmeans"),
        ]

    return job


@pytest.mark.parametrize("name", ["faithful.parquet", *slow(["faithful.zarr"])])
def test_old_faithful_from_s3_and_no_secret_anywhere(job, bucket, tmp_path, name):
    arguments = job(name)
    found = CliRunner().invoke(app, ["run", "--no-prefect", *arguments])
    assert found.exit_code == 0, found.output
    assert "tied-k3" in found.output
    store = open_result(tmp_path / "r.zarr")
    local = run(load_config(ROOT / "configs/quickstart.yaml", [
        f"data.source={ROOT}/configs/data/old_faithful.csv", f"output.store={tmp_path}/local.zarr",
        "search.n_components=[2, 3]", "search.init_params=kmeans", "output.report=false",
    ]))  # fmt: skip
    bic = zarr.open_group(tmp_path / "r.zarr", mode="r")["criteria/bic"][...]
    np.testing.assert_allclose(bic.T.ravel(), local.table["bic"], rtol=1e-9)
    assert store.config["data"]["storage_options"]["secret"] == "${BUCKET_SECRET}"
    assert store.data["path"] == f"s3://data/{name}"
    shown = CliRunner().invoke(app, ["validate", *arguments])
    assert shown.exit_code == 0, shown.output
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any("report" in str(file) for file in written)
    for secret in (bucket.key, bucket.secret):
        assert secret not in found.output + shown.output
        assert not [file for file in written if secret.encode() in file.read_bytes()]


def test_a_complete_store_is_found_again_and_changed_data_are_seen(job, bucket, credentials, tmp_path):
    arguments = [*job("changing.parquet"), "--set", "output.report=false"]
    FAITHFUL.to_parquet(tmp_path / "a.parquet", index=False)
    upload = partial(bucket.client.put_object, Bucket="data", Key="changing.parquet")
    upload(Body=(tmp_path / "a.parquet").read_bytes())
    location = find_location(DataConfig(source="s3://data/changing.parquet", storage_options=credentials))
    before = location.version()
    assert CliRunner().invoke(app, ["run", "--no-prefect", *arguments]).exit_code == 0
    again = CliRunner().invoke(app, ["run", "--no-prefect", *arguments])
    assert "--fresh" in again.output  # it was complete
    FAITHFUL[::-1].assign(waiting=FAITHFUL["waiting"][::-1] + 1).to_parquet(tmp_path / "a.parquet", index=False)
    upload(Body=(tmp_path / "a.parquet").read_bytes())
    assert find_location(DataConfig(source=location.source, storage_options=credentials)).version() != before
    changed = CliRunner().invoke(app, ["run", "--no-prefect", *arguments])
    assert changed.exit_code == 2
    assert "changed" in changed.output
    assert "--fresh" in changed.output


# -- what goes wrong there -----------------------------------------------------------------------------------


CREDENTIALS = ("credentials", "${NAME}", "data.storage_options")


def refusal(kind, url, options, *parts):
    """The message, one line that names all the parts, with which the data cannot be read."""
    with pytest.raises(kind, match=names(*parts)) as caught:
        source(url, options).array.compute(scheduler="sync")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "url",
    [
        "s3://vanished/a.parquet",
        *(f"s3://data/{name}" for name in ("no.parquet", "no.zarr", "no/*.parquet", "faithful.zarr/no")),
    ],
)
def test_a_bucket_or_a_key_that_is_not_there(credentials, url):
    refusal(UserError, url, credentials, "data.source", url)


def test_a_bucket_that_vanishes_while_it_is_read(credentials, bucket, files):
    bucket.client.create_bucket(Bucket="brief")
    for file in (files / "parts").iterdir():
        bucket.client.put_object(Bucket="brief", Key=file.name, Body=file.read_bytes())
    opened = source("s3://brief", credentials, chunk_rows=50)
    for file in (files / "parts").iterdir():
        bucket.client.delete_object(Bucket="brief", Key=file.name)
    bucket.client.delete_bucket(Bucket="brief")
    opened.location.fs.invalidate_cache()
    with pytest.raises(UserError, match=names("data.source", "s3://brief/part-", "path")):
        opened.array.compute(scheduler="sync")


@pytest.mark.parametrize("who", ["stranger", "nobody"])
@pytest.mark.parametrize("name", ["faithful.parquet", "faithful.zarr", "faithful.csv"])
def test_credentials_that_do_not_do(credentials, bucket, monkeypatch, name, who):
    key, secret = bucket.stranger if who == "stranger" else ("AKIAXXXXXXXXXXXXXXXX", "wrong-secret")
    monkeypatch.setenv("BUCKET_KEY", key)
    monkeypatch.setenv("BUCKET_SECRET", secret)
    text = refusal(UserError, f"s3://data/{name}", credentials, *CREDENTIALS)
    assert key not in text
    assert secret not in text


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("faithful.zarr", {"BUCKET_KEY": "AKIAXXXXXXXXXXXXXXXX"}, "credentials"),
        ("faithful.parquet", {"BUCKET_SECRET": "wrong"}, "credentials"),
        ("nowhere.zarr", {}, "s3://data/nowhere.zarr"),
        ("s3://vanished/a.parquet", {}, "s3://vanished/a.parquet"),
    ],
)
def test_the_command_ends_with_a_paragraph(job, tmp_path, monkeypatch, name, change, part):
    arguments = job(name)
    for variable, value in change.items():
        monkeypatch.setenv(variable, value)
    found = CliRunner().invoke(app, ["run", "--no-prefect", *arguments])
    assert found.exit_code == 2, found.output
    last = found.stderr.splitlines()[-1]
    assert last.startswith("gmm-dask: data.source: ")
    assert part in last
    assert "Traceback" not in found.output
    assert not (tmp_path / "r.zarr").exists()


def test_no_credentials_at_all(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    refusal(UserError, "s3://data/faithful.parquet", {"client_kwargs": {"endpoint_url": bucket.url}}, *CREDENTIALS)


def test_a_variable_that_is_not_set(credentials, monkeypatch):
    monkeypatch.delenv("BUCKET_SECRET")
    parts = ("data.storage_options.secret", "${BUCKET_SECRET}", "export BUCKET_SECRET=")
    refusal(UserError, "s3://data/faithful.parquet", credentials, *parts)


@pytest.mark.parametrize("name", ["faithful.parquet", "faithful.zarr"])
def test_no_server_is_a_fault(credentials, name):
    options = {
        **credentials,
        "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{free_port()}"},
        "config_kwargs": {"retries": {"max_attempts": 1}},
    }
    refusal(FaultError, f"s3://data/{name}", options, "data.source", f"s3://data/{name}", "network", "address")


def test_a_file_system_whose_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    refusal(UserError, "s3://data/a.parquet", {}, 'pip install "gmm-dask[s3]"')


def test_schemes_that_nobody_knows():
    refusal(UserError, "nope://a/b.parquet", {}, "data.source", "nope://a/b.parquet", "Protocol not known", "URL")


def test_options_for_a_local_path(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    refusal(
        UserError, str(tmp_path / "a.csv"), {"anon": True}, "data.storage_options", "local path", tmp_path / "a.csv"
    )


# -- HTTP, memory and file:// --------------------------------------------------------------------------------


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Files by ranges of bytes, to those who bring the token."""

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def log_message(self, *arguments):
        pass

    def _answer(self, with_body):
        if self.headers.get("Authorization") != "Bearer t0k3n":
            self.send_error(403)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body, code = path.read_bytes(), 200
        size = len(body)
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            begin, end, code = int(first), min(int(last or size), size - 1) + 1, 206
            body = body[begin:end]
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        if code == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextmanager
def serving(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def web(files):
    with serving(files) as url:
        yield url


@pytest.mark.parametrize("name", ["faithful.parquet", "array.zarr", "faithful.csv", "faithful.npy"])
def test_http_with_a_token(web, monkeypatch, name):
    monkeypatch.setenv("WEB_TOKEN", "t0k3n")
    options = {"headers": {"Authorization": "Bearer ${WEB_TOKEN}"}}
    opened = source(f"{web}/{name}", options)
    np.testing.assert_array_equal(opened.array.compute(), FAITHFUL)
    refusal(UserError, f"{web}/no-{name}", options, "data.source", f"{web}/no-{name}")
    monkeypatch.setenv("WEB_TOKEN", "wrong-one")
    assert "wrong-one" not in refusal(UserError, f"{web}/{name}", options, *CREDENTIALS)


def test_a_token_in_the_query_stays_hidden(monkeypatch):
    monkeypatch.setenv("SIGNATURE", "abc123xyz")
    url = f"http://127.0.0.1:{free_port()}/a.parquet?sig=${{SIGNATURE}}"
    assert "abc123xyz" not in refusal(FaultError, url, {}, "${SIGNATURE}")


@pytest.mark.parametrize("parameter", ["?sig=t0k3n", "#t0k3n"])
def test_a_token_that_is_written_out_is_in_no_output_and_in_no_file(web, monkeypatch, tmp_path, parameter):
    monkeypatch.chdir(tmp_path)
    options = {"headers": {"Authorization": "Bearer t0k3n"}}
    data = {"source": f"{web}/faithful.csv{parameter}", "storage_options": options}
    search = {"n_components": [2], "covariance_types": ["tied"], "init_params": "kmeans"}
    Path("job.yaml").write_text(json.dumps({"data": data, "search": search, "output": {"store": "r.zarr"}}))
    for change in ([], ["--fresh", "--set", "data.columns=[no]"], ["--set", f"data.source={web}/no.csv{parameter}"]):
        found = CliRunner().invoke(app, ["run", "job.yaml", "--no-prefect", *change])
        assert found.exit_code == (2 if change else 0), found.output
        assert "t0k3n" not in found.output
    for path in Path().rglob("*"):
        assert not path.is_file() or path.name == "job.yaml" or b"t0k3n" not in path.read_bytes(), path


@pytest.mark.parametrize("name", EVERY_KIND)
def test_memory(files, name):
    memory = fsspec.filesystem("memory")
    memory.put(f"{files}/", "/there", recursive=True)
    try:
        found = source(f"memory://there/{name}").array.compute()
    finally:
        memory.rm("/there", recursive=True)
    np.testing.assert_array_equal(found, source(str(files / name)).array.compute())


@pytest.mark.parametrize("name", EVERY_KIND)
def test_file_urls(files, name):
    opened = source(f"file://{files}/{name}")
    assert opened.path == f"file://{files}/{name}"
    np.testing.assert_array_equal(opened.array.compute(), source(str(files / name)).array.compute())


# -- secrets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [FileNotFoundError("no hunter2 here"), PermissionError("hunter2 may not"), OSError("hunter2 is gone")]
)
def test_secrets_are_not_in_the_traceback_that_is_logged(monkeypatch, wrong):
    def fail(*_, **__):
        raise wrong

    monkeypatch.setenv("PASSWORD", "hunter2")
    fs = fsspec.filesystem("memory")
    fs.pipe("/a.csv", b"a,b\n1,2\n")
    location = find_location(DataConfig(source="memory://a.csv", storage_options={"password": "${PASSWORD}"}))
    monkeypatch.setattr(type(location.fs), "cat_file", fail)
    with pytest.raises((UserError, FaultError)) as caught:
        location.read(0, 3)
    logged = "".join(traceback.format_exception(caught.value))
    assert "${PASSWORD}" in logged
    assert "hunter2" not in logged


def test_variables_are_filled_in_when_the_configuration_is_read_or_the_data_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("COLUMN", "waiting")
    FAITHFUL.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "job.yaml").write_text(
        "data: {source: '${FOLDER}/a.csv', columns: ['${COLUMN}']}\noutput: {store: '${FOLDER}/r.zarr'}"
    )
    config = load_config(tmp_path / "job.yaml")
    assert config.data.source == "${FOLDER}/a.csv"
    assert config.data.columns == ("waiting",)
    assert config.output.store == f"{tmp_path}/r.zarr"
    np.testing.assert_array_equal(open_source(config.data).array.compute()[:, 0], FAITHFUL["waiting"])
    monkeypatch.delenv("COLUMN")
    with pytest.raises(UserError, match=names("data.columns", "${COLUMN}", "export COLUMN")):
        load_config(tmp_path / "job.yaml")
