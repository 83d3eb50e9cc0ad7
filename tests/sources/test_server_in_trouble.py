"""A server of S3 in trouble: it sends half of a body and closes the connection or says no more; errors; an outage."""

from __future__ import annotations

import http.server
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import zarr

from gmm_dask.errors import FaultError, UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import ChunksDone, Message, StageStarted
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.sources import open_keys, open_source
from pipeline.sources.fingerprint import header_of
from pipeline.sources.retries import UnreachableError, read_with_retries, repeated_reads_reported
from s3 import forget_file_systems

ROWS = np.random.default_rng(0).normal(size=(2000, 2))
KINDS = ["rows.csv", "rows.npy", "rows.parquet", "rows.zarr"]
WHOLE = 1000  # bytes of a body that is never halved: headers and metadata
SILENCE = 30.0
CODES = {404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}
OUTAGE = 8.0  # seconds; s3fs gives up after five or so
LISTING = (
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>data</Name>'
    "<IsTruncated>false</IsTruncated>{}</ListBucketResult>"
)
ENTRY = (
    "<Contents><Key>{}</Key><Size>{}</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    frame = pd.DataFrame(ROWS, columns=["a", "b"])
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_parquet(folder / "rows.parquet")
    np.save(folder / "rows.npy", ROWS)
    zarr.create_array(folder / "rows.zarr", data=ROWS, chunks=(1000, 2))
    return folder


class InTrouble(http.server.BaseHTTPRequestHandler):
    """Objects of a bucket ``data``; the first bodies of each range of bytes are halved."""

    protocol_version = "HTTP/1.1"
    folder: Path
    halves: int = 0
    silent: bool = False
    errors: int = 0
    code: int = 503  # 0 closes the connection without an answer

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        asked = self.command, self.path, self.headers.get("Range")
        failed = self.server.failed[asked] = self.server.failed.get(asked, 0) + 1
        if self.server.down.is_set() or failed <= self.errors:
            self.close_connection = True
            if self.code:
                self._send(self.code, f"<Error><Code>{CODES[self.code]}</Code></Error>".encode(), {}, with_body)
            return
        url = urlsplit(self.path)
        query, key = parse_qs(url.query), unquote(url.path).removeprefix("/data").lstrip("/")
        if "list-type" in query:
            self._send(200, self._listing(query.get("prefix", [""])[0]), {}, True)
        elif not (self.folder / key).is_file():
            self._send(404, b"", {}, True)
        else:
            self._send_range((self.folder / key).read_bytes(), with_body)

    def _listing(self, prefix):
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        keys = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in found}
        entries = [ENTRY.format(key, size) for key, size in keys.items() if key.startswith(prefix)]
        return LISTING.format("".join(entries)).encode()

    def _send_range(self, content, with_body):
        first, last = 0, len(content) - 1
        if asked := self.headers.get("Range"):
            start, end = asked.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(end or last), last)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if asked else {}
        body = content[first : last + 1]
        times = self.server.times
        times[self.path, first] = times.get((self.path, first), 0) + 1
        is_whole = not with_body or len(body) <= WHOLE or times[self.path, first] > self.halves
        self._send(206 if asked else 200, body, headers, with_body, None if is_whole else len(body) // 2)

    def _send(self, code, body, headers, with_body, sent=None):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "ETag": '"x"', **headers}.items():
            self.send_header(name, str(value))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if not with_body:
            return
        self.wfile.write(body[:sent])
        if sent is not None:
            self.wfile.flush()
            self.server.ended.wait(SILENCE if self.silent else 0.0)
            self.close_connection = True


class Served(str):
    """The URL of a server, and the event that it fails every request while it is set."""

    def __new__(cls, url, down):
        served = super().__new__(cls, url)
        served.down = down
        return served


@contextmanager
def serving(files, halves=0, silent=False, errors=0, code=503):
    settings = {"folder": files, "halves": halves, "silent": silent, "errors": errors, "code": code}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (InTrouble,), settings))
    server.times, server.failed, server.ended, server.down = {}, {}, threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_address[1]}", server.down)
    finally:
        forget_file_systems()
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def read(url, name):
    options = {"anon": True, "endpoint_url": url, "config_kwargs": {"read_timeout": 0.3}}
    return open_source(DataConfig(source=f"s3://data/{name}", storage_options=options)).array.compute()


@pytest.mark.parametrize("silent", [False, True], ids=["closed", "silent"])
@pytest.mark.parametrize("name", KINDS)
def test_a_body_that_is_half_sent_once_is_read_again(files, name, silent):
    with serving(files, 1, silent) as url:
        np.testing.assert_allclose(read(url, name), ROWS)


@pytest.mark.parametrize("code", [503, pytest.param(500, marks=pytest.mark.slow), 0], ids=["503", "500", "closed"])
@pytest.mark.parametrize("name", KINDS)
def test_a_request_that_fails_once_is_sent_again(files, name, code):
    with serving(files, errors=1, code=code) as url:
        np.testing.assert_allclose(read(url, name), ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True], ids=["closed", "silent"])
@pytest.mark.parametrize("name", KINDS)
def test_bodies_that_are_always_half_sent_are_a_fault(files, name, silent, monkeypatch):
    monkeypatch.setattr("pipeline.sources.retries.RETRY_SECONDS", 0.0)
    begin = time.monotonic()
    with (
        serving(files, 10**6, silent) as url,
        pytest.raises(FaultError, match=names("data.source", f"s3://data/{name}", "network")),
    ):
        read(url, name)
    assert time.monotonic() - begin < SILENCE


@pytest.mark.parametrize("name", KINDS)
def test_a_web_server_that_falls_silent_is_a_fault(files, name, monkeypatch):
    monkeypatch.setattr("pipeline.sources.location.SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("pipeline.sources.retries.RETRY_SECONDS", 0.0)
    with (
        serving(files, 10**6, silent=True) as url,
        pytest.raises(FaultError, match=names("data.source", f"{url}/{name}")),
    ):
        open_source(DataConfig(source=f"{url}/{name}")).array.compute()


# -- an outage that is longer than a file system's own tries --------------------------------------------------------


def test_a_read_is_repeated_for_a_while_and_counted(monkeypatch):
    monkeypatch.setattr("pipeline.sources.retries.FIRST_WAIT", 0.001)
    told, tries = [], iter([False, False, True])

    def read(piece):
        if not next(tries):
            raise UnreachableError("no answer.")
        return piece

    with repeated_reads_reported(told.append):
        assert read_with_retries(read, 7) == 7
    assert [event.name for event in told] == ["retry", "retry"]
    assert "no answer" in told[0].detail
    assert "2 failed reads" in told[1].detail
    monkeypatch.setattr("pipeline.sources.retries.RETRY_SECONDS", 0.0)
    tries = iter([False, True])
    with pytest.raises(UnreachableError):
        read_with_retries(read, 7)


def options_for(url):
    return {"anon": True, "endpoint_url": str(url), "config_kwargs": {"retries": {"max_attempts": 0}}}


def fail_for_a_while(url):
    url.down.set()
    threading.Timer(OUTAGE, url.down.clear).start()


def job(url, store, name="rows.parquet", **cluster):
    values = {
        "data": {"source": f"s3://data/{name}", "storage_options": options_for(url)},
        "search": {"n_components": [2], "covariance_types": ["full"], "init_params": "kmeans"},
        "output": {"store": str(store), "report": False},
        "cluster": cluster,
    }
    return JobConfig.model_validate(values)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [{}, {"kind": "local", "workers": 1}], ids=["threads", "local"])
def test_a_job_sits_out_an_outage_and_says_so(files, tmp_path, cluster):
    told = []
    with serving(files) as url:

        def listener(event):
            told.append(event)
            if isinstance(event, StageStarted) and event.name == "select":
                fail_for_a_while(url)

        config = job(url, tmp_path / "a.zarr", **cluster)
        run(config, progress=listener)
    retries = [event.detail for event in told if isinstance(event, Message) and event.name == "retry"]
    assert len(retries) == 2, retries
    assert "s3://data/rows.parquet" in retries[0]


@pytest.mark.slow
def test_a_bucket_that_is_gone_ends_the_job_which_resumes_once_it_is_back(files, tmp_path):
    with serving(files, code=404) as url:

        def take_away(event):
            if isinstance(event, StageStarted) and event.name == "select":
                url.down.set()

        config = job(url, tmp_path / "a.zarr")
        with pytest.raises(UserError, match=names("data.source", "s3://data/rows.parquet")):
            run(config, progress=take_away, checkpoint_seconds=0.0)
        url.down.clear()
        told = []
        run(config, progress=told.append)
    messages = [event.name for event in told if isinstance(event, Message)]
    assert [name for name in messages if name != "compile"] == ["resume"]


# -- what is read beside the rows ---------------------------------------------------------------------------------


def versions(source):
    return header_of(source)["files"]


def keys(source):
    return open_keys(source, ["a"])(0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "read"), [("rows.zarr", versions), ("rows.parquet", keys)])
def test_versions_and_key_columns_are_read_again_after_an_outage(files, name, read):
    with serving(files) as url:
        source = open_source(DataConfig(source=f"s3://data/{name}", storage_options=options_for(url)))
        expected = read(source)
        fail_for_a_while(url)
        told = []
        with repeated_reads_reported(told.append):
            assert read(source) == expected
    assert len(told) == 2


@pytest.mark.slow
@pytest.mark.parametrize("when", ["as it opens", "as it compares"])
def test_scores_sit_out_an_outage(files, tmp_path, when):
    values = {
        "data": {"source": str(files / "rows.zarr")},
        "search": {"n_components": [2], "covariance_types": ["full"], "init_params": "kmeans"},
        "output": {"store": str(tmp_path / "a.zarr"), "labels": True, "report": False},
    }
    run(JobConfig.model_validate(values))
    told = []
    with serving(files) as url:

        def listener(event):
            told.append(event)
            if when == "as it opens":
                begins = isinstance(event, StageStarted) and event.name == "open"
            else:
                begins = isinstance(event, ChunksDone) and event.done == event.total
            if begins:
                fail_for_a_while(url)

        settings = ScoreSettings({"data.storage_options": options_for(url)})
        data, out = "s3://data/rows.zarr", tmp_path / "scores.zarr"
        score(tmp_path / "a.zarr", data, out, settings=settings, progress=listener)
    assert [event.name for event in told if isinstance(event, Message)].count("retry") == 2


@pytest.mark.slow
def test_an_address_that_may_be_wrong_is_an_error_at_once(files, tmp_path):
    told = []
    with serving(files) as url:
        url.down.set()
        with pytest.raises(FaultError, match=names("data.source", "network", "address")):
            run(job(url, tmp_path / "a.zarr"), progress=told.append)
    assert told == []
