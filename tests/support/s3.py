"""A server of S3 on loopback, as a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from s3fs import S3FileSystem
from zarr.core.sync import _get_loop


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def forget_file_systems() -> None:
    """Close the file systems that s3fs keeps: some have read the address of an earlier server in the environment.

    Those of Zarr, which run in its loop, nobody closes; the others have a tenth of a second for it when they go.
    """
    for kept in list(S3FileSystem._cache.values()):
        if (session := getattr(kept, "_s3creator", None)) is not None:
            loop = _get_loop() if kept.asynchronous else kept.loop
            asyncio.run_coroutine_threadsafe(session.__aexit__(None, None, None), loop).result(timeout=10)
    S3FileSystem.clear_instance_cache()


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server with no buckets; its process is stopped afterwards."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    forget_file_systems()
    try:
        _wait_for(url, server)
        yield url
    finally:
        forget_file_systems()
        server.terminate()
        server.wait(timeout=10)


@contextmanager
def bucket_in_environment():
    """A bucket of a server of its own, which this process may write to."""
    with s3_server() as url, pytest.MonkeyPatch.context() as patched:
        bucket = Bucket(url)
        for name, value in bucket.environment.items():
            patched.setenv(name, value)
        yield bucket


class Bucket:
    """A bucket ``out`` of a server, as its owner sees it; the environment of a process that may write to it."""

    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self.environment = {
            "AWS_ACCESS_KEY_ID": "owner",
            "AWS_SECRET_ACCESS_KEY": "owner",
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": "us-east-1",
        }
        self.client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="owner", aws_secret_access_key="owner"
        )
        self.client.create_bucket(Bucket="out")

    def deny(self) -> None:
        """From here on requests must be signed by somebody who may make them, and nobody may."""
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", data=b"0", headers=headers, method="POST")
        with urllib.request.urlopen(request):
            pass

    def objects(self, prefix: str = "") -> dict[str, tuple]:
        """The objects below a prefix, each with what changes when it is written."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="out", Prefix=prefix)
        found = [one for page in pages for one in page.get("Contents", [])]
        return {one["Key"]: (one["ETag"], one["LastModified"]) for one in found}


@contextmanager
def in_trouble(url: str, trouble) -> Iterator[str]:
    """The URL of a server before the other, which answers as ``trouble(method, path)`` says.

    "busy": 503, and nothing is done; "lost": it is done, and the connection closed without an answer; else as it is.
    """
    host = url.removeprefix("http://")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = trouble(self.command, self.path)
            if found == "busy":
                return self.reply(503, [], b"")
            connection = http.client.HTTPConnection(host)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if found == "lost":
                self.close_connection = True
                return None
            return self.reply(response.status, response.getheaders(), data)

        def reply(self, status, headers, data):
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = len(data) if self.command != "HEAD" else dict(headers).get("Content-Length", 0)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _wait_for(url: str, server: subprocess.Popen) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server of S3 has ended"
        try:
            with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"no server of S3 at {url}")
