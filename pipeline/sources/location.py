"""Where data lie: a local path, or a URL that fsspec opens; and what goes wrong there, in words."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from gmm_dask.errors import FaultError, UserError
from pipeline.config.environment import fill_in, hide, redacted
from pipeline.config.job import DataConfig

# files of a Zarr store that are not chunks
ZARR_METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
# packages that file systems need, and the extras of this program that bring them
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
EXTRAS |= {"http": "http", "https": "http"}
# what tells a version of a remote file from another, as file systems call it
_VERSION_KEYS = frozenset(
    {"size", "etag", "lastmodified", "last_modified", "mtime", "created", "md5", "md5hash", "generation", "updated"}
)
# faults of these packages are not OSErrors, although they are about files
_REMOTE_PACKAGES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs"})
_NO_PERMISSION = frozenset({"NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError"})


@dataclass(frozen=True)
class Place:
    """A file, a folder or a glob on a file system.

    Attributes
    ----------
    source : str
        As in the configuration, for messages and the store: without what the environment filled in.
    path : str
        On the file system.
    is_local : bool
    fs : fsspec.AbstractFileSystem
    hidden : tuple
        Of the configuration, what the environment filled in.
    """

    source: str
    path: str
    is_local: bool
    fs: AbstractFileSystem = field(repr=False)
    hidden: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def is_glob(self) -> bool:
        """Whether the path may match several; one with a star in its name that exists is itself."""
        if self.is_local:
            return glob.has_magic(self.path) and not Path(self.path).exists()
        return not self.is_web and glob.has_magic(self.path)

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which knows files and no folders."""
        return self.path.startswith(("http://", "https://"))

    def is_folder(self) -> bool:
        """Whether there are files below it."""
        with self.reading():
            return not self.is_web and bool(self.fs.isdir(self.path))

    def at(self, path: str) -> Place:
        """Another path on the same file system; in messages it is called as the source is written."""
        return Place(self._named(path), path, self.is_local, self.fs, self.hidden)

    def _named(self, path: str) -> str:
        if path.startswith(self.path):
            return self.source + path[len(self.path) :]
        if self.is_local:
            return path if os.path.isabs(self.source) or not os.path.isabs(path) else os.path.relpath(path)
        return str(redacted(hide(self.fs.unstrip_protocol(path), *self.hidden)))

    def open(self) -> IO[bytes]:
        """The file for reading, without a cache: what is not asked for is not read."""
        options = {} if self.is_local else {"cache_type": "none"}
        opened: IO[bytes] = self.fs.open(self.path, "rb", **options)
        return opened

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of the file; fewer where it ends."""
        if stop <= start:
            return b""
        with self.reading():
            found: bytes = self.fs.cat_file(self.path, start=start, end=stop)
        return found

    def fill(self, start: int, numbers: NDArray[Any]) -> None:
        """Fill an array with the file's bytes from ``start`` on; raises :class:`UserError` where they end too early."""
        target = memoryview(numbers).cast("B")
        with self.reading():
            if self.is_local:
                with open(self.path, "rb", buffering=0) as file:
                    file.seek(start)
                    n_read = _read_into(file, target)
            else:
                found = self.fs.cat_file(self.path, start=start, end=start + len(target))
                n_read = len(found)
                target[:n_read] = found
        if n_read < len(target):
            raise UserError(
                f"data.source: {self.source} is truncated: it ends {len(target) - n_read:,} bytes too early, at byte "
                f"{start + n_read:,}. Copy or write it again."
            )

    def size(self) -> int:
        """Bytes of the file."""
        with self.reading():
            return int(self.fs.size(self.path))

    def version(self) -> tuple[Any, ...]:
        """What changes when the file does: its size, and its time or etag."""
        with self.reading():
            if self.is_local:
                stat = os.stat(self.path)
                return stat.st_size, stat.st_mtime_ns
            return _version_of(self.fs.info(self.path))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Put what goes wrong while the place is read in words.

        Raises
        ------
        UserError
            If the path does not exist, or may not be read.
        FaultError
            If the file system fails.
        """
        try:
            yield
        except (UserError, FaultError):
            raise
        except Exception as error:
            if not _is_about_files(error):
                raise
            # the cause may name secrets, and a traceback is logged with all of its causes
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> Exception:
        if self.is_web and isinstance(error.__cause__, Exception):
            error = error.__cause__  # fsspec's web files are not found, whatever the reason
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        words = " ".join(str(redacted(hide(str(reason), *self.hidden))).split()).rstrip(".")
        what = f"data.source: cannot read {self.source}: {words}."
        status = getattr(error, "status", None)
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or status == 404:
            return UserError(f"{what} Correct the path, or put the data there.")
        if isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ in _NO_PERMISSION:
            remedy = "Ask for the right to read it" if self.is_local else _CREDENTIALS
            return UserError(f"{what} {remedy}.")
        if self.is_local:
            return FaultError(f"{what} Look after the disk, then run the same command again.")
        return FaultError(
            f"{what} Look after the network and the address (storage_options may give another one), then run the same "
            "command again: it goes on from the last checkpoint."
        )


_CREDENTIALS = "Give credentials that may read it, in the environment or as ${NAME} in data.storage_options"


def find_place(data: DataConfig) -> Place:
    """Where the data of a job lie.

    Raises
    ------
    UserError
        If a variable of the environment is not set, if the URL's file system is not known or not installed, or if
        nothing is there.
    FaultError
        If the file system cannot be reached.
    """
    source, options = filled_in(data)
    if "://" in source:
        place = _place_of_url(data, source, options)
    elif options:
        raise UserError(f"data.storage_options: expected none for the local path {data.source}.")
    else:
        place = Place(data.source, source, True, fsspec.filesystem("file"))
    _require_existing(place)
    return place


def filled_in(data: DataConfig) -> tuple[str, dict[str, Any]]:
    """The source and the storage options with variables of the environment; they are secret from here on."""
    source: str = fill_in(data.source, "data.source")
    options: dict[str, Any] = fill_in(data.storage_options, "data.storage_options")
    return source, options


def _place_of_url(data: DataConfig, source: str, options: dict[str, Any]) -> Place:
    hidden = (data.source, data.storage_options)
    scheme = source.partition("://")[0]
    try:
        fs, path = url_to_fs(source, **options)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        package = f'pip install "gmm-dask[{extra}]"' if extra else f"pip install {error.name or 'its package'}"
        raise UserError(
            f"data.source: {data.source} needs a package that is not installed ({error.name or error}). Install it: "
            f"{package}."
        ) from None
    except (ValueError, TypeError) as error:
        words = str(redacted(hide(str(error), *hidden))).rstrip(".")
        raise UserError(
            f"data.source: cannot open {data.source}: {words}. Correct the URL (s3://, gs://, abfs://, https://, "
            "memory://, or a local path), or data.storage_options."
        ) from None
    fs.invalidate_cache()
    return Place(data.source, path, isinstance(fs, LocalFileSystem), fs, hidden)


def _require_existing(place: Place) -> None:
    if place.is_glob:
        found: Any = matches(place)
    elif place.is_local:
        with place.reading():
            found = Path(place.path).exists()
    elif place.is_web and is_zarr(place):
        return  # a folder, of which only the files can be asked for
    else:
        with place.reading():
            found = place.fs.info(place.path)
    if not found:
        missing = "no file matches" if place.is_glob else "there is no file or folder"
        where = f" A relative path is looked up from the current directory, {Path.cwd()}." if place.is_local else ""
        raise UserError(f"data.source: {missing} {place.source}.{where}")


def matches(place: Place) -> list[str]:
    """The paths that a glob matches, sorted."""
    if place.is_local:
        return sorted(glob.glob(place.path, recursive=True))
    with place.reading():
        return sorted(place.fs.glob(place.path))


def url_path(place: Place) -> str:
    """The path whose ending tells the format, without a URL's query."""
    return urlsplit(place.path).path if place.is_web else place.path


def is_zarr(place: Place) -> bool:
    """Whether a part of the path ends as that of a Zarr store."""
    return any(part.endswith(".zarr") for part in PurePosixPath(url_path(place)).parts)


def last_modified(place: Place) -> int | str:
    """When the newest file was changed, in nanoseconds since 1970; of remote files, a hash of sizes and etags."""
    paths = matches(place) if place.is_glob else [place.path]
    if place.is_local:
        files = [Path(path) for path in paths]
        below = [inside for file in files if file.is_dir() for inside in file.rglob("*")]
        return max((file.stat().st_mtime_ns for file in [*files, *below]), default=0)
    found = hashlib.sha256()
    with place.reading():
        for path in paths:
            inside = _files_of(place, path)
            for name in sorted(inside):
                found.update(repr((name, _version_of(inside[name]))).encode())
    return found.hexdigest()


def _files_of(place: Place, path: str) -> dict[str, Any]:
    """The files at and below a remote path, each with what is known about it."""
    if not place.is_web:
        return place.fs.find(path, detail=True) or {path: place.fs.info(path)}
    names = [f"{path}/{name}" for name in sorted(ZARR_METADATA)] if is_zarr(place) else [path]
    return {name: place.fs.info(name) for name in names if not is_zarr(place) or place.fs.exists(name)}


def _version_of(info: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((key, str(info[key])) for key in sorted(info) if key.lower() in _VERSION_KEYS)


def _read_into(file: Any, target: memoryview) -> int:
    """Read until the target is full or the file ends: one call reads 2 GiB at most."""
    n_read = 0
    while n_read < len(target):
        count = file.readinto(target[n_read:])
        if not count:
            break
        n_read += count
    return n_read


def _is_about_files(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in _REMOTE_PACKAGES
