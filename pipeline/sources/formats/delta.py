"""Delta tables: the Parquet files that belong to a version of a table, as its log tells."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from dask.utils import natural_sort_key

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.fields import in_utc
from pipeline.config.formats import DELTA
from pipeline.config.row_filter import parse_filter
from pipeline.config.secrets import hide
from pipeline.sources.base import ChunkPolicy, Source
from pipeline.sources.formats.parquet import Table, TableFile, open_files
from pipeline.sources.formats.row_filter import require_columns
from pipeline.sources.location import Location, filled_in
from pipeline.sources.retries import UnreachableError

# features of a table that change nothing about the rows of its files; rows that are deleted are looked for
_HARMLESS = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "variantType", "deletionVectors"})
# the names of fsspec's options for S3, and those of Delta's library
_S3_OPTIONS = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
    "endpoint_url": "AWS_ENDPOINT_URL",
    "region_name": "AWS_REGION",
}


def open_delta(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a version of a Delta table; see :func:`pipeline.sources.open_source`.

    Its files are read in the natural order of their paths.
    """
    with _reading_log(location):
        table, newest = _load(data, location)
        _require_plain_files(table, location)
        schema = pa.schema(table.schema().to_arrow())
        partitioned_by = tuple(table.metadata().partition_columns)
        added = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    if data.filter is not None:
        require_columns(parse_filter(data.filter), schema, location.source)
    found = Table(DELTA, schema, partitioned_by, table.version())
    files = [_file(each, found, location) for each in sorted(added, key=lambda each: natural_sort_key(each["path"]))]
    if not files:
        raise UserError(f"data.source: version {found.version} of the Delta table {location.source} has no rows.")
    note = f"version {found.version} of the Delta table is read"
    if found.version != newest:
        note += f"; the newest is {newest}"
    return open_files(data, location, policy, files, [note], found)


def _file(added: dict[str, Any], table: Table, location: Location) -> TableFile:
    """Return a file as the log has it, where paths are encoded like URLs."""
    path = unquote(added["path"])
    if "://" in path or path.startswith("/"):
        raise UserError(
            f"data.source: the Delta table {location.source} has files outside of its folder, as shallow clones do, "
            f"which is not supported: {path}. Make a deep clone."
        )
    values = {name: added[f"partition.{name}"] for name in table.partitioned_by}
    constants = tuple((name, pa.scalar(value, table.schema.field(name).type)) for name, value in values.items())
    return TableFile(location.at(posixpath.join(location.path, path)), constants)


@contextmanager
def _reading_log(location: Location) -> Iterator[None]:
    """Turn errors of Delta's library into messages for the user."""
    try:
        from deltalake import DeltaTable  # noqa: F401
        from deltalake.exceptions import DeltaError
    except ModuleNotFoundError:
        raise UserError(
            "data.source: Delta tables need the package deltalake, which is not installed: pip install "
            '"gmm-dask[delta]".'
        ) from None
    try:
        yield
    except (DeltaError, OSError) as error:
        what = f"data.source: cannot read the Delta table {location.source}: {_words(error, location)}."
        if location.is_local:
            raise UserError(f"{what} Correct the path, or write the table anew.") from None
        raise UnreachableError(f"{what} Check the network, the address and the credentials.") from None


def _words(error: Exception, location: Location) -> str:
    return hide(" ".join(str(error).split()), *location.hidden).rstrip(".")


def _load(data: DataConfig, location: Location) -> tuple[Any, int]:
    """Load the log up to the version that the configuration names; returns the newest version, too."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    path = location.path if location.is_local else location.fs.unstrip_protocol(location.path)
    table = DeltaTable(path, storage_options=_storage_options(data, location))
    newest = table.version()
    if data.version is not None:
        try:
            table.load_as_version(_version_at(table, data.version))
        except (DeltaError, ValueError) as error:
            raise UserError(
                f"data.version: the Delta table {location.source} has no version {data.version} (the newest is "
                f"{newest}): {_words(error, location)}. Versions go when the log of a table is cleaned up."
            ) from None
    return table, newest


def _version_at(table: Any, version: int | str) -> int:
    """Return the number of a version, or of the newest one at a time, by what the log says of each commit."""
    if isinstance(version, int):
        return version
    moment = in_utc(datetime.fromisoformat(version))
    commits = {entry["version"]: datetime.fromtimestamp(entry["timestamp"] / 1000, UTC) for entry in table.history()}
    found = [number for number, written in commits.items() if written <= moment]
    if not found:
        raise ValueError(f"the first one in the log was written at {min(commits.values()).isoformat()}")
    return int(max(found))


def _require_plain_files(table: Any, location: Location) -> None:
    """Raise :class:`UserError` if a table has features by which its rows are not those of its files."""
    protocol, configuration = table.protocol(), table.metadata().configuration
    features = sorted({*(protocol.reader_features or ())} - _HARMLESS)
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        features = sorted({*features, "columnMapping"})
    if pa.table(table.deletion_vectors()).num_rows:
        features.append("deletionVectors")
    if features:
        raise UserError(
            f"data.source: the Delta table {location.source} uses {', '.join(features)}, which is not supported. Write "
            "it as a table without (of deletionVectors, REORG TABLE ... APPLY (PURGE) does), or its rows as Parquet."
        )


def _storage_options(data: DataConfig, location: Location) -> dict[str, str] | None:
    """Return the options of Delta's library for those of fsspec; of S3 only, others have theirs in the environment."""
    options = filled_in(data)[1]
    if location.is_local:
        return None
    if not options:
        return {"AWS_ALLOW_HTTP": "true"} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") else None
    flat = {**options, **options.get("client_kwargs", {})}
    flat.pop("client_kwargs", None)
    anonymous = flat.pop("anon", False)
    protocol = location.fs.protocol
    unknown = sorted({*flat} - {*_S3_OPTIONS})
    if "s3" not in ((protocol,) if isinstance(protocol, str) else protocol) or unknown:
        raise UserError(
            f"data.storage_options: of Delta tables only {', '.join(_S3_OPTIONS)} and anon for s3:// are known; got "
            f"{', '.join(unknown or sorted(options))}. Give others in the environment."
        )
    found = {_S3_OPTIONS[name]: str(value) for name, value in flat.items()}
    if anonymous:
        found["AWS_SKIP_SIGNATURE"] = "true"
    if found.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        found["AWS_ALLOW_HTTP"] = "true"
    return found
