"""Data and results that lie in each other: results would be read as data, or data replaced by a result."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.core import strip_protocol
from fsspec.utils import glob_translate

from gmm_dask.errors import FaultError, UserError
from pipeline.config.environment import fill_in
from pipeline.config.formats import ICEBERG
from pipeline.config.secrets import shown
from pipeline.sources.files import find_files, table_format
from pipeline.sources.location import Location, matches

# names of one file system
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs", "local": "file"}
# a file as a result may hold it
_PART = "part-00000.parquet"


@dataclass(frozen=True)
class _Place:
    """A path on a file system; a local one is absolute, without links."""

    scheme: str
    path: str

    @classmethod
    def of(cls, path: str | Path) -> _Place:
        scheme, separator, rest = str(path).partition("://")
        scheme = _ALIASES.get(scheme.lower(), scheme.lower()) if separator else "file"
        if scheme != "file":
            return cls(scheme, posixpath.normpath(rest))
        return cls("file", os.path.realpath(strip_protocol(f"file://{rest}") if separator else path))

    def is_within(self, other: _Place) -> bool:
        """Whether this is the other, or lies below it."""
        if self.scheme != other.scheme:
            return False
        if self.path == other.path or self.path.startswith(f"{other.path.rstrip('/')}/"):
            return True
        # a file system may not tell upper from lower case, or show a folder in two places
        return self.scheme == "file" and os.path.exists(other.path) and self._leads_through(other.path)

    def _leads_through(self, folder: str) -> bool:
        path = Path(self.path)
        return any(one.exists() and one.samefile(folder) for one in (path, *path.parents))


def require_apart(source: str, results: Iterable[str | Path]) -> None:
    """Check that no result lies within the data, nor the data within a result, whatever links lead there.

    Parameters
    ----------
    source : str
        As in a configuration. Where a variable of the environment is not set, or nothing can be read, nothing is
        checked: opening the data tells.
    results : iterable of path
        Files and folders that a command writes.

    Raises
    ------
    UserError
        If one lies within the other.
    """
    try:
        paths, folders = _data_places(source)
    except (UserError, FaultError):
        return
    data = shown(source)
    for result in results:
        place = _Place.of(result)
        if any(one.is_within(place) for one in (*paths, *folders)):
            raise UserError(
                f"data.source: {data} lies within {result}, which this command writes or replaces: the data would be "
                "lost. Choose another path for the result (output.store; of scores, score.out or -o)."
            )
        if any(place.is_within(one) for one in paths) or _matches(source, place):
            raise UserError(
                f"{result} lies within the data {data}: the next run would read the result as data. Choose a path "
                "outside of them (output.store; of scores, score.out or -o)."
            )


def require_apart_from_stored(source: str, results: Iterable[str | Path]) -> None:
    """Do so for the source that a store tells; a relative one is not known in another current directory."""
    if os.path.isabs(source) or "://" in source:
        require_apart(source, results)


def require_outside(result: str | Path, store: Sequence[str | Path]) -> None:
    """Raise :class:`UserError` if a result lies within one of the folders of a result store, or holds one."""
    place = _Place.of(result)
    for folder in store:
        other = _Place.of(folder)
        if place.is_within(other) or other.is_within(place):
            raise UserError(
                f"{result} and {folder} lie within each other, and the next run may replace either. Choose another "
                "path with -o (of score-batch, score.out)."
            )


def _data_places(source: str) -> tuple[list[_Place], list[_Place]]:
    """Return the paths of the data, one or those that a glob matches, and the folders where their files really lie."""
    place = _Place.of(fill_in(source, "data.source"))
    if place.path.endswith(ICEBERG.endings):  # in a folder of the table's
        return [_Place(place.scheme, posixpath.dirname(posixpath.dirname(place.path)))], []
    if place.scheme != "file":
        return ([] if glob.has_magic(place.path) else [place]), []
    location = Location(source, place.path, True, fsspec.filesystem("file"))
    if not location.is_glob and table_format(location):
        return [place], []
    found = matches(location) if location.is_glob else [place.path]
    folders = {os.path.dirname(os.path.realpath(file)) for file in find_files(location).paths}
    return list(map(_Place.of, found)), [_Place("file", folder) for folder in folders]


def _matches(source: str, place: _Place) -> bool:
    """Whether a glob matches a result, a file in it, or a folder around it."""
    data = _Place.of(fill_in(source, "data.source"))
    if not glob.has_magic(data.path) or data.scheme != place.scheme:
        return False
    pattern = re.compile(glob_translate(data.path))
    around = [place.path, *map(str, Path(place.path).parents)]
    return any(pattern.match(one) for one in (posixpath.join(place.path, _PART), *around))
