"""Delta tables: the rows of a version, through the readers of Parquet."""

import base64
import json
import string
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyroaring import BitMap

import pipeline.sources.rows
from gmm_dask.errors import UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig, load_config
from pipeline.fit.job import run
from pipeline.score.estimate import estimate_scores
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.sources import open_keys, open_source
from pipeline.sources.fingerprint import header_of
from pipeline.store import open_result
from s3 import Bucket, s3_server


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=600)
    rows = pd.DataFrame(rng.normal(size=(600, 2)) + 8 * np.stack([group, group == 1], axis=1), columns=["a", "b"])
    return rows.assign(year=np.repeat([2024, 2025, 2026], 200), ship=np.tile(["A b", "C/d"], 300), id=np.arange(600))


@pytest.fixture
def table(here, frame):
    """A table of three versions: 400 rows; 200 of another year; without the odd ids."""
    write_deltalake("t", frame[:400], partition_by=["year", "ship"])
    write_deltalake("t", frame[400:], mode="append")
    DeltaTable("t").delete("id % 2 = 1")
    return "t"


def source(path="t", **options):
    return open_source(DataConfig(source=str(path), **options))


def ids(**options):
    return sorted(source(columns=["id"], **options).array.compute(scheduler="sync").ravel().astype(int).tolist())


def job(store="job.zarr", **data):
    data = {"source": "t", "columns": ["a", "b"], "chunk_rows": 60, **data}
    search = {"n_components": [2, 3], "covariance_types": ["full"], "init_params": "kmeans"}
    output = {"store": store, "log_density": True, "report": False}
    return JobConfig.model_validate({"data": data, "search": search, "output": output})


def test_the_rows_are_those_of_the_newest_version(table):
    opened = source()
    assert (opened.format.name, opened.n_rows, opened.version) == ("delta", 300, 2)
    assert opened.columns == ("a", "b", "id")
    assert any("year" in note and "partition" in note for note in opened.notes)
    assert any("version 2 " in note for note in opened.notes)
    assert ids() == list(range(0, 600, 2))
    # the files that the log has removed are still there
    assert len(list(Path("t").rglob("*.parquet"))) > len({part.location for part in opened.chunks.pieces})


def test_earlier_versions_by_number_and_by_time(table):
    assert ids(version=0) == list(range(400))
    assert ids(version=1) == list(range(600))
    assert any("the newest is 2" in note for note in source(version=1).notes)
    times = [entry["timestamp"] for entry in DeltaTable("t").history()][::-1]
    for number, moment in enumerate(times):
        assert source(version=datetime.fromtimestamp(moment / 1000 + 0.001, UTC).isoformat()).version == number
    for wrong in (7, "2020-01-01"):
        with pytest.raises(UserError, match=names("data.version", wrong, "newest is 2")):
            source(version=wrong)


def test_filters_and_partitions(table, frame):
    even = frame[frame.id % 2 == 0]
    for condition in ("year == 2025 and ship == 'A b'", "ship == 'C/d'", "year > 2024 and a > 3"):
        assert ids(filter=condition) == even.query(condition)["id"].tolist()
    left = source(filter="year == 2025 and ship == 'A b'")
    assert left.n_rows == 100
    assert any("data.filter: 1 of " in note for note in left.notes)
    with pytest.raises(UserError, match=names("data.filter: t has no column 'yaer'", "did you mean year?")):
        source(filter="yaer == 2026")
    opened = source(columns=["a", "year"], filter="year == 2026")
    assert set(opened.array[:, 1].compute()) == {2026.0}
    read = open_keys(opened, ["id", "year", "ship"])
    keys = pa.concat_tables([read(i) for i in range(len(opened.chunks.pieces))]).to_pandas()
    expected = even.query("year == 2026")[["id", "year", "ship"]]
    assert sorted(keys.itertuples(index=False)) == sorted(expected.itertuples(index=False))


def test_a_column_that_was_added_has_no_values_before(table, frame):
    write_deltalake("t", frame[:5].assign(new=1.5), mode="append", schema_mode="merge")
    values = source(columns=["new"]).array.compute()
    assert (np.isnan(values).sum(), (values == 1.5).sum()) == (300, 5)
    assert ids(filter="new is not null") == [0, 1, 2, 3, 4]
    assert len(ids(filter="new is null")) == 300


@pytest.mark.parametrize("size", ["in memory", "in chunks"])
def test_a_job_is_that_of_the_same_rows_as_parquet(table, frame, size, monkeypatch):
    """A killed run resumes with the version that it began with, while others write; a later one takes the newest."""
    if size == "in chunks":
        monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)

    def stop(event):
        if getattr(event, "name", "") == "select":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job(), progress=stop)
    write_deltalake("t", frame[:100], mode="append")
    summary = run(job())
    assert open_result("job.zarr").data["version"] == 2
    opened = source(version=2, columns=["a", "b", "id"])
    rows = pd.DataFrame(opened.array.compute(), columns=["a", "b", "id"])
    rows.to_parquet("same.parquet", row_group_size=60)
    by_hand = run(job("by-hand.zarr", source="same.parquet"))
    np.testing.assert_allclose(summary.table["bic"], by_hand.table["bic"], rtol=1e-9)
    assert summary.n_rows == 300
    # complete: the same version, also by its number; another job takes the newest
    assert run(job()).reused
    assert run(job(version=2)).reused
    with pytest.raises(UserError, match=names("data.version is 2 there and 1 here", "--fresh")):
        run(job(version=1))
    assert run(job(), fresh=True).n_rows == 400
    assert open_result("job.zarr").data["version"] == 3


def test_a_version_that_was_removed_is_named(table, frame):
    run(job())
    write_deltalake("t", frame[:100], mode="overwrite")
    DeltaTable("t").vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(UserError, match=names("job.zarr", "version 2", "--fresh")):
        run(job())
    assert run(job(), fresh=True).n_rows == 100


def test_validate_opens_new_rows_without_the_version_of_the_fit(table, frame):
    frame.to_parquet("new.parquet")
    config = job(version=1).model_dump()
    config |= {"score": {"source": "new.parquet", "out": "s-{started:%Y-%m-%d}.zarr"}}
    assert estimate_scores(JobConfig.model_validate(config)).source.n_rows == 600


def test_scores_are_of_one_version(table, frame):
    run(job())

    def write(event):
        if getattr(event, "name", "") == "write rows":
            write_deltalake("t", frame[:10], mode="append")

    assert score("job.zarr", "t", "s.zarr", progress=write).rows.n_rows == 300
    assert DeltaTable("t").version() == 3
    earlier = ScoreSettings.from_overrides(["data.version=0"])
    assert score("job.zarr", "t", "earlier.zarr", settings=earlier).rows.n_rows == 400


def change_log(**changes):
    path = Path("t/_delta_log/00000000000000000000.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name in line.keys() & changes.keys():
            line[name] |= changes[name]
    path.write_text("\n".join(map(json.dumps, lines)))


def with_feature(name):
    return {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [name], "writerFeatures": [name]}


MAPPING = {"minReaderVersion": 2, "minWriterVersion": 5}, {"configuration": {"delta.columnMapping.mode": "name"}}


@pytest.mark.parametrize(
    ("feature", "change"),
    [
        ("[tT]ypeWidening", {"protocol": with_feature("typeWidening")}),
        ("notYetKnown", {"protocol": with_feature("notYetKnown")}),
        ("[cC]olumn ?[mM]apping", {"protocol": MAPPING[0], "metaData": MAPPING[1]}),
    ],
)
def test_features_that_are_not_supported_are_named(here, frame, feature, change):
    write_deltalake("t", frame)
    change_log(**change)
    with pytest.raises(UserError, match=f"data.source.*{feature}"):
        source()


def deletion_vector(rows):
    """Rows that are deleted, as Delta's protocol has them within the log."""
    bitmap = struct.pack("<iQI", 1681511377, 1, 0) + BitMap(rows).serialize()
    encoded = base64.b85encode(bitmap + b"\0" * (-len(bitmap) % 4)).decode()
    b85 = string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~"
    z85 = string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
    text = encoded.translate(str.maketrans(b85, z85))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(bitmap), "cardinality": len(rows)}


def test_deletion_vectors_are_refused_where_there_are_some(here, frame):
    write_deltalake("t", frame, configuration={"delta.enableDeletionVectors": "true"})
    assert source().n_rows == 600
    change_log(add={"deletionVector": deletion_vector([1, 3])})
    with pytest.raises(UserError, match=names("data.source", "deletionVectors", "PURGE")):
        source()


def test_without_the_package(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(UserError, match=names("data.source", "deltalake", "pip install", "gmm-dask[delta]")):
        source()


@pytest.mark.parametrize("path", ["t/**/*.parquet", "t/year=2024/**/*.parquet", "t/year=2024", "."])
def test_the_files_of_a_table_are_no_data(table, path):
    with pytest.raises(UserError, match=names("data.source", "t ", "Delta", "folder of the table")):
        source(path)


def test_other_data_have_no_versions(here, frame):
    frame.to_parquet("a.parquet")
    with pytest.raises(UserError, match=names("data.version", "a.parquet", "Delta")):
        source("a.parquet", version=1)


def test_versions_in_a_config(table):
    cases = {"1": 1, "2026-11-28": "2026-11-28", "'2026-11-28T06:00'": "2026-11-28T06:00"}
    for text, expected in {**cases, "2026-11-28T06:00:00Z": "2026-11-28T06:00:00+00:00"}.items():
        Path("job.yaml").write_text(f"data:\n  source: t\n  version: {text}\n")
        assert load_config("job.yaml").data.version == expected
    for text in ("yesterday", "-1", "1.5"):
        Path("job.yaml").write_text(f"data:\n  source: t\n  version: {text}\n")
        with pytest.raises(UserError, match=names("job.yaml:3", "data.version")):
            load_config("job.yaml")


@pytest.mark.slow
def test_a_table_in_a_bucket(table, monkeypatch):
    """With the options of fsspec, and with credentials of the environment."""
    with s3_server() as url:
        bucket = Bucket(url)
        for file in filter(Path.is_file, Path("t").rglob("*")):
            bucket.client.upload_file(str(file), "out", file.as_posix())
        options = {
            "key": "owner",
            "secret": "owner",
            "endpoint_url": url,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        opened = source("s3://out/t", columns=["id"], filter="year == 2026", storage_options=options)
        assert sorted(opened.array.compute(scheduler="sync").ravel()) == list(range(400, 600, 2))
        with pytest.raises(UserError, match=names("data.storage_options", "default_block_size", "environment")):
            source("s3://out/t", storage_options={**options, "default_block_size": 1})
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        assert source("s3://out/t", version=0).n_rows == 400


def test_the_header_knows_the_version(table):
    assert header_of(source())["version"] == 2
    assert header_of(source())["files"] == header_of(source(version=2))["files"]
    assert header_of(source())["files"] != header_of(source(version=1))["files"]
