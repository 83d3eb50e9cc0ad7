"""Bad input, kind by kind, as the command meets it.

Each ends in one paragraph that names the file, the place in it and what to do; with exit code 2 for a mistake of the
user's and 1 for a fault; without a traceback; and without a result that a reader takes for whole.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from typer.testing import CliRunner

import pipeline.sources.rows
from flows.cli import app
from gmm_dask.errors import UserError
from pipeline.store import StoreStatus, find_store, lock

N = 300
MISTAKE, FAULT, LOCKED = 2, 1, 3
NOBODY = 65534

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(N, 2))
FRAME = pd.DataFrame(ROWS, columns=["a", "b"])


@dataclass(frozen=True)
class Case:
    """A kind of bad input: what makes it, how the command ends, and what its complaint names."""

    make: Callable[[], Any]
    says: tuple[str, ...]
    code: int = MISTAKE
    config: dict[str, Any] = field(default_factory=dict)


def data(**values):
    return {"data": values}


def spoil(path, position, new):
    """Overwrite bytes of a file."""
    content = bytearray(Path(path).read_bytes())
    position %= len(content)
    content[position : position + len(new)] = new
    Path(path).write_bytes(bytes(content))


def truncate(path, n_bytes):
    Path(path).write_bytes(Path(path).read_bytes()[:-n_bytes])


# -- what makes the data -----------------------------------------------------------------------------------------


def csv(text):
    return lambda: Path("x.csv").write_text(text)


def numbers(*lines, n_rows=N, header="a,b"):
    """A CSV of good lines with others at its end."""
    good = [f"{a},{b}" for a, b in ROWS[np.arange(n_rows) % N]]
    return "\n".join([header, *good, *lines]) + "\n"


def parquet(change=lambda: None, frame=FRAME, **options):
    def make():
        frame.to_parquet("x.parquet", index=False, **options)
        change()

    return make


def folder(*frames):
    def make():
        Path("rows").mkdir()
        for number, frame in enumerate(frames):
            frame.to_parquet(f"rows/{number}.parquet", index=False)

    return make


def npy(array, change=lambda: None):
    def make():
        np.save("x.npy", array, allow_pickle=True)
        change()

    return make


def array(change=lambda: None):
    def make():
        zarr.create_array("x.zarr", data=ROWS, chunks=(100, 2))
        change()

    return make


def group(change=lambda: None, **lengths):
    def make():
        made = zarr.create_group("x.zarr")
        for name, length in (lengths or {"a": N, "b": N}).items():
            made.create_array(name, data=np.arange(length) + 0.5, chunks=(100,))
        change()

    return make


def hdf5(change=lambda: None, **datasets):
    def make():
        with h5py.File("x.h5", "w") as file:
            for name, values in (datasets or {"rows": ROWS}).items():
                file[name] = values
        change()

    return make


def unreachable():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listening.getsockname()[1]}/x.parquet"


# -- the table ---------------------------------------------------------------------------------------------------

LONG = 120_000  # lines: more than the beginning of a CSV that tells its types
CASES = {
    # paths
    "no such file": Case(lambda: None, ("data.source", "no.csv", "directory"), config=data(source="no.csv")),
    "a glob that matches nothing": Case(
        lambda: None, ("data.source", "rows/*.parquet"), config=data(source="rows/*.parquet")
    ),
    "an ending that nobody knows": Case(
        lambda: Path("x.xlsx").write_text("x"),
        ("x.xlsx", ".csv", ".npy"),
        config=data(source="x.xlsx"),
    ),
    "a folder named like a CSV": Case(lambda: Path("x.csv").mkdir(), ("folder x.csv", ".parquet")),
    "a folder without Parquet files": Case(
        lambda: Path("rows").mkdir(), ("folder rows", ".parquet"), config=data(source="rows")
    ),
    "a scheme that nobody knows": Case(
        lambda: None,
        ("ftpx://a/x.csv", "Protocol not known", "URL"),
        config=data(source="ftpx://a/x.csv"),
    ),
    "a bucket that is not there": Case(
        lambda: None, ("memory://no/x.parquet", "path"), config=data(source="memory://no/x.parquet")
    ),
    "a server that does not answer": Case(
        lambda: None, ("http://127.0.0.1", "network"), FAULT, data(source=unreachable())
    ),
    "credentials that are not whole": Case(
        lambda: None,
        ("data.storage_options", "${NAME}", "aws_access_key_id"),
        config=data(source="s3://a/x.csv", storage_options={"secret": "hunter2"}),
    ),
    "a variable that is not set": Case(
        lambda: None,
        ("data.source", "${NO_SUCH_VARIABLE}", "export NO_SUCH_VARIABLE"),
        config=data(source="${NO_SUCH_VARIABLE}/x.csv"),
    ),
    # CSV
    "an empty CSV": Case(csv(""), ("x.csv", "empty", "header")),
    "a CSV of a header alone": Case(csv("a,b\n"), ("x.csv", "no rows")),
    "a CSV without a header": Case(csv("1.5,2\n3,4\n"), ("x.csv", "first line", "1.5, 2", "header")),
    "a header that names a column twice": Case(csv("a,a\n1,2\n"), ("x.csv", "header", "'a' twice")),
    "a ragged CSV": Case(csv(numbers("1,2,3")), ("x.csv", "line 302", "Correct the file")),
    "a CSV that is ragged far down": Case(
        csv(numbers("1,2,3", n_rows=LONG)),
        ("x.csv", "line", "Expected 2 columns, got 3"),
    ),
    "a CSV with text far down": Case(csv(numbers("1,oops", n_rows=LONG)), ("x.csv", "line", "'b'", "'oops'")),
    "a CSV that ends in the middle of a line": Case(csv(numbers("1")), ("x.csv", "got 1: 1")),
    "a CSV of bytes that are no text": Case(
        lambda: Path("x.csv").write_bytes(b"a,b\n1,\xff\xfe\n2,3\n"),
        ("data.columns", "'b'", "x.csv", "numeric"),
        config=data(columns=["a", "b"]),
    ),
    # Parquet
    "a truncated Parquet file": Case(parquet(lambda: truncate("x.parquet", 7)), ("x.parquet", "Parquet", "again")),
    "a Parquet file of another kind": Case(
        lambda: Path("x.parquet").write_text("a,b\n1,2\n"), ("x.parquet", "Parquet")
    ),
    "an empty Parquet file": Case(lambda: Path("x.parquet").touch(), ("x.parquet", "Parquet")),
    "a Parquet file with a damaged page": Case(
        parquet(lambda: spoil("x.parquet", 40, b"\xff" * 200), write_page_checksum=True),
        ("x.parquet", "Parquet", "again"),
    ),
    "a Parquet file without rows": Case(parquet(frame=FRAME[:0]), ("x.parquet", "no rows")),
    "Parquet files that differ": Case(
        folder(FRAME, FRAME.astype({"b": "str"})),
        ("data.source", "'b'", "double in rows/0.parquet", "string in rows/1.parquet"),
        config=data(source="rows"),
    ),
    "a date that is asked for": Case(
        parquet(frame=FRAME.assign(b=pd.Timestamp("2013-01-01"))),
        ("data.columns", "'b'", "x.parquet", "(timestamp", "numeric"),
        config=data(columns=["a", "b"]),
    ),
    "lists in a column": Case(
        lambda: pq.write_table(pa.table({"a": [[1.0], [2.0]]}), "x.parquet"),
        ("x.parquet", "numeric", "a (list<"),
    ),
    # NPY
    "a truncated NPY file": Case(
        npy(ROWS, lambda: truncate("x.npy", 8)), ("x.npy", "truncated", "4800", "4792", "again")
    ),
    "an NPY file of another kind": Case(lambda: Path("x.npy").write_text("hello"), ("x.npy", "NPY", "numpy.save")),
    "an NPY file of three dimensions": Case(npy(ROWS[None]), ("x.npy", "shape", "(1, 300, 2)")),
    "an NPY file of complex numbers": Case(npy(ROWS * 1j), ("x.npy", "numeric", "complex128")),
    "an NPY file of objects": Case(npy(np.array([[1, "a"]], dtype=object)), ("x.npy", "numeric", "object")),
    # Zarr
    "a missing Zarr chunk": Case(
        array(lambda: Path("x.zarr/c/1/0").unlink()),
        ("x.zarr", "c/1/0", "data.missing_chunks"),
    ),
    "a missing chunk of a column": Case(group(lambda: Path("x.zarr/b/c/2").unlink()), ("x.zarr", "b/c/2")),
    "a truncated Zarr chunk": Case(array(lambda: truncate("x.zarr/c/2/0", 30)), ("x.zarr", "damaged", "rows", "again")),
    "a Zarr chunk of another kind": Case(
        group(lambda: Path("x.zarr/a/c/0").write_text("hello")),
        ("x.zarr", "'a'", "damaged", "rows 0"),
    ),
    "a folder that is no Zarr store": Case(lambda: Path("x.zarr").mkdir(), ("x.zarr", "Zarr")),
    "broken Zarr metadata": Case(array(lambda: Path("x.zarr/zarr.json").write_text('{"shape": [')), ("x.zarr", "Zarr")),
    "Zarr columns of different lengths": Case(
        group(a=300, b=200), ("x.zarr", "length", "a 300, b 200", "data.columns")
    ),
    # HDF5
    "a truncated HDF5 file": Case(hdf5(lambda: truncate("x.h5", 1000)), ("x.h5", "HDF5", "truncated", "again")),
    "an HDF5 file of another kind": Case(lambda: Path("x.h5").write_text("hello"), ("x.h5", "HDF5")),
    "several HDF5 datasets": Case(hdf5(rows=ROWS, more=ROWS), ("data.dataset", "x.h5", "2 datasets", "more, rows")),
    "an HDF5 dataset that is not there": Case(
        hdf5(), ("data.dataset", "x.h5", "'/no'", "rows"), config=data(dataset="/no")
    ),
    # columns and values
    "a column that is not there": Case(
        csv(numbers()), ("data.columns", "x.csv", "'c'", "a, b"), config=data(columns=["a", "c"])
    ),
    "text in a column that is asked for": Case(
        csv("a,b\n1,x\n2,y\n"), ("data.columns", "'b'", "x.csv", "(string)"), config=data(columns=["a", "b"])
    ),
    "text alone": Case(csv("a,b\nx,y\n"), ("x.csv", "numeric", "a (string), b (string)")),
    "missing values": Case(
        csv(numbers("1,", ",2")),
        ("x.csv", "2 of 302 rows", "row 300", "data.missing: drop"),
    ),
    "infinite values": Case(
        npy(np.where(ROWS.max() == ROWS, np.inf, ROWS)), ("1 of 300 rows", "'x", "data.missing: drop")
    ),
    "no usable row": Case(
        csv("a,b\n1,\n2,\n"), ("no rows", "usable", "2"), config=data(missing="drop", columns=["a", "b"])
    ),
    "a constant column to scale": Case(
        parquet(frame=FRAME.assign(b=1.0)),
        ("'b'", "same value", "data.columns"),
        config=data(scale="standard"),
    ),
    "values whose squares overflow": Case(npy(ROWS * 1e200), ("'x", "float64", "cale the data")),
    "negative weights": Case(parquet(), ("weights", "negative", "0"), config=data(weights="b")),
    "fewer rows than components": Case(
        csv("a,b\n1,2\n2,1\n3,3\n"), ("3 rows", "fewer components"), config={"search": {"n_components": [5]}}
    ),
    # the job
    "a key that nobody knows": Case(lambda: None, ("search.n_int", "n_init?"), config={"search": {"n_int": 3}}),
    "an option of another format": Case(
        csv(numbers()), ("data.dataset", "x.csv", "HDF5"), config=data(dataset="/rows")
    ),
    "too little memory": Case(
        csv(numbers()),
        ("1 MiB", "cluster.memory_limit"),
        config={"cluster": {"memory_limit": "1MiB"}},
    ),
    "a store that is something else": Case(
        lambda: (csv(numbers())(), Path("r.zarr").write_text("mine")),
        ("r.zarr", "result store", "another path"),
    ),
    "a store below a file": Case(
        lambda: (csv(numbers())(), Path("f").touch()),
        ("output.store", "f/r.zarr.lock", "path"),
        config={"output": {"store": "f/r.zarr"}},
    ),
}


SOURCES = ("x.csv", "x.parquet", "x.npy", "x.zarr", "x.h5")


def write_config(changes):
    """A small job over the one source that is there, with changes."""
    found = [name for name in SOURCES if Path(name).exists()]
    values = {
        "data": {"source": found[0] if found else "no.csv", "chunk_rows": 100},
        "search": {"n_components": [1], "init_params": "kmeans", "max_iter": 2},
        "output": {"store": "r.zarr"},
    }
    merged = {key: {**values.get(key, {}), **changes.get(key, {})} for key in {*values, *changes}}
    Path("job.json").write_text(json.dumps(merged))
    return merged["output"]["store"]


def complaint(found, code):
    """The paragraph that the command ends with."""
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    _, mark, text = found.stderr.rpartition("gmm-dask: ")
    assert mark, found.output
    _, *items = text.splitlines()
    assert all(item.startswith("  ") for item in items), text  # each key that is wrong is in a line of its own
    assert text.rstrip().endswith("."), text
    return text


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    return tmp_path


def is_whole(store):
    """Whether a reader takes what is there for a complete result."""
    try:
        return find_store(store) is StoreStatus.COMPLETE
    except (UserError, OSError):
        return False


@pytest.mark.parametrize("name", CASES)
def test_bad_input(here, name):
    case = CASES[name]
    case.make()
    store = write_config(case.config)
    text = complaint(CliRunner().invoke(app, ["run", "--no-prefect", "job.json"]), case.code)
    for part in case.says:
        assert part in text
    assert not is_whole(store)
    assert not Path(f"{store}-report/index.html").exists()
    if Path(store).is_dir():
        shown = CliRunner().invoke(app, ["show", store])
        assert shown.exit_code or "UNFINISHED" in shown.output


def test_the_table_is_long_enough():
    assert len(CASES) >= 50


def test_a_traceback_comes_with_debug_only(here):
    Path("x.npy").write_text("hello")
    write_config({})
    found = CliRunner().invoke(app, ["run", "--no-prefect", "--debug", "job.json"])
    assert found.exit_code == MISTAKE
    assert "Traceback" in found.stderr


@pytest.mark.parametrize("options", [["--no-prefect"], pytest.param([], marks=pytest.mark.slow)])
def test_the_command_itself(here, options):
    """As a process: the same paragraph, the same code."""
    parquet(lambda: truncate("x.parquet", 7))()
    write_config({})
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", "job.json", *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == MISTAKE
    assert found.stdout == "gmm-dask run job.json\n"
    assert found.stderr.count("x.parquet") == 1
    assert "Traceback" not in found.stderr


# -- permissions, disks, and other runs --------------------------------------------------------------------------


@contextmanager
def as_nobody():
    """Without root's rights, where the tests have them."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(monkeypatch):
    """A folder that everybody may write into, and that is the current one."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
        yield Path(folder)
        monkeypatch.undo()
        os.chdir("/")


MADE = {"csv": csv(numbers()), "parquet": parquet(), "npy": npy(ROWS), "zarr": group(), "h5": hdf5()}


def run_without_rights(config):
    store = write_config(config)
    arguments = ["validate", "job.json", "--set", "output.store=r0.zarr"]
    CliRunner().invoke(app, arguments)  # whatever is imported late is read with root's rights
    os.chmod("job.json", 0o644)
    with as_nobody():
        return store, CliRunner().invoke(app, ["run", "--no-prefect", "job.json"])


@pytest.mark.parametrize("kind", MADE)
def test_no_permission_to_read(open_folder, kind):
    MADE[kind]()
    places = [Path(f"x.{kind}"), *Path(f"x.{kind}").rglob("*")]
    write_config({"output": {"report": False}})
    CliRunner().invoke(app, ["run", "--no-prefect", "job.json", "--set", "output.store=warm.zarr"])
    for place in reversed(places):
        place.chmod(0)
    with as_nobody():
        found = CliRunner().invoke(app, ["run", "--no-prefect", "job.json"])
    text = complaint(found, MISTAKE)
    assert f"x.{kind}" in text
    assert "ermission denied" in text
    assert not is_whole("r.zarr")


def test_no_permission_to_write(open_folder):
    csv(numbers())()
    Path("shut").mkdir(mode=0o555)
    store, found = run_without_rights({"output": {"store": "shut/r.zarr"}})
    text = complaint(found, MISTAKE)
    for part in ("output.store", "shut/r.zarr.lock", "ermission denied", "path"):
        assert part in text
    assert not Path(store).exists()


@pytest.fixture
def small_disk(here):
    """A disk of two megabytes."""
    disk = here / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() or mount is None or umount is None:
        pytest.skip("only root can make a small disk")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run([umount, str(disk)], check=True)


@pytest.mark.parametrize("taken", [0.8, 0.9, 1.0])
def test_a_full_disk(here, small_disk, taken):
    wide = np.random.default_rng(1).normal(size=(20_000, 5))
    np.save("x.npy", wide)
    (small_disk / "other").write_bytes(b"x" * int(taken * 2**21))
    store = write_config(
        {
            "data": {"chunk_rows": 5000},
            "output": {"store": "disk/r.zarr", "log_density": True, "responsibilities": True, "report": False},
        }
    )
    text = complaint(CliRunner().invoke(app, ["run", "--no-prefect", "job.json"]), FAULT)
    for part in ("disk/r.zarr", "No space left on device", "ree some space"):
        assert part in text
    assert not is_whole(store)
    (small_disk / "other").unlink()
    again = CliRunner().invoke(app, ["run", "--no-prefect", "job.json"])
    assert again.exit_code == 0, again.output
    assert is_whole(store)


def test_another_run_at_work(here):
    csv(numbers())()
    store = write_config({})
    with lock(store):
        text = complaint(CliRunner().invoke(app, ["run", "--no-prefect", "job.json"]), LOCKED)
    assert "another run" in text
    assert "r.zarr" in text


def test_a_damaged_checkpoint(here, monkeypatch):
    csv(numbers())()
    store = write_config({"search": {"n_components": [2], "tol": 0.0}})
    monkeypatch.setattr("pipeline.fit.job.select", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert CliRunner().invoke(app, ["run", "--no-prefect", "job.json"]).exit_code == 130
    monkeypatch.undo()
    os.chdir(here)
    (chunk,) = Path(store).glob("checkpoint/*/float64/c/0")
    truncate(chunk, 3)
    text = complaint(CliRunner().invoke(app, ["run", "--no-prefect", "job.json"]), MISTAKE)
    for part in ("r.zarr", "damaged", "--fresh"):
        assert part in text
