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
from pathlib import Path, PurePosixPath
from typing import Any

from zarr.storage import WrapperStore

from gmm_dask.errors import FaultError, UserError
from pipeline.store.arrays import StorePath
from pipeline.store.attributes import Attributes, Extent
from pipeline.store.durable import write_file

# of each group; that of the root has the attributes of the store
METADATA = "zarr.json"
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
    def of(cls, path: Path) -> Manifest:
        """Make the manifest of a store as it is."""
        files = [Path(entry.path).relative_to(path) for entry in _files(path)]
        kept = [file for file in files if file.parts[0] not in (METADATA, MANIFEST, _TRANSIENT)]
        rows = [file for file in kept if file.parts[0] == "rows" and file.name != METADATA]
        folders = {"/".join(file.parts[:3]) for file in rows}  # rows/label/c
        return cls(
            {file.as_posix(): _sha256(path / file) for file in sorted(set(kept) - set(rows))},
            {folder: extent_of(path / folder) for folder in sorted(folders)},
        )

    def require(self, path: StorePath, part: str, known: set[str]) -> None:
        """Raise :class:`DamagedError` unless the files of a part, such as ``models/tied-k3``, are as written.

        An empty part is the whole store. Files that are ``known`` to be so are not read; those that are found to be so
        are added.
        """
        above = [(folder / METADATA).as_posix() for folder in PurePosixPath(part).parents]
        for file, expected in self.sha256.items():
            if file not in known and (file in above or not part or file.startswith(f"{part}/")):
                _require_file(path, file, expected)
                known.add(file)

    def require_rows(self, path: StorePath) -> None:
        """Raise :class:`DamagedError` if chunks of ``rows/`` are lost or cut."""
        for folder, expected in self.extents.items():
            require_extent(path, folder, expected)


def extent_of(folder: Path) -> Extent:
    """Measure a folder; one that is not there has no files."""
    sizes = [entry.stat().st_size for entry in _files(folder)]
    return Extent(len(sizes), sum(sizes))


def require_extent(path: StorePath, folder: str, expected: Extent) -> None:
    """Raise :class:`DamagedError` if a folder, relative to the store, has lost files, or some were cut."""
    found = extent_of(Path(path, folder))
    if found != expected:
        raise damaged(
            path,
            f"{folder} has {found.files:,} files of {found.bytes:,} bytes together, and had {expected.files:,} of "
            f"{expected.bytes:,}",
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
    file = Path(path, MANIFEST, METADATA)
    data = group_metadata(Manifest.of(Path(path)).to_dict())
    file.parent.mkdir(exist_ok=True)
    write_file(file, data)
    return hashlib.sha256(data).hexdigest()


def read_manifest(path: StorePath, expected: str) -> Manifest:
    """Read the manifest of a store, which must have the hash that is expected."""
    name = f"{MANIFEST}/{METADATA}"
    _require_file(path, name, expected)
    with reading(path, name):
        return Manifest.from_dict(json.loads(Path(path, name).read_bytes())["attributes"])


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a folder and of those in it."""
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield entry


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _require_file(path: StorePath, name: str, expected: str) -> None:
    with reading(path, name):
        if _sha256(Path(path, name)) != expected:
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
