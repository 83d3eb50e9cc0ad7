"""Iceberg tables: the Parquet files of a snapshot, as the table's metadata tell."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pyarrow as pa
from dask.utils import natural_sort_key
from fsspec.core import strip_protocol

from gmm_dask.errors import UserError
from pipeline.config.data import DataConfig
from pipeline.config.fields import in_utc
from pipeline.config.formats import ICEBERG
from pipeline.config.row_filter import AllOf, AnyOf, Comparison, Condition, Missing, parse_filter
from pipeline.sources.base import ChunkPolicy, Source
from pipeline.sources.catalogs import require_pyiceberg
from pipeline.sources.formats.parquet import Table, TableFile, open_files
from pipeline.sources.formats.row_filter import require_columns
from pipeline.sources.location import Location


def open_iceberg(data: DataConfig, location: Location, policy: ChunkPolicy) -> Source:
    """Open a snapshot of an Iceberg table; see :func:`pipeline.sources.open_source`.

    Its files are read in the natural order of their paths.
    """
    require_pyiceberg()
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    table = _load(_metadata_file(location))
    snapshot, newest = _snapshot(table, data, location), table.current_snapshot()
    projection = table.scan(snapshot_id=snapshot.snapshot_id).projection()
    schema = schema_to_pyarrow(projection)
    scan = table.scan(_row_filter(data, schema, location), snapshot_id=snapshot.snapshot_id)
    with location.reading():
        tasks = sorted(scan.plan_files(), key=lambda task: natural_sort_key(task.file.file_path))
        every = tasks or list(table.scan(snapshot_id=snapshot.snapshot_id).plan_files())[:1]
    _require_plain_files(every, location)
    if not every:
        raise UserError(f"data.source: snapshot {snapshot.snapshot_id} of {location.source} has no rows.")
    keys = _partition_fields(table, {field.field_id: field.name for field in projection.fields})
    partitioned_by = dict.fromkeys(name for fields in keys.values() for _, name in fields)
    found = Table(ICEBERG, schema, tuple(partitioned_by), snapshot.snapshot_id)
    files = [_file(task.file, keys[task.file.spec_id], schema, location) for task in every]
    note = f"snapshot {snapshot.snapshot_id} of the Iceberg table is read"
    if newest is not None and snapshot.snapshot_id != newest.snapshot_id:
        note += f"; the newest is {newest.snapshot_id}"
    return open_files(data, location, policy, files, [note], found)


# -- the metadata --------------------------------------------------------------------------------------------


def _metadata_file(location: Location) -> Location:
    """Return the newest metadata file of a table's folder, which a catalogue of files names in it."""
    if location.path.endswith(ICEBERG.endings):
        return location
    folder = location.at(posixpath.join(location.path, "metadata"))
    hint = folder.at(posixpath.join(folder.path, "version-hint.text"))
    with location.reading():
        if not location.fs.exists(hint.path):
            raise UserError(
                f"data.source: the folder {location.source} of an Iceberg table does not tell which of its metadata "
                "files is the newest; its catalogue does. Name the table in the catalogue, "
                "iceberg://CATALOG/NAMESPACE.TABLE, or the metadata file."
            )
    text = hint.read(0, hint.size()).decode().strip()
    name = text if text.endswith(ICEBERG.endings) else f"{'v' * text.isdigit()}{text}{ICEBERG.endings[0]}"
    return folder.at(posixpath.join(folder.path, name))


def _load(metadata_file: Location) -> Any:
    """Load a table by its metadata file, through the file system of the location, which has its credentials."""
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.exceptions import ValidationError
    from pyiceberg.io import FileIO, InputFile
    from pyiceberg.io.fsspec import FsspecInputFile
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import StaticTable

    class FilesOfLocation(FileIO):
        """Reads the files of the table, which its metadata name by their URLs."""

        def new_input(self, location: str) -> InputFile:
            return FsspecInputFile(_path_of(location, metadata_file), metadata_file.fs)

        def new_output(self, location: str) -> Any:
            raise NotImplementedError("tables are only read")

        def delete(self, location: Any) -> None:
            raise NotImplementedError("tables are only read")

    with metadata_file.reading():
        try:
            metadata = FromInputFile.table_metadata(FsspecInputFile(metadata_file.path, metadata_file.fs))
        except (ValidationError, ValueError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(
                f"data.source: {metadata_file.source} is no metadata file of an Iceberg table: {words}. Name another."
            ) from None
    identifier, path = ("table", metadata_file.path), metadata_file.path
    return StaticTable(identifier, metadata, path, FilesOfLocation(), NoopCatalog("table"))


def _path_of(url: str, location: Location) -> str:
    """Return the path of a file that a table's metadata name by its URL, on the file system of the metadata."""
    scheme, colon, _ = url.partition(":")
    known = location.fs.protocol
    if not colon or scheme in ((known,) if isinstance(known, str) else known):
        return str(strip_protocol(url)) if colon else url
    raise UserError(
        f"data.source: the Iceberg table {location.source} has its files at {scheme}://, and its metadata were read "
        "elsewhere. Name the metadata file that lies with them, or the table in its catalogue."
    )


def _snapshot(table: Any, data: DataConfig, location: Location) -> Any:
    """Return the snapshot that the configuration names by its number or a time; else the newest."""
    if data.version is None:
        found = table.current_snapshot()
        if found is None:
            raise UserError(
                f"data.source: the Iceberg table {location.source} has no snapshot: nothing was written to it."
            )
        return found
    if isinstance(data.version, int):
        found = table.snapshot_by_id(data.version)
    else:
        moment = in_utc(datetime.fromisoformat(data.version))
        found = table.snapshot_as_of_timestamp(int(moment.timestamp() * 1000))
    if found is None:
        listing = ", ".join(
            f"{each.snapshot_id} ({datetime.fromtimestamp(each.timestamp_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S})"
            for each in table.snapshots()[-5:]
        )
        raise UserError(
            f"data.version: the Iceberg table {location.source} has no snapshot {data.version}; the last ones are "
            f"{listing or 'none'}. Snapshots go when they expire."
        )
    return found


# -- its files -----------------------------------------------------------------------------------------------


def _require_plain_files(tasks: Iterable[Any], location: Location) -> None:
    """Raise :class:`UserError` if the rows of a table are not those of its files, or these are not Parquet."""
    for task in tasks:
        if task.delete_files:
            kinds = sorted({str(getattr(one.content, "name", one.content)).lower() for one in task.delete_files})
            raise UserError(
                f"data.source: the Iceberg table {location.source} has delete files ({', '.join(kinds)}), which are "
                "not supported. Rewrite its data files, as rewrite_data_files of Spark does, or write its rows as "
                "Parquet."
            )
        kind = str(getattr(task.file.file_format, "name", task.file.file_format))
        if kind.upper() != "PARQUET":
            raise UserError(
                f"data.source: the Iceberg table {location.source} has files in {kind}, which is not supported. Write "
                "them as Parquet."
            )


def _partition_fields(table: Any, names: dict[int, str]) -> dict[int, list[tuple[int, str]]]:
    """Return the columns by whose values each partition spec cuts the files, with their positions in its records."""
    from pyiceberg.transforms import IdentityTransform

    return {
        number: [
            (i, names[field.source_id])
            for i, field in enumerate(spec.fields)
            if isinstance(field.transform, IdentityTransform) and field.source_id in names
        ]
        for number, spec in table.specs().items()
    }


def _file(file: Any, keys: list[tuple[int, str]], schema: pa.Schema, location: Location) -> TableFile:
    constants = tuple(
        (name, pa.scalar(file.partition[i], schema.field(name).type)) for i, name in keys if name in schema.names
    )
    return TableFile(location.at(_path_of(file.file_path, location)), constants)


# -- what a filter rules out ---------------------------------------------------------------------------------


def _row_filter(data: DataConfig, schema: pa.Schema, location: Location) -> Any:
    """Return the filter for the plan of the files: what a file's statistics can rule out."""
    from pyiceberg.expressions import AlwaysTrue

    if data.filter is None:
        return AlwaysTrue()
    condition = parse_filter(data.filter)
    require_columns(condition, schema, location.source)
    return _expression(condition, schema)


def _expression(condition: Condition, schema: pa.Schema) -> Any:
    ice: Any = import_module("pyiceberg.expressions")  # its types do not allow the names of columns
    match condition:
        case AllOf(conditions=parts):
            return ice.And(ice.AlwaysTrue(), ice.AlwaysTrue(), *(_expression(part, schema) for part in parts))
        case AnyOf(conditions=parts):
            return ice.Or(ice.AlwaysFalse(), ice.AlwaysFalse(), *(_expression(part, schema) for part in parts))
        case Missing(column=name, negated=negated):
            if negated:
                return ice.NotNull(name)
            is_float = pa.types.is_floating(schema.field(name).type)  # NaN is missing, and not counted
            return ice.AlwaysTrue() if is_float else ice.IsNull(name)
        case Comparison(column=name, operator=operator, value=value):
            kind = schema.field(name).type
            compared: Any = value
            if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
                compared = _time(str(value), kind)
            elif pa.types.is_floating(kind):
                compared = float(str(value))  # of its digits: a whole number beyond all floats is infinite
            elif isinstance(value, float):
                return ice.AlwaysTrue()
            kinds = {"==": ice.EqualTo, "!=": ice.NotEqualTo, "<": ice.LessThan, "<=": ice.LessThanOrEqual}
            kinds |= {">": ice.GreaterThan, ">=": ice.GreaterThanOrEqual}
            return ice.AlwaysTrue() if compared is None else kinds[operator](name, compared)


def _time(text: str, kind: pa.DataType) -> str | None:
    """Return a date or a time in the form of its column; None for a time of day beside a date."""
    moment = datetime.fromisoformat(text)
    if pa.types.is_date(kind):
        return moment.date().isoformat() if moment.time() == datetime.min.time() and moment.tzinfo is None else None
    if kind.tz is None and moment.tzinfo:
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (moment if kind.tz is None else in_utc(moment)).isoformat()
