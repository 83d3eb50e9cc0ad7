"""Iceberg tables: the rows of a snapshot, through the readers of Parquet."""

import http.server
import json
import os
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import DoubleType

from gmm_dask.errors import FaultError, UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.sources import open_keys, open_source
from pipeline.sources.catalogs import metadata_in_catalog
from pipeline.sources.formats import iceberg
from pipeline.sources.location import find_location
from pipeline.sources.overlap import require_apart
from pipeline.store import open_result
from s3 import Bucket, s3_server


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=600)
    rows = pd.DataFrame(rng.normal(size=(600, 2)) + 8 * np.stack([group, group == 1], axis=1), columns=["a", "b"])
    time = pd.date_range("2026-01-01", periods=600, freq="h").astype("datetime64[us]")
    year, ship = np.repeat([2024, 2025, 2026], 200), np.tile(["A b", "C/d"], 300)
    return rows.assign(year=year, ship=ship, id=np.arange(600), time=time)


def arrow(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


@pytest.fixture
def catalog(here, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", f"sqlite:///{here}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", f"file://{here}/warehouse")
    found = SqlCatalog("lake", uri=f"sqlite:///{here}/catalog.db", warehouse=f"file://{here}/warehouse")
    found.create_namespace("sea")
    yield found
    found.close()


@pytest.fixture
def table(catalog, frame):
    """A table, by year, of two snapshots: 400 rows, and 200 more."""
    found = catalog.create_table("sea.t", schema=arrow(frame).schema)
    with found.update_spec() as spec:
        spec.add_identity("year")
    found.append(arrow(frame[:400]))
    found.append(arrow(frame[400:]))
    return found


SOURCE = "iceberg://lake/sea.t"


def source(path=SOURCE, **options):
    return open_source(DataConfig(source=str(path), **options))


def ids(path=SOURCE, **options):
    return sorted(source(path, columns=["id"], **options).array.compute(scheduler="sync").ravel().astype(int).tolist())


def job(store="job.zarr", **data):
    data = {"source": SOURCE, "columns": ["a", "b"], "chunk_rows": 60, **data}
    search = {"n_components": [2, 3], "covariance_types": ["full"], "init_params": "kmeans"}
    return JobConfig.model_validate({"data": data, "search": search, "output": {"store": store, "report": False}})


def test_by_catalogue_by_metadata_file_and_by_folder(table):
    opened = source()
    assert (opened.format.name, opened.n_rows, opened.columns) == ("iceberg", 600, ("a", "b", "id"))
    assert opened.version == table.current_snapshot().snapshot_id
    assert any("year" in note and "partition" in note for note in opened.notes)
    assert any(f"snapshot {opened.version} " in note for note in opened.notes)
    metadata = Path(table.metadata_location.removeprefix("file://"))
    folder = metadata.parents[1]
    assert ids() == ids(metadata) == ids(metadata.as_uri()) == list(range(600))
    with pytest.raises(UserError, match=names("data.source", folder, "catalogue", "metadata file")):
        source(folder)
    (metadata.parent / "version-hint.text").write_text(metadata.name)
    assert ids(folder) == list(range(600))


def test_earlier_snapshots_by_number_and_by_time(table):
    first, second = table.snapshots()
    assert ids(version=first.snapshot_id) == list(range(400))
    assert any(f"the newest is {second.snapshot_id}" in note for note in source(version=first.snapshot_id).notes)
    moment = datetime.fromtimestamp((first.timestamp_ms + 1) / 1000, UTC)
    assert source(version=moment.isoformat()).version == first.snapshot_id
    for wrong in (7, "2020-01-01"):
        with pytest.raises(UserError, match=names("data.version", wrong, second.snapshot_id)):
            source(version=wrong)


CONDITIONS = [
    "year == 2025 and ship == 'A b'",
    "year > 2024 and a > 3",
    "id < 12.5 or id >= 590",
    "time >= '2026-01-10' and time < '2026-01-10T12:00'",
    "not (year in [2024, 2025]) and b is not null",
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_filters(table, frame, condition):
    expected = frame.query(condition.replace("b is not null", "b == b"))["id"].tolist()
    assert ids(filter=condition) == expected
    opened = source(filter=condition, columns=["a", "year"])
    read = open_keys(opened, ["id", "year"])
    keys = pa.concat_tables([read(i) for i in range(len(opened.chunks.pieces))])
    assert sorted(keys["id"].to_pylist()) == expected


def test_a_filter_with_values_beyond_all_types(table):
    huge = "1" + 400 * "0"
    for column in ("a", "id"):
        assert ids(filter=f"{column} < {huge} and time < '9999-12-31'") == list(range(600))
        assert ids(filter=f"{column} > {huge}") == []


def test_files_are_ruled_out_by_the_statistics_of_the_table(table):
    assert len({part.location for part in source(filter="id < 5").chunks.pieces}) == 1
    assert source(filter="id < -5").n_rows in (0, None)
    assert ids(filter="id < -5") == []


def test_columns_are_known_by_their_numbers(table, frame):
    """A column that was renamed, one that was added, and one in the place of another of its name."""
    with table.update_schema() as schema:
        schema.rename_column("a", "temp")
        schema.delete_column("b")
    with table.update_schema() as schema:
        schema.add_column("b", DoubleType())
    table.append(arrow(frame[:10].rename(columns={"a": "temp"}).assign(b=7.0)))
    opened = source(columns=["temp", "b", "id"])
    rows = pd.DataFrame(opened.array.compute(), columns=opened.columns).sort_values(["id", "b"])
    assert (rows["b"] == 7.0).sum() == 10
    assert rows["b"].isna().sum() == 600
    old = rows[rows["b"].isna()]
    np.testing.assert_array_equal(old.sort_values("id")["temp"], frame["a"])
    assert ids(filter="temp > 3") == sorted([*frame.query("a > 3")["id"], *frame[:10].query("a > 3")["id"]])
    assert ids(filter="b is null") == list(range(600))
    # an earlier snapshot has its own names
    assert source(version=table.snapshots()[0].snapshot_id).columns == ("a", "b", "id")


def test_a_file_that_shares_no_column_with_the_table(catalog):
    """Its column was deleted; another has the name now."""
    found = catalog.create_table("sea.u", schema=pa.schema([("x", pa.float64())]))
    found.append(pa.table({"x": np.zeros(300)}))
    with found.update_schema() as schema:
        schema.add_column("k", DoubleType())
        schema.delete_column("x")
    with found.update_schema() as schema:
        schema.add_column("x", DoubleType())
    found.append(pa.table({"k": np.zeros(300), "x": np.full(300, 100.0)}))
    read = source("iceberg://lake/sea.u", columns=["x"]).array.compute(scheduler="sync").ravel()
    assert (np.isnan(read).sum(), (read == 100).sum()) == (300, 300)


def test_a_job_is_that_of_the_same_rows_as_parquet(table, frame):
    """A stopped run resumes with the snapshot that it began with, while others write."""

    def stop(event):
        if getattr(event, "name", "") == "select":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(), progress=stop)
    snapshot = table.current_snapshot().snapshot_id
    table.append(arrow(frame[:100]))
    summary = run(job())
    assert open_result("job.zarr").data["version"] == snapshot
    pd.DataFrame(source(version=snapshot, columns=["a", "b"]).array.compute(), columns=["a", "b"]).to_parquet(
        "same.parquet", row_group_size=60
    )
    by_hand = run(job("by-hand.zarr", source="same.parquet"))
    np.testing.assert_allclose(summary.table["bic"], by_hand.table["bic"], rtol=1e-9)
    assert (summary.n_rows, run(job(), fresh=True).n_rows) == (600, 700)


# -- in a bucket ---------------------------------------------------------------------------------------------


@contextmanager
def rest_catalog(table):
    """The URL of a catalogue that answers any question for a table in one way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            told = {"defaults": {}, "overrides": {}} if self.path.startswith("/v1/config") else table
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def handed_out(table, url, *, prefixed=False, **more):
    """What a catalogue says of a table, with credentials."""
    properties = {"s3.access-key-id": "lent", "s3.secret-access-key": "hush-hush", "s3.session-token": "an-hour"}
    properties |= more
    credentials = {"storage-credentials": [{"prefix": "s3://out", "config": properties}]}
    metadata = json.loads(table.metadata.model_dump_json())
    return {"metadata-location": url, "metadata": metadata, **(credentials if prefixed else {"config": properties})}


LENT = {"key": "lent", "secret": "hush-hush", "token": "an-hour"}


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, {**LENT, "client_kwargs": {"region_name": "eu-north-1"}}),
        ({"client_kwargs": {"region_name": "here"}}, LENT),
        ({"key": "mine", "secret": "mine"}, {"client_kwargs": {"region_name": "eu-north-1"}}),
        ({"anon": True}, {"client_kwargs": {"region_name": "eu-north-1"}}),
    ],
)
def test_credentials_that_a_catalogue_hands_out(table, monkeypatch, prefixed, options, added):
    answer = handed_out(table, "s3://out/t.metadata.json", prefixed=prefixed, **{"client.region": "eu-north-1"})
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__S3__ACCESS_KEY_ID", "configured")
    with rest_catalog(answer) as url:
        monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", url)
        assert metadata_in_catalog(SOURCE, SOURCE, options) == ("s3://out/t.metadata.json", added)
    with rest_catalog({**answer, "metadata-location": "file:///t.metadata.json"}) as url:
        monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", url)
        assert metadata_in_catalog(SOURCE, SOURCE, options) == ("file:///t.metadata.json", {})


@pytest.fixture
def bucket():
    with s3_server() as url:
        yield Bucket(url)


@pytest.mark.slow
def test_a_warehouse_in_a_bucket(here, bucket, frame, monkeypatch, caplog):
    """With the catalogue's properties, with options, and with what the environment says of S3."""
    properties = {
        "uri": f"sqlite:///{here}/catalog.db",
        "warehouse": "s3://out/warehouse",
        "s3.endpoint": bucket.url,
        "s3.access-key-id": "owner",
        "s3.secret-access-key": "owner",
        "s3.region": "us-east-1",
    }
    with SqlCatalog("lake", **properties) as catalog:
        catalog.create_namespace("sea")
        found = catalog.create_table("sea.t", schema=arrow(frame).schema)
        with found.update_spec() as spec:
            spec.add_identity("year")
        for part in (frame[:400], frame[400:]):
            found.append(arrow(part))
    url, (first, second) = found.metadata_location, found.snapshots()
    variables = {
        f"PYICEBERG_CATALOG__LAKE__{name.upper().replace('.', '__').replace('-', '_')}": name for name in properties
    }
    for variable in (name for name in os.environ if name.startswith("AWS_")):
        monkeypatch.delenv(variable)
    for variable, name in variables.items():
        monkeypatch.setenv(variable, properties[name])
    assert ids() == ids(version=second.snapshot_id) == list(range(600))
    assert ids(version=first.snapshot_id, filter="year == 2025 and id < 250") == list(range(200, 250))
    summary = run(job())
    assert (summary.n_rows, open_result("job.zarr").data["version"]) == (600, second.snapshot_id)

    for variable, name in variables.items():
        if name.startswith("s3."):
            monkeypatch.delenv(variable)
    options = {"key": "owner", "secret": "owner", "endpoint_url": bucket.url}
    assert ids(storage_options=options) == ids(url, storage_options=options) == list(range(600))
    with pytest.raises(UserError, match=names("data.source", "s3://out/warehouse/sea/t ", "catalogue")):
        ids(url.partition("/metadata/")[0], storage_options=options)
    for variable, value in bucket.environment.items():
        monkeypatch.setenv(variable, value)
    assert ids() == ids(url, filter="id >= 0") == list(range(600))

    for variable in bucket.environment:
        monkeypatch.delenv(variable)
    lent = handed_out(found, url, **{"s3.endpoint": bucket.url, "s3.region": "us-east-1"})
    with rest_catalog(lent) as address:
        monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", address)
        assert find_location(DataConfig(source=SOURCE)).fs.key == "lent"
        caplog.set_level("DEBUG")
        events = []
        assert run(job("lent.zarr"), progress=events.append).n_rows == 600
    written = [file.read_bytes() for file in Path("lent.zarr").rglob("*") if file.is_file()]
    shown = [
        text.encode()
        for text in (
            str(events),
            *(log.getMessage() for log in caplog.records if log.name.startswith(("gmm_dask", "pipeline", "pyiceberg"))),
        )
    ]
    assert not any(secret in text for secret in (b"hush-hush", b"an-hour") for text in written + shown)
    for variable, value in bucket.environment.items():
        monkeypatch.setenv(variable, value)

    bucket.client.download_file("out", url.removeprefix("s3://out/"), "copy.metadata.json")
    with pytest.raises(UserError, match=names("data.source", "copy.metadata.json", "s3://", "metadata file")):
        source("copy.metadata.json")
    with pytest.raises(FaultError, match=names("data.source", "lake", "sea.t", "credentials")):
        source(storage_options={**options, "endpoint_url": "http://127.0.0.1:9"})


def test_delete_files_are_refused(table):
    """As the plan of a table with rows that were deleted on reading has them; PyIceberg does not write such files."""
    deletes = [SimpleNamespace(content=SimpleNamespace(name="POSITION_DELETES"))]
    task = SimpleNamespace(delete_files=deletes, file=None)
    with pytest.raises(UserError, match=names("data.source", "position_deletes", "rewrite_data_files")):
        iceberg._require_plain_files([task], source().location)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("iceberg://lake/sea.none", ["lake", "no table sea.none"]),
        ("iceberg://other/sea.t", ["other", "PYICEBERG_CATALOG__OTHER__URI"]),
        ("iceberg://lake", ["CATALOG/NAMESPACE.TABLE"]),
        ("no.metadata.json", ["no.metadata.json"]),
        ("wrong.metadata.json", ["wrong.metadata.json", "no metadata file"]),
        ("warehouse/sea/t/data/**/*.parquet", ["warehouse/sea/t ", "Iceberg"]),
        ("warehouse/sea/t/data", ["warehouse/sea/t ", "Iceberg"]),
    ],
)
def test_what_is_no_table_is_refused(table, path, parts):
    Path("wrong.metadata.json").write_text("{}")
    with pytest.raises(UserError, match=names("data.source", *parts)):
        source(path)


def test_without_the_package(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    with pytest.raises(UserError, match=names("data.source", "pyiceberg", "pip install", "gmm-dask[iceberg]")):
        source()


def test_results_within_the_table_are_refused(table):
    metadata = Path(table.metadata_location.removeprefix("file://"))
    with pytest.raises(UserError, match=names("within the data")):
        require_apart(str(metadata), [metadata.parents[1] / "job.zarr"])
