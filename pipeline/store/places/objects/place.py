"""A prefix of an object store: S3, Google Cloud Storage or Azure Blob Storage.

An object is written whole or not at all, and is stored durably when the request returns. What makes other objects
current is the root's ``zarr.json``: it is written only on condition that it is still as it was, and that this run still
holds the lease (:mod:`pipeline.store.places.lease`). There are no renames: what replaces a result is found through a
link at its place until it has been copied there. A link is a ``zarr.json`` with the name of its target.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from io import BufferedReader, BytesIO
from typing import IO, Any

import obstore

from gmm_dask.errors import LockedError, UserError
from pipeline.store.places.base import METADATA, Place
from pipeline.store.places.lease import Lease, Terms, Witness
from pipeline.store.places.objects.requests import (
    READ_BYTES,
    ObjectFile,
    StoredObject,
    connect,
    missing_ignored,
    requests,
)
from pipeline.store.places.objects.zarr_store import ZarrStore

LINK = "gmm-dask-link"
# requests under way at a time
THREADS = 16
# a link leads to a result, which may be one to its replacement
_LINKS = 3

# leases that this process holds, by the paths of their places
_held: dict[str, Lease] = {}


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
        return BufferedReader(ObjectFile(f"{self.path}/{name}"), READ_BYTES)

    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        names = list(names)
        found = self._at_once(lambda name: hashlib.sha256(self.read(name)).hexdigest(), names)
        return dict(zip(names, found, strict=True))

    def open_group(self, mode: Any) -> Any:
        return ZarrStore(self._objects, place=self, read_only=mode == "r")

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
        *others, last = files
        self._at_once(lambda name: self.write(name, files[name]), others)
        self.write(last, files[last])
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
            with requests(self.path, "write"), missing_ignored():
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
            stored.require_conditions()
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


@lru_cache(maxsize=16)
def _witness(path: str, holder: str) -> Witness:
    return Witness(StoredObject(f"{path}.lock"), holder)


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
