"""A prefix of an object store: S3, Google Cloud Storage or Azure Blob Storage.

An object is written whole or not at all, and is stored durably when the request returns. What makes other objects
current is the root's ``zarr.json``: it is written only on condition that it is still as it was, and that this run still
holds the lease (:mod:`pipeline.store.places.lease`). There are no renames: what replaces a result is found through a
link at its place until it has been copied there. A link is a ``zarr.json`` with the name of its target.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import hashlib
import json
import os
import posixpath
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from io import BufferedReader, BytesIO, RawIOBase
from typing import IO, Any

from zarr.storage import ObjectStore

from gmm_dask.errors import FaultError, UserError
from pipeline.config.secrets import shown_text
from pipeline.store.places.base import METADATA, LockedError, Place
from pipeline.store.places.lease import Lease, Terms, Witness

try:
    import obstore
    from obstore import exceptions
    from obstore.store import from_url
except ImportError as error:
    raise UserError(
        "results on an object store need the package obstore, which is not installed. Install it: "
        'pip install "gmm-dask[s3]" (or gcs, azure).'
    ) from error

LINK = "gmm-dask-link"
# requests under way at a time
THREADS = 16
# how often a request is made again that failed for the moment: half a minute long where nobody answers
RETRIES, PAUSE_SECONDS, RETRY_SECONDS = 25, 5, 120
# of an open file, the least that is requested
READ_BYTES = 1 << 16
# a link leads to a result, which may be one to its replacement
_LINKS = 3

# leases that this process holds, by the paths of their places
_held: dict[str, Lease] = {}

_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>|\"message\": *\"(.*?)\"", re.DOTALL)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
# where credentials are looked for last
_NO_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google|[Mm]issing ?[Aa]ccount|Account must be specified")
_CREDENTIALS = (
    "Give credentials in the environment: for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL "
    "for other servers than Amazon's), for gs:// GOOGLE_APPLICATION_CREDENTIALS, for az:// AZURE_STORAGE_ACCOUNT_NAME "
    "and AZURE_STORAGE_ACCOUNT_KEY"
)


# -- requests ----------------------------------------------------------------------------------------------------


def connect(url: str) -> Any:
    """Return the object store below a URL, with credentials from the environment."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT)))
    with requests(url):
        return _connect(url, environment)


@lru_cache(maxsize=64)
def _connect(url: str, environment: tuple[tuple[str, str], ...]) -> Any:
    is_plain = any(name.startswith("AWS_ENDPOINT") and value.startswith("http://") for name, value in environment)
    return from_url(
        url,
        client_options={"allow_http": True} if is_plain else None,
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {"max_backoff": timedelta(seconds=PAUSE_SECONDS)},
        },
        **(_found_by_botocore() if url.startswith("s3://") else {}),
    )


def _found_by_botocore() -> dict[str, Any]:
    """Return credentials and region of S3 from where sources have theirs: the environment, ~/.aws, the machine's role.

    Nothing, without botocore or where it finds none: obstore then looks for others.
    """
    try:
        from botocore.session import get_session
    except ImportError:
        return {}
    session = get_session()
    region = session.get_config_variable("region")
    found = {"region": region} if region else {}
    return found | ({"credential_provider": _aws_credentials} if session.get_credentials() else {})


def _aws_credentials() -> dict[str, Any]:
    """Return credentials for some minutes; botocore renews those that expire."""
    from botocore.session import get_session

    found = get_session().get_credentials().get_frozen_credentials()
    return {
        "access_key_id": found.access_key,
        "secret_access_key": found.secret_key,
        "token": found.token,
        "expires_at": datetime.now(UTC) + timedelta(minutes=10),
    }


@contextmanager
def requests(path: str, doing: str = "read") -> Iterator[None]:
    """Turn errors of an object store into messages for the user; an object that is not there to be read passes.

    Raises
    ------
    UserError
        If there is no such bucket, or it refuses.
    FaultError
        If it does not answer.
    FileNotFoundError
    """
    try:
        yield
    except FileNotFoundError as error:
        if doing == "read" and not _NO_BUCKET.search(str(error)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename or path) from None
        raise _explained(path, doing, error) from None
    except (exceptions.BaseError, PermissionError) as error:
        raise _explained(path, doing, error) from None


def _explained(path: str, doing: str, error: Exception) -> Exception:
    text = str(error)
    message = _MESSAGE.search(text)
    words = next(filter(None, message.groups())) if message else text.split("\n")[0].rpartition(" - ")[2]
    what = f"cannot {doing} {path}: {shown_text(' '.join(words.split())).rstrip('.')}."
    if isinstance(error, FileNotFoundError) or _NO_BUCKET.search(text):
        bucket = path.split("/")[2]
        return UserError(f"cannot {doing} {path}: there is no bucket {bucket}. Make it, or correct the URL.")
    if _NO_CREDENTIALS.search(text):
        return UserError(f"cannot {doing} {path}: there are no credentials. {_CREDENTIALS}.")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError | PermissionError):
        return UserError(f"{what} {_CREDENTIALS}, of somebody who may {doing} there.")
    return FaultError(
        f"{what} Check the network and the address (of S3, AWS_ENDPOINT_URL), then run the same command again; a run "
        "resumes from what is written."
    )


class StoredObject:
    """An object that is written on condition that it is as it was."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder, _, self._name = path.rpartition("/")
        self._store = connect(folder)

    def read(self) -> tuple[bytes, Any] | None:
        """Return what is stored, and its version; None if nothing is."""
        try:
            with requests(self.path):
                found = obstore.get(self._store, self._name)
                return bytes(found.bytes()), _version(found.meta)
        except FileNotFoundError:
            return None

    def write(self, data: bytes, version: Any) -> Any:
        """Write if the version is still this one, or, for None, nothing is there; returns the new one, or None."""
        with requests(self.path, "write"):
            try:
                return _version(obstore.put(self._store, self._name, data, mode=version or "create"))
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                pass
        # where an answer was lost, a request that is made again meets what it wrote itself
        found = self.read()
        return found[1] if found and found[0] == data else None


def _version(found: Any) -> dict[str, Any]:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


def _require_conditions(stored: StoredObject) -> None:
    """Raise :class:`UserError` if a store writes whatever the condition: it could not keep two runs apart."""
    if stored.write(b"{}", None) is not None:
        raise UserError(
            f"{stored.path}: this object store has no conditional writes (If-None-Match), without which two runs "
            "could write one result. Choose another output.store."
        )


# -- a place -----------------------------------------------------------------------------------------------------


class ObjectPlace(Place):
    """A prefix of an object store.

    Parameters
    ----------
    url : str
    held : tuple of str, optional
        On a worker, the path of the place that the run holds which sent a task, and the holder of its lease.
    """

    is_local = False

    def __init__(self, url: str, held: tuple[str, str] | None = None) -> None:
        self.path = url.rstrip("/")
        self._folder, _, self._name = self.path.rpartition("/")
        self._sent = held
        self._objects = connect(self.path)

    def __reduce__(self) -> Any:
        lease = self._lease
        held = self._sent if lease is None else (lease[0], lease[1].terms.holder)
        return ObjectPlace, (self.path, held)

    @property
    def _lease(self) -> tuple[str, Lease] | None:
        """The lease of this process under which things are written here, with the path of its place."""
        return next(
            ((path, lease) for path, lease in _held.items() if re.match(rf"{re.escape(path)}($|[./-])", self.path)),
            None,
        )

    def require_lease(self) -> None:
        """Raise :class:`LockedError` if another run has taken over what is written here."""
        if (lease := self._lease) is not None:
            lease[1].require()
        elif self._sent is not None:
            _witness(*self._sent).require()

    # -- what is there ---------------------------------------------------------------------------------------
    def _level(self, folder: str = "") -> tuple[set[str], set[str]]:
        """The names of the folders and of the objects in a folder."""
        with requests(self.path):
            found = obstore.list_with_delimiter(self._objects, folder or None)
        return (
            {posixpath.basename(prefix.rstrip("/")) for prefix in found["common_prefixes"]},
            {posixpath.basename(one["path"]) for one in found["objects"]},
        )

    def names(self) -> set[str]:
        folders, objects = self._level()
        return folders | objects

    def folders(self, folder: str = "") -> list[str]:
        return sorted(self._level(folder)[0])

    def sizes(self, folder: str = "") -> dict[str, int]:
        with requests(self.path):
            return {one["path"]: one["size"] for one in obstore.list(self._objects, folder or None).collect()}

    def has(self, name: str) -> bool:
        try:
            with requests(f"{self.path}/{name}"):
                obstore.head(self._objects, name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        with requests(f"{self.path}/{name}"):
            return bytes(obstore.get(self._objects, name).bytes())

    def open(self, name: str) -> IO[bytes]:
        return BufferedReader(_Ranges(self, name), READ_BYTES)

    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        names = list(names)
        found = self._at_once(lambda name: hashlib.sha256(self.read(name)).hexdigest(), names)
        return dict(zip(names, found, strict=True))

    def open_group(self, mode: Any) -> Any:
        return _ZarrStore(self._objects, place=self, read_only=mode == "r")

    def zarr_store(self) -> Any:
        return self.open_group("r")

    def read_root(self) -> tuple[Place, bytes]:
        place = self
        for _ in range(_LINKS):
            data = place.read(METADATA)
            target = place._target(data)
            if target is None:
                return place, data
            place = ObjectPlace(target, self._sent)
        raise UserError(f"{self} is a link to a link to a link. Remove it.")

    def followed(self) -> Place:
        try:
            return self.read_root()[0]
        except FileNotFoundError:
            return self

    def _target(self, data: bytes) -> str | None:
        """The path that a root's ``zarr.json`` links to, if it does."""
        try:
            attributes = json.loads(data)["attributes"]
            return _beside(self._folder, str(attributes["target"])) if attributes["format"] == LINK else None
        except (ValueError, KeyError, TypeError):
            return None

    def around(self) -> list[Place]:
        scheme, _, rest = self._folder.partition("://")
        folders = rest.split("/")
        return [ObjectPlace(f"{scheme}://{'/'.join(folders[:n])}") for n in range(len(folders), 1, -1)]

    # -- writing ---------------------------------------------------------------------------------------------
    def write(self, name: str, data: bytes) -> None:
        self.require_lease()
        with requests(f"{self.path}/{name}", "write"):
            obstore.put(self._objects, name, data)

    def publish(self, data: bytes) -> None:
        root, lease = StoredObject(f"{self.path}/{METADATA}"), self._lease
        found = root.read()
        if lease is not None:
            lease[1].renew()  # after that whoever takes it over reads what is written here, or changes the root first
        if root.write(data, found and found[1]) is None:
            raise LockedError(f"another run has written to {self.path} meanwhile. This one ends here.")

    def write_with(self, name: str, write: Callable[[Any], None]) -> None:
        buffer = BytesIO()
        write(buffer)
        self.write(name, buffer.getvalue())

    def replace_files(self, files: Mapping[str, bytes], obsolete: Iterable[str] = ()) -> None:
        for name, data in files.items():
            self.write(name, data)
        self.remove(*obsolete)

    # -- removing and replacing ------------------------------------------------------------------------------
    def remove(self, *names: str) -> None:
        folders, objects = self._level()
        keys = [name for name in names if name in objects]
        for name in names:
            if name in folders or "/" in name:
                keys += self.sizes(name)
        self._delete(keys)

    def remove_at_once(self) -> None:
        self._delete([METADATA])
        self._delete(list(self.sizes()))

    def _delete(self, keys: list[str]) -> None:
        if keys:
            self.require_lease()
            with requests(self.path, "write"), _missing_ignored():
                obstore.delete(self._objects, keys)

    def take(self, new: Place, last: str = METADATA) -> None:
        assert isinstance(new, ObjectPlace)
        assert new._folder == self._folder
        if last == METADATA:
            self.publish(self._link(new))
        else:
            self._delete([last])
        self._delete([key for key in self.sizes() if key != METADATA])
        self._at_once(partial(self._copy, new), [key for key in new.sizes() if key != last])
        data = new.read(last)
        if last == METADATA:
            self.publish(data)
        else:
            self.write(last, data)
        new.remove_at_once()

    def _copy(self, new: ObjectPlace, key: str) -> None:
        self.require_lease()
        with requests(self.path, "write"):
            obstore.copy(connect(self._folder), f"{new._name}/{key}", f"{self._name}/{key}")

    def link_to(self, target: Place) -> None:
        present = self._target(self.read(METADATA)) if self.has(METADATA) else None
        if present is None and self.exists():
            raise UserError(f"{self} is to be the link to the newest store, and something else is there. Move it away.")
        if present != target.path:
            self.publish(self._link(target))

    def _link(self, target: Place) -> bytes:
        attributes = {"format": LINK, "target": posixpath.relpath(target.path, self._folder)}
        return json.dumps({"attributes": attributes, "zarr_format": 3, "node_type": "group"}, indent=2).encode()

    def _at_once(self, function: Callable[[str], Any], keys: list[str]) -> list[Any]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(function, keys))

    # -- one run at a time -----------------------------------------------------------------------------------
    @property
    def lock_path(self) -> str:
        return f"{self.path}.lock"

    @contextmanager
    def lock(self, seconds: float, waiting: Callable[[str], object]) -> Iterator[None]:
        stored = StoredObject(self.lock_path)
        lease = Lease(stored, seconds)
        lease.take(waiting)
        _held[self.path] = lease
        try:
            _require_conditions(stored)
            yield
        finally:
            del _held[self.path]
            lease.leave()

    def is_locked(self) -> bool:
        terms, _ = Terms.read(StoredObject(self.lock_path))
        return terms is not None and bool(terms.holder)

    def has_lock(self) -> bool:
        return StoredObject(self.lock_path).read() is not None

    def remove_lock(self) -> None:
        ObjectPlace(self._folder)._delete([f"{self._name}.lock"])


class _Ranges(RawIOBase):
    """An object as a file, of which only the parts are requested that are read."""

    def __init__(self, place: ObjectPlace, name: str) -> None:
        self._place, self._key = place, name
        with requests(f"{place}/{name}"):
            self._size = int(obstore.head(place._objects, name)["size"])
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, target: Any) -> int:
        stop = min(self._position + len(target), self._size)
        if stop <= self._position:
            return 0
        with requests(f"{self._place}/{self._key}"):
            found = obstore.get_range(self._place._objects, self._key, start=self._position, end=stop)
        target[: len(found)] = found
        self._position += len(found)
        return len(found)


@lru_cache(maxsize=16)
def _witness(path: str, holder: str) -> Witness:
    return Witness(StoredObject(f"{path}.lock"), holder)


@contextmanager
def _missing_ignored() -> Iterator[None]:
    """Some object stores say that what is to be deleted is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)):
            raise


def _beside(folder: str, target: str) -> str:
    scheme, _, rest = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, target))}"


def matching_prefixes(pattern: str) -> Iterator[str]:
    """Yield the prefixes that a pattern of :mod:`glob` matches."""
    scheme, _, rest = pattern.partition("://")
    bucket, *segments = rest.split("/")
    found = [f"{scheme}://{bucket}"]
    for segment in segments:
        if glob.has_magic(segment):
            inside = [(folder, ObjectPlace(folder).folders()) for folder in found]
            found = [f"{folder}/{name}" for folder, names in inside for name in fnmatch.filter(names, segment)]
        else:
            found = [f"{folder}/{segment}" for folder in found]
    return (path for path in found if ObjectPlace(path).exists())


# -- Zarr --------------------------------------------------------------------------------------------------------


class _ZarrStore(ObjectStore[Any]):
    """Zarr's store of a place: writes as long as the run holds its lease, and with errors for the user.

    It lives as long as a few arrays are read or written. Meanwhile it asks for no metadata twice, and not for what was
    absent when it emptied a folder, as only the run that holds the lease writes there.
    """

    def __init__(self, store: Any, *, place: ObjectPlace, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._place = place
        self._kept: dict[str, bytes] = {}
        self._written: dict[str, set[str]] = {}

    def with_read_only(self, read_only: bool = False) -> _ZarrStore:
        return _ZarrStore(self.store, place=self._place, read_only=read_only)

    def stored_bytes(self, key: str) -> int:
        """Return the bytes of an object, which the next read of it takes from here."""
        self._kept[key] = self._place.read(key)
        return len(self._kept[key])

    # -- reading ---------------------------------------------------------------------------------------------
    def _is_there(self, key: str) -> bool | None:
        """Whether an object is there; None if that is not known without a request."""
        if key in self._kept:
            return True
        found = [key in written for folder, written in self._written.items() if key.startswith(folder)]
        return all(found) if found else None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if self._is_there(key) is False:
            return None
        if byte_range is None and key in self._kept:
            is_metadata = key.endswith(METADATA)
            return prototype.buffer.from_bytes(self._kept[key] if is_metadata else self._kept.pop(key))
        with requests(self._place.path):
            found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None and key.endswith(METADATA):
            self._kept[key] = found.to_bytes()
        return found

    async def exists(self, key: str) -> bool:
        known = self._is_there(key)
        if known is not None:
            return known
        with requests(self._place.path):
            return await super().exists(key)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        with requests(self._place.path):
            async for name in super().list_dir(prefix):
                yield name

    # -- writing ---------------------------------------------------------------------------------------------
    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._place.require_lease()
        with requests(self._place.path, "write"):
            yield

    async def set(self, key: str, value: Any) -> None:
        with self._writing():
            await super().set(key, value)
        if key.endswith(METADATA):
            self._kept[key] = value.to_bytes()
        for written in self._written.values():
            written.add(key)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        self._kept.pop(key, None)
        with self._writing():
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        folder = f"{prefix.rstrip('/')}/"
        self._kept = {key: data for key, data in self._kept.items() if not key.startswith(folder)}
        with self._writing():
            await super().delete_dir(prefix)
        self._written[folder] = set()
