"""What it gains that a worker reads the next chunk of a run while it computes one.

Passes of a search's candidates on two worker processes of one thread each, over the same rows as NPY, CSV and Parquet
on a local disk, and as Parquet behind a web server that answers each request after 20 ms: with and without reading
ahead, in turns; the fewest seconds of some passes count. The sums must have the same bits.

    python benchmarks/read_ahead.py
"""

from __future__ import annotations

import argparse
import http.server
import multiprocessing
import os
import pickle
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from machine import describe_machine
from scaling import FEATURES, candidates, make_chunk, print_table, workers

from gmm_dask.passes.map_reduce import map_reduce, one_blas_thread
from gmm_dask.passes.model_batch import chunk_sums
from gmm_dask.passes.rows import as_rows
from pipeline.config.data import DataConfig
from pipeline.sources import open_source

LATENCY_SECONDS = 0.02
CHUNK_ROWS = 10_000


class Slow(http.server.BaseHTTPRequestHandler):
    """A web server of the files in a folder, which waits before it answers."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer with the size of a file."""
        self.answer(b"", self.path_asked().stat().st_size)

    def do_GET(self) -> None:
        """Answer with a file, or a part of it."""
        data = self.path_asked().read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(data, len(data))
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        part = data[first : last + 1]
        return self.answer(part, len(part), {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def path_asked(self) -> Path:
        """The file that is asked for."""
        return self.folder / self.path.lstrip("/")

    def answer(self, data: bytes, length: int, headers: dict[str, str] | None = None) -> None:
        """Send bytes after the latency."""
        time.sleep(LATENCY_SECONDS)
        self.send_response(206 if headers else 200)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def serve(folder: Path, port: multiprocessing.Queue) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Slow,), {"folder": folder}))
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a slow web server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    process = context.Process(target=serve, args=(folder, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=60)}"
    finally:
        process.terminate()
        process.join()


def write(folder: Path, n_rows: int) -> None:
    rows = make_chunk(0, n_rows)
    np.save(folder / "rows.npy", rows)
    frame = pd.DataFrame(rows, columns=[f"x{i}" for i in range(FEATURES)])
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_parquet(folder / "rows.parquet", row_group_size=CHUNK_ROWS)


def measure(source: str, repeats: int) -> list[str]:
    opened = open_source(DataConfig(source=source, chunk_rows=CHUNK_ROWS))
    rows, batch = as_rows(opened.array), candidates()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    sums = []
    for number in range(repeats + 1):  # the first pass imports, and compiles
        for ahead in seconds:
            begin = time.perf_counter()
            sums.append(map_reduce(replace(rows, reads_ahead=ahead), chunk, batch, "statistics"))
            if number:
                seconds[ahead].append(time.perf_counter() - begin)
    assert all(pickle.dumps(one) == pickle.dumps(sums[0]) for one in sums), "other bits"
    plain, ahead = map(min, seconds.values())
    return [f"{plain:.2f} s", f"{ahead:.2f} s", f"{ahead / plain:.2f}"]


def chunk(rows, weights, batch, number):
    """The sums of a chunk."""
    return chunk_sums(rows, weights, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name, one_blas_thread():
        folder = Path(name)
        write(folder, options.rows)
        with served(folder) as url, workers(2):
            places = [str(folder / f"rows.{ending}") for ending in ("npy", "csv", "parquet")]
            lines = [[Path(place).suffix[1:], *measure(place, options.repeats)] for place in places]
            lines.append(["parquet, 20 ms away", *measure(f"{url}/rows.parquet", options.repeats)])
    print_table([f"{options.rows:,} rows", "a pass", "reading ahead", "ratio"], lines)
    print("load average of the last minutes:", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
