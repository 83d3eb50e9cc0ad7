"""The files of a folder or a glob: which are data, in which order, and which are passed over.

The order is the natural one of their paths, part.2 before part.10, as ``dask.dataframe.read_parquet`` has it: rows are
joined to other tables by their position.
"""

from __future__ import annotations

import glob
import itertools
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dask.utils import natural_sort_key

from gmm_dask.errors import UserError
from gmm_dask.formatting import listed
from pipeline.config.formats import FORMATS, MANY_FILES, Format
from pipeline.sources.location import Location, is_store, matches

# names of files and folders that begin so are not those of data: macOS, Spark and other programs write them
_HIDDEN = (".", "_")
# the folder of a table with its log, by which files may no longer belong to the table
_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
# the files that are the log of an Iceberg table, in a folder metadata
_ICEBERG_LOG = ".metadata.json"


@dataclass(frozen=True)
class DataFiles:
    """The files that a path, a folder or a glob stands for.

    Attributes
    ----------
    paths : tuple of str
        In the order in which they are read.
    passed_over : tuple of str
        Files of a folder that are not read, by their paths in it.
    """

    paths: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def notes(self) -> Iterator[str]:
        """What a user should know of the choice."""
        endings = Counter(PurePosixPath(path).suffix for path in self.paths)
        if len(endings) > 1:
            counts = ", ".join(f"{count:,} of {ending or 'none'}" for ending, count in sorted(endings.items()))
            yield f"files of several endings are read: {counts}"
        if self.passed_over:
            yield f"passed over, as their names are not those of {MANY_FILES.label} data: {listed(self.passed_over)}"


def find_files(location: Location) -> DataFiles:
    """Find the files of a location.

    Raises
    ------
    UserError
        If a table whose log tells which files belong to it lies there.
    """
    if not location.is_glob:
        if location.is_folder():
            _require_no_table_around(location)
        return _files_below(location, location.path)
    _require_no_table_around(location)
    found = [_files_below(location, path) for path in matches(location)]
    paths = dict.fromkeys(path for files in found for path in files.paths)
    passed_over = [path for files in found for path in files.passed_over]
    return DataFiles(tuple(paths), tuple(passed_over))


def _files_below(location: Location, path: str) -> DataFiles:
    """Return the path itself; of a folder, the files with the right ending, without hidden ones."""
    if is_store(location.at(path)) or not location.at(path).is_folder():
        return DataFiles((path,))
    with location.reading():
        inside = _local_files(path) if location.is_local else _remote_files(location, path)
        names = sorted(inside, key=natural_sort_key)
    if table := _table_of(names):
        raise _is_table(location.at(path).source, table)
    data, passed_over = [], []
    for name in names:
        has_ending = PurePosixPath(name).suffix.lower() in MANY_FILES.endings
        is_hidden = any(part.startswith(_HIDDEN) for part in name.split("/"))
        if has_ending and not is_hidden:
            data.append(posixpath.join(path, name))
        elif has_ending is is_hidden and not posixpath.basename(name).startswith("."):
            passed_over.append(name)
    return DataFiles(tuple(data), tuple(passed_over))


def _local_files(folder: str) -> Iterator[str]:
    """Yield the files below a folder, by their paths in it, and links to folders, which are not followed."""
    for place, folders, files in os.walk(folder):
        links = (name for name in folders if os.path.islink(os.path.join(place, name)))
        for name in itertools.chain(files, links):
            yield Path(place, name).relative_to(folder).as_posix()


def _remote_files(location: Location, folder: str) -> Iterator[str]:
    for file in location.fs.find(folder):
        yield PurePosixPath(file).relative_to(folder).as_posix()


# -- tables --------------------------------------------------------------------------------------------------


def _table_of(names: Iterable[str]) -> str:
    """Return the kind of a table whose log is among the files of a folder; empty if there is none."""
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        for folder in folders:
            if folder in _LOGS:
                return _LOGS[folder]
        if folders[-1:] == ("metadata",) and name.endswith(_ICEBERG_LOG):
            return "Iceberg"
    return ""


def table_format(location: Location) -> Format | None:
    """Return the format of the table whose folder a location is; None if it is another folder."""
    with location.reading():
        return next((each for each in FORMATS if each.log and _has(location, location.path, each.log)), None)


def _has(location: Location, folder: str, log: str) -> bool:
    return bool(location.fs.glob(posixpath.join(glob.escape(folder), log)))


def _require_no_table_around(location: Location) -> None:
    """Raise :class:`UserError` if files are those of a table around them, whether they belong to it or not."""
    parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), location.path.split("/")))
    while parts and "=" in parts[-1]:  # a partition of the table
        parts.pop()
    logs = {**_LOGS, f"metadata/*{_ICEBERG_LOG}": "Iceberg"}
    # the files of an Iceberg table lie in a folder of their own
    for folder in filter(None, ("/".join(parts), "/".join(parts[:-1]))):
        with location.reading():
            table = next((table for log, table in logs.items() if _has(location, folder, log)), "")
        if table:
            raise _is_table(location.at(folder).source, table)


def _is_table(folder: str, table: str) -> UserError:
    known = any(each.label == table for each in FORMATS if each.log)
    remedy = (
        f"Set data.source to the folder of the table, {folder} or the one in it"
        if known
        else f"Write the present rows as Parquet, with the library of {table}, and read those"
    )
    return UserError(
        f"data.source: {folder} is the folder of a {table} table, whose log tells which files belong to it: others "
        f"hold rows that were removed. {remedy}."
    )
