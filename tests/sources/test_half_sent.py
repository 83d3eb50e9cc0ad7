"""A server of S3 that sends half of a body: it then closes the connection, or says no more."""

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

from gmm_dask.errors import FaultError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.sources import open_source

ROWS = np.random.default_rng(0).normal(size=(2000, 2))
KINDS = ["rows.csv", "rows.npy", "rows.parquet", "rows.zarr"]
WHOLE = 1000  # bytes of a body that is never halved: headers and metadata
SILENCE = 30.0
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


class Halving(http.server.BaseHTTPRequestHandler):
    """Objects of a bucket ``data``; the first bodies of each range of bytes are halved."""

    protocol_version = "HTTP/1.1"
    folder: Path
    halves: int
    silent: bool

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
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


@contextmanager
def serving(files, halves, silent):
    handler = type("Handler", (Halving,), {"folder": files, "halves": halves, "silent": silent})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.times, server.ended = {}, threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
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


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True], ids=["closed", "silent"])
@pytest.mark.parametrize("name", KINDS)
def test_bodies_that_are_always_half_sent_are_a_fault(files, name, silent):
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
    with (
        serving(files, 10**6, silent=True) as url,
        pytest.raises(FaultError, match=names("data.source", f"{url}/{name}")),
    ):
        open_source(DataConfig(source=f"{url}/{name}")).array.compute()
