"""A folder of this machine: renamed when it is whole, on the disk before it counts, locked by the system."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from zarr.storage import LocalStore

from gmm_dask.errors import LockedError, UserError
from pipeline.store.places.base import METADATA, Place, StorePath
from pipeline.store.places.durable import sync, sync_all, sync_tree, write_file

# Zarr writes a file under such a name first; one that stays was left by a process that was killed
HALF_WRITTEN = "*.partial"


class LocalPlace(Place):
    """A folder of this machine."""

    is_local = True

    def __init__(self, path: StorePath) -> None:
        self.path = str(path)
        self._folder = Path(path)

    # -- what is there ---------------------------------------------------------------------------------------
    def names(self) -> set[str]:
        if not self._folder.is_dir():
            return {self._folder.name} if self._folder.exists() else set()
        return {file.name for file in self._folder.iterdir() if not file.match(HALF_WRITTEN)}

    def folders(self, folder: str = "") -> list[str]:
        return [found.name for found in self._folder.joinpath(folder).glob("*/")]

    def sizes(self, folder: str = "") -> dict[str, int]:
        return {
            Path(entry.path).relative_to(self._folder).as_posix(): entry.stat().st_size
            for entry in _files(self._folder / folder)
        }

    def has(self, name: str) -> bool:
        return (self._folder / name).is_file()

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("rb")

    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        return {name: _sha256(self._folder / name) for name in names}

    def open_group(self, mode: Any) -> Any:
        # a path as text would be parsed as a URL: what follows a "#" or "?" would be cut off
        return self._folder

    def zarr_store(self) -> Any:
        return LocalStore(self._folder, read_only=True)

    def resolved(self) -> Place:
        return LocalPlace(self._folder.resolve())

    def around(self) -> list[Place]:
        return [LocalPlace(folder) for folder in self._folder.resolve().parents]

    def exists(self) -> bool:
        return self._folder.exists()

    # -- writing ---------------------------------------------------------------------------------------------
    def write(self, name: str, data: bytes) -> None:
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, data)

    def write_with(self, name: str, write: Callable[[Any], None]) -> None:
        file = self._folder / name
        partial = file.with_suffix(".partial")
        try:
            write(partial)
            sync(partial)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
        sync(file.parent)

    def replace_files(self, files: Mapping[str, bytes], obsolete: Iterable[str] = ()) -> None:
        self.make()
        partials = [self._folder / f"{name}.partial" for name in files]
        try:
            for folder in {partial.parent for partial in partials}:
                folder.mkdir(parents=True, exist_ok=True)
            for partial, data in zip(partials, files.values(), strict=True):
                partial.write_bytes(data)
            for partial in partials:
                partial.replace(partial.with_suffix(""))
        finally:
            for partial in partials:
                partial.unlink(missing_ok=True)
        for name in obsolete:
            (self._folder / name).unlink(missing_ok=True)

    def make(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def sync(self, *folders: str) -> None:
        sync_tree(*(self._folder / folder for folder in folders))

    def sync_files(self, files: Iterable[str]) -> None:
        sync_all(self._folder / file for file in files)

    # -- removing and replacing ------------------------------------------------------------------------------
    def remove(self, *names: str) -> None:
        for name in names:
            path = self._folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove_at_once(self) -> None:
        with self._set_aside():
            pass

    def remove_half_written(self) -> None:
        for file in self._folder.rglob(HALF_WRITTEN):
            file.unlink()

    def take(self, new: Place, last: str = METADATA) -> None:
        folder = self._folder.resolve()
        with LocalPlace(folder)._set_aside():
            shutil.move(Path(new.path), folder)  # a copy where a link leads to another disk
            sync(folder.parent)

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Give the folder another name, and remove it in the end."""
        aside = self._folder.with_name(f".{self._folder.name}.removed")
        shutil.rmtree(aside, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(aside)
        yield
        shutil.rmtree(aside, ignore_errors=True)

    def link_to(self, target: Place) -> None:
        link = self._folder
        if link.exists() and not link.is_symlink():
            raise UserError(f"{link} is to be the link to the newest store, and something else is there. Move it away.")
        if link.is_symlink() and link.resolve() == Path(target.path).resolve():
            return
        link.parent.mkdir(parents=True, exist_ok=True)  # where the date is the name of a folder
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(target.path, link.parent))
        os.replace(new, link)

    # -- one run at a time -----------------------------------------------------------------------------------
    @property
    def lock_path(self) -> str:
        return f"{self._folder.resolve()}.lock"

    @contextmanager
    def lock(self, seconds: float, waiting: Callable[[str], object]) -> Iterator[None]:
        """Hold the place; the operating system frees it when the process dies, however it dies.

        The lock lies beside the folder itself, also if the path is a link to it.
        """
        file = Path(self.lock_path)
        held = FileLock(file, blocking=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        # a folder that no run of ours has held may be refused, and then gets no lock
        is_foreign = not file.exists() and _is_anything_beside(file)
        try:
            held.acquire()
        except Timeout:
            raise LockedError(
                f"another run is at work on the result store {self} (it holds {file}). Wait for it, or choose another "
                "output.store."
            ) from None
        try:
            yield
        except UserError:
            if is_foreign:
                file.unlink(missing_ok=True)
            raise
        finally:
            if not _is_anything_beside(file):
                file.unlink(missing_ok=True)
            held.release()

    def is_locked(self) -> bool:
        if not self.has_lock():
            return False
        try:
            with self.lock(0.0, print):
                return False
        except LockedError:
            return True

    def has_lock(self) -> bool:
        return Path(self.lock_path).is_file()

    def remove_lock(self) -> None:
        Path(self.lock_path).unlink(missing_ok=True)


def _is_anything_beside(file: Path) -> bool:
    """Whether there is anything that the lock is for: a store, or what becomes one."""
    return any(path != file for path in file.parent.glob(f"{glob.escape(file.stem)}*"))


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
