"""Whether a store is whole: the manifest of a complete one, and the error that names what is lost or damaged.

The manifest is a group without arrays. Its attributes have the SHA-256 of each file of the store, but for the chunks of
``rows/``: of these, which may be many and large, it has the number and the bytes by array, and a checksum inside each
chunk guards the values. The root's attributes have the manifest's own hash, and theirs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from zarr.storage import WrapperStore

from gmm_dask.errors import FaultError, UserError
from pipeline.store.attributes import Attributes, Extent
from pipeline.store.places import Place, StorePath, place_of
from pipeline.store.places.base import METADATA

MANIFEST = "manifest"
# not in the manifest: what is removed when a store is complete
_TRANSIENT = "checkpoint"


class DamagedError(UserError):
    """A part of a store is not as it was written."""


@dataclass(frozen=True)
class Manifest(Attributes):
    """What belongs to a complete store.

    Attributes
    ----------
    sha256 : dict
        Hash of each file, by its path in the store.
    extents : dict
        :class:`Extent` of the chunks of each array of ``rows/``, by the path of their folder.
    """

    sha256: dict[str, str]
    extents: dict[str, Extent]

    @classmethod
    def of(cls, place: Place) -> Manifest:
        """Make the manifest of a store as it is."""
        files, extents = list[str](), dict[str, Extent]()
        for file, n_bytes in sorted(place.sizes().items()):
            parts = file.split("/")
            if parts[0] == "rows" and parts[-1] != METADATA:
                folder = "/".join(parts[:3])  # rows/label/c
                extents[folder] = extents.get(folder, Extent(0, 0)) + Extent(1, n_bytes)
            elif parts[0] not in (METADATA, MANIFEST, _TRANSIENT):
                files.append(file)
        return cls(place.hashes(files), extents)

    def holds(self, part: str) -> bool:
        """Whether files of a part belong to the store."""
        return any(file.startswith(f"{part}/") for file in self.sha256)

    def require(self, path: StorePath, part: str, known: set[str]) -> None:
        """Raise :class:`DamagedError` unless the files of a part, such as ``models/tied-k3``, are as written.

        An empty part is the whole store. Files that are ``known`` to be so are not read; those that are found to be so
        are added.
        """
        above = [(folder / METADATA).as_posix() for folder in PurePosixPath(part).parents]
        files = [
            file
            for file in self.sha256
            if file not in known and (file in above or not part or file.startswith(f"{part}/"))
        ]
        _require_files(path, {file: self.sha256[file] for file in files})
        known.update(files)

    def require_rows(self, path: StorePath) -> None:
        """Raise :class:`DamagedError` if chunks of ``rows/`` are lost or cut."""
        for folder, expected in self.extents.items():
            require_extent(path, place_of(path), folder, expected)


def extent_of(place: Place, folder: str = "") -> Extent:
    """Measure a folder; one that is not there has no files."""
    sizes = place.sizes(folder).values()
    return Extent(len(sizes), sum(sizes))


def require_extent(path: StorePath, place: Place, folder: str, expected: Extent) -> None:
    """Raise :class:`DamagedError` of a store if a folder of it, or beside it, has lost files, or some were cut."""
    found = extent_of(place, folder)
    if found != expected:
        raise damaged(
            path,
            f"{folder or place} has {found.files:,} files of {found.bytes:,} bytes together, and had "
            f"{expected.files:,} of {expected.bytes:,}",
        )


class WholeStore(WrapperStore[Any]):
    """A Zarr store that refuses missing chunks: Zarr reads a lost chunk as fill values."""

    def __init__(self, store: Any, path: StorePath) -> None:
        super().__init__(store)
        self._path = path

    def _with_store(self, store: Any) -> WholeStore:
        return WholeStore(store, self._path)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Return what is stored."""
        found = await self._store.get(key, *args, **kwargs)
        if found is None and not key.endswith(METADATA):
            raise damaged(self._path, f"{key} is missing")
        return found


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """Return the file ``zarr.json`` of a group."""
    return json.dumps({"attributes": attributes, "zarr_format": 3, "node_type": "group"}, indent=2).encode()


def write_manifest(path: StorePath) -> str:
    """Write the manifest of a store whose parts are all there; returns its hash."""
    place = place_of(path)
    data = group_metadata(Manifest.of(place).to_dict())
    place.write(f"{MANIFEST}/{METADATA}", data)
    return hashlib.sha256(data).hexdigest()


def read_manifest(path: StorePath, expected: str) -> Manifest:
    """Read the manifest of a store, which must have the hash that is expected."""
    name = f"{MANIFEST}/{METADATA}"
    _require_files(path, {name: expected})
    with reading(path, name):
        return Manifest.from_dict(json.loads(place_of(path).read(name))["attributes"])


def _require_files(path: StorePath, expected: dict[str, str]) -> None:
    """Raise :class:`DamagedError` unless files have the hashes that are expected."""
    with reading(path, next(iter(expected), "")):
        found = place_of(path).hashes(expected)
    for name, sha256 in expected.items():
        if found[name] != sha256:
            raise damaged(path, f"{name} is not as it was written")


# -- what is said ------------------------------------------------------------------------------------------------


def damaged(path: StorePath, what: str) -> DamagedError:
    """Return the error of a store that is not whole."""
    return DamagedError(
        f"{path} is damaged: {what}. Copy it again from where it is whole, or make it anew with --fresh."
    )


@contextmanager
def reading(path: StorePath, part: str) -> Iterator[None]:
    """Say which part of a store cannot be read, and why.

    Zarr and NumPy raise errors of many types for what they do not expect in a file.

    Raises
    ------
    DamagedError
        If the part is lost, or not what it should be.
    FaultError
        If the operating system cannot read it for another reason.
    """
    try:
        yield
    except (UserError, FaultError):
        raise
    except FileNotFoundError as error:
        name = os.path.relpath(error.filename, path) if error.filename else part
        raise damaged(path, f"{name} is missing") from error
    except OSError as error:
        if error.errno in (None, errno.ENOTDIR, errno.EISDIR):
            raise damaged(path, f"{part} cannot be read: {error}") from error
        kind = UserError if error.errno in (errno.EACCES, errno.EPERM) else FaultError
        raise kind(f"cannot read {path}: {part}: {os.strerror(error.errno)}.") from error
    except KeyError as error:
        name = str(error.args[0]) if error.args else ""
        raise damaged(path, f"{part} is missing" if part.endswith(name) else f"{part} lacks {name}") from error
    except (MemoryError, RecursionError) as error:
        raise damaged(path, f"{part} is too large to be read") from error
    except (ValueError, TypeError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        raise damaged(path, f"{part}: {' '.join(str(error).split()).rstrip('.')}") from error
