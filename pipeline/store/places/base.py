"""The interface of a place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

StorePath = str | Path
# of each Zarr group; that of the root has the attributes of the store
METADATA = "zarr.json"


class Place(ABC):
    """A folder in which a result lies. Names of files and folders are relative to it, with ``/``.

    Attributes
    ----------
    path : str
        Path or URL, without a slash at the end.
    is_local : bool
    """

    path: str
    is_local: bool

    def __str__(self) -> str:
        return self.path

    # -- what is there ---------------------------------------------------------------------------------------
    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of the files and folders that are there, but for half-written files; none if none is."""

    @abstractmethod
    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders in a folder."""

    @abstractmethod
    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the bytes of each file of a folder and of those in it, by its name."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether a file is there."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a file; raises FileNotFoundError if it is not there."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open a file to read parts of it."""

    @abstractmethod
    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        """Return the SHA-256 of files, by their names."""

    @abstractmethod
    def open_group(self, mode: Any) -> Any:
        """Return what :func:`zarr.open_group` takes as the store."""

    @abstractmethod
    def zarr_store(self) -> Any:
        """Return a Zarr store for reading."""

    def read_root(self) -> tuple[Place, bytes]:
        """Return the place that this is a link to, where nobody else follows links, or this, and its ``zarr.json``.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        """
        return self, self.read(METADATA)

    def followed(self) -> Place:
        """Return the place that this is a link to, where nobody else follows links, or this."""
        return self

    def resolved(self) -> Place:
        """Return the place that this is a link to, as it is now, or this."""
        return self.followed()

    @abstractmethod
    def around(self) -> list[Place]:
        """Return the folders that this lies in."""

    def exists(self) -> bool:
        """Whether anything is there."""
        return bool(self.names())

    # -- writing ---------------------------------------------------------------------------------------------
    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file that is there whole, or as it was before, whatever happens."""

    def publish(self, data: bytes) -> None:
        """Write the root's ``zarr.json``, which makes other files current, unless another run holds the place now."""
        self.write(METADATA, data)

    @abstractmethod
    def write_with(self, name: str, write: Callable[[Any], None]) -> None:
        """Write a file by a function, which is given a path or an open file; the file is there whole or not at all."""

    @abstractmethod
    def replace_files(self, files: Mapping[str, bytes], obsolete: Iterable[str] = ()) -> None:
        """Replace files, the last one when the others are there; remove the obsolete ones after that."""

    def make(self) -> None:
        """Make the folder, where folders are made."""

    def sync(self, *folders: str) -> None:
        """Wait until folders are on the disk with all that is in them."""

    def sync_files(self, files: Iterable[str]) -> None:
        """Wait until files and folders are on the disk, without what is in the folders."""

    # -- removing and replacing ------------------------------------------------------------------------------
    @abstractmethod
    def remove(self, *names: str) -> None:
        """Remove files and folders, if they are there."""

    @abstractmethod
    def remove_at_once(self) -> None:
        """Remove all that is there, in a way that nobody takes a half of it for a whole."""

    def remove_half_written(self) -> None:
        """Remove what a killed run has left of files."""

    @abstractmethod
    def take(self, new: Place, last: str = METADATA) -> None:
        """Take the place of another, which is removed; what is here is replaced.

        Parameters
        ----------
        new : Place
            Of the same kind, beside this.
        last : str
            The file by which readers know that the rest is there.
        """

    @abstractmethod
    def link_to(self, target: Place) -> None:
        """Make this a link to another place, in one step: a reader finds the one before or this one.

        Raises
        ------
        UserError
            If something else than a link is here.
        """

    # -- one run at a time -----------------------------------------------------------------------------------
    @property
    @abstractmethod
    def lock_path(self) -> str:
        """Path of the lock, which lies beside the place."""

    @abstractmethod
    def lock(self, seconds: float, waiting: Callable[[str], object]) -> AbstractContextManager[None]:
        """Hold the place for this run.

        Parameters
        ----------
        seconds : float
            For which a lease lasts, where the system does not free a lock when its holder dies.
        waiting : callable
            Called with a sentence if that takes time.

        Raises
        ------
        LockedError
            If another run holds it.
        """

    @abstractmethod
    def is_locked(self) -> bool:
        """Whether a run holds the place, or may."""

    @abstractmethod
    def has_lock(self) -> bool:
        """Whether a run has ever held the place."""

    @abstractmethod
    def remove_lock(self) -> None:
        """Remove the lock of a place that was removed."""
