"""The location of data: a local path, or a URL that fsspec opens; and its errors as messages for the user."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeGuard
from urllib.parse import urlsplit

import fsspec
from dask.utils import natural_sort_key
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from gmm_dask.errors import FaultError, UserError
from pipeline.config.data import DataConfig
from pipeline.config.environment import fill_in
from pipeline.config.formats import format_of
from pipeline.config.secrets import hide, require_known
from pipeline.sources.catalogs import CATALOG_SCHEME, metadata_in_catalog
from pipeline.sources.retries import UnreachableError

# after which a web server that sends nothing has failed
SILENCE_SECONDS = 60.0
# URL schemes, and the extra of this package that installs what each needs
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
EXTRAS |= {"http": "http", "https": "http"}
# keys of fsspec's file information that change with the file, under the names of various file systems
_VERSION_KEYS = frozenset(
    {"size", "etag", "lastmodified", "last_modified", "mtime", "created", "md5", "md5hash", "generation", "updated"}
)
# errors of these packages are about files without being OSErrors
_REMOTE_PACKAGES = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs"})
_NO_PERMISSION = frozenset({"NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError"})


@dataclass(frozen=True)
class Location:
    """A file, a folder or a glob on a file system.

    Attributes
    ----------
    source : str
        As messages and the store show it: ``${NAME}`` is not filled in, and secrets are hidden.
    path : str
        On the file system.
    is_local : bool
    fs : fsspec.AbstractFileSystem
    hidden : tuple
        The configuration's source and options: messages must not show their secrets, nor what ``${NAME}`` stands for.
    """

    source: str
    path: str = field(repr=False)
    is_local: bool
    fs: AbstractFileSystem = field(repr=False)
    hidden: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def is_glob(self) -> bool:
        """Whether the path is a pattern; a local file with a star in its name is not."""
        if self.is_local:
            return glob.has_magic(self.path) and not Path(self.path).exists()
        return not self.is_web and glob.has_magic(self.path)

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which serves files and lists no folders."""
        return self.path.startswith(("http://", "https://"))

    def is_folder(self) -> bool:
        """Whether it is a folder."""
        with self.reading():
            return not self.is_web and bool(self.fs.isdir(self.path))

    def at(self, path: str) -> Location:
        """Return another path of the same file system, named in messages in the way of the source."""
        return Location(self._named(path), path, self.is_local, self.fs, self.hidden)

    def _named(self, path: str) -> str:
        if path.startswith(self.path):
            return self.source + path[len(self.path) :]
        if self.is_local:
            return path if os.path.isabs(self.source) or not os.path.isabs(path) else os.path.relpath(path)
        return hide(self.fs.unstrip_protocol(path), *self.hidden)

    def open(self) -> IO[bytes]:
        """Open the file for reading, without a cache: only the requested bytes are read."""
        options = {} if self.is_local else {"cache_type": "none"}
        opened: IO[bytes] = self.fs.open(self.path, "rb", **options)
        return opened

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` of the file; fewer where it ends."""
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
        """Return values that change when the file does: its size, and its time or etag."""
        with self.reading():
            if self.is_local:
                stat = os.stat(self.path)
                return stat.st_size, stat.st_mtime_ns
            return _version_of(self.fs.info(self.path))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors of the file system into messages for the user.

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
            # a file system may fail in its own handling of an error
            known = next((one for one in (error, error.__context__) if _is_of_files(one)), None)
            if known is None:
                raise
            # without the cause, whose text may show secrets: a logged traceback includes all causes
            raise self._explained(known) from None

    def _explained(self, error: Exception) -> Exception:
        if self.is_web and isinstance(error.__cause__, Exception):
            error = error.__cause__  # fsspec raises FileNotFoundError for every failure of a web server
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        words = " ".join(hide(str(reason), *self.hidden).split()).rstrip(".")
        what = f"data.source: cannot read {self.source}: {words}."
        status = getattr(error, "status", None)
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or status == 404:
            return UserError(f"{what} Correct the path, or put the data there.")
        if isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ in _NO_PERMISSION:
            remedy = "Ask for the right to read it" if self.is_local else _CREDENTIALS
            return UserError(f"{what} {remedy}.")
        if self.is_local:
            return FaultError(f"{what} Check the disk, then run the same command again.")
        return UnreachableError(
            f"{what} Check the network and the address (data.storage_options may set another one), then run the same "
            "command again: it resumes from the last checkpoint."
        )


def _is_of_files(error: BaseException | None) -> TypeGuard[Exception]:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _REMOTE_PACKAGES


_CREDENTIALS = "Give credentials that may read it, in the environment or as ${NAME} in data.storage_options"


def find_location(data: DataConfig) -> Location:
    """Return the location of a job's data.

    Raises
    ------
    UserError
        If a variable of the environment is not set, if the URL's file system is not known or not installed, or if
        nothing exists there.
    FaultError
        If the file system cannot be reached.
    """
    source, options = filled_in(data)
    if source.startswith(CATALOG_SCHEME):
        url, of_catalog = metadata_in_catalog(source, data.shown, options)
        location = _open_url(data, url, {**options, **of_catalog}, of_catalog)
    elif "://" in source:
        location = _open_url(data, source, options)
    elif options:
        raise UserError(f"data.storage_options: expected none for the local path {data.shown}.")
    else:
        location = Location(data.shown, source, True, fsspec.filesystem("file"))
    _require_existing(location)
    return location


def filled_in(data: DataConfig) -> tuple[str, dict[str, Any]]:
    """Return the source and the storage options with ``${NAME}`` filled in, which must not be shown."""
    require_known({"source": data.source, "storage_options": data.storage_options}, "data")
    source: str = fill_in(data.source, "data.source")
    options: dict[str, Any] = fill_in(data.storage_options, "data.storage_options")
    if source.startswith(("http://", "https://")) and find_spec("aiohttp"):
        options = {**options, "client_kwargs": {"timeout": _web_timeout(), **options.get("client_kwargs", {})}}
    return source, options


def _web_timeout() -> Any:
    """Return the limits of a web server's silence: aiohttp has one of five minutes, for the whole of a request."""
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=30.0, sock_read=SILENCE_SECONDS)


def _open_url(data: DataConfig, source: str, options: dict[str, Any], *hidden_too: dict[str, Any]) -> Location:
    hidden = (data.source, data.storage_options, *hidden_too)
    scheme = source.partition("://")[0]
    try:
        fs, path = url_to_fs(source, **options)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        package = f'pip install "gmm-dask[{extra}]"' if extra else f"pip install {error.name or 'its package'}"
        raise UserError(
            f"data.source: {data.shown} needs a package that is not installed ({error.name or error}). Install it: "
            f"{package}."
        ) from None
    except (ValueError, TypeError) as error:
        words = hide(str(error), *hidden).rstrip(".")
        raise UserError(
            f"data.source: cannot open {data.shown}: {words}. Correct the URL (s3://, gs://, abfs://, https://, "
            "memory://, or a local path), or data.storage_options."
        ) from None
    fs.invalidate_cache()
    return Location(data.shown, path, isinstance(fs, LocalFileSystem), fs, hidden)


def _require_existing(location: Location) -> None:
    if location.is_web and is_store(location):
        return  # a web server cannot be asked for a folder
    with location.reading():
        if location.is_glob:
            found = bool(matches(location))
        elif location.is_local:
            found = Path(location.path).exists()
        else:
            found = bool(location.fs.info(location.path))
    if not found:
        missing = "no file matches" if location.is_glob else "there is no file or folder"
        where = f" A relative path is looked up from the current directory, {Path.cwd()}." if location.is_local else ""
        raise UserError(f"data.source: {missing} {location.source}.{where}")


def matches(location: Location) -> list[str]:
    """Return the paths that a glob matches, in natural order: ``part.2`` before ``part.10``."""
    if location.is_local:
        return sorted(glob.glob(location.path, recursive=True), key=natural_sort_key)
    with location.reading():
        return sorted(location.fs.glob(location.path), key=natural_sort_key)


def url_path(location: Location) -> str:
    """Return the path whose ending tells the format, without a URL's query."""
    return urlsplit(location.path).path if location.is_web else location.path


def is_store(location: Location) -> bool:
    """Whether the path is that of a store of many files, or leads into one."""
    found = format_of(url_path(location))
    return found is not None and found.is_store


def stored_files(location: Location) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield each file of a store, by its path, with values that change when it does."""
    if location.is_local:
        for file in sorted(Path(location.path).rglob("*")):
            if file.is_file():
                yield str(file), location.at(str(file)).version()
        return
    with location.reading():
        found = _remote_files(location)
    yield from ((name, _version_of(found[name])) for name in sorted(found))


def _remote_files(location: Location) -> dict[str, Any]:
    """Return the files of a remote store, each with its information."""
    if not location.is_web:
        found: dict[str, Any] = location.fs.find(location.path, detail=True)
        return found
    # a web server lists no folder: the files that describe the store stand for all
    described = format_of(url_path(location))
    names = [f"{location.path}/{name}" for name in sorted(described.metadata if described else ())]
    return {name: location.fs.info(name) for name in names if location.fs.exists(name)}


def _version_of(info: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((key, str(info[key])) for key in sorted(info) if key.lower() in _VERSION_KEYS)


def _read_into(file: Any, target: memoryview) -> int:
    """Read until the target is full or the file ends; a single call reads 2 GiB at most."""
    n_read = 0
    while n_read < len(target):
        count = file.readinto(target[n_read:])
        if not count:
            break
        n_read += count
    return n_read
