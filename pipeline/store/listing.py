"""The result stores of a folder, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gmm_dask.errors import UserError
from pipeline import store
from pipeline.store import DamagedError, Result, open_result
from pipeline.store.places import place_of


class ListedStatus(StrEnum):
    """What a listing says of a store."""

    COMPLETE = "complete"
    RUNNING = "running"
    STOPPED = "stopped"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class ListedStore:
    """A result store in a folder.

    Attributes
    ----------
    store : str
        Path.
    status : ListedStatus
        ``running`` if a run holds its lock, ``stopped`` if none does and it is not complete.
    name : str or None
        Of the job; None, as the following, where it cannot be read.
    best : str or None
        Name of the winner of a complete store.
    n_rows : int or None
        Rows of the fits of a complete store.
    groups : int or None
        Of a search for each group (``data.by``), how many there are, once that is known.
    started, finished : str or None
        Such as ``2026-11-23 02:00 UTC``.
    """

    store: str
    status: ListedStatus
    name: str | None = None
    best: str | None = None
    n_rows: int | None = None
    started: str | None = None
    finished: str | None = None
    groups: int | None = None


def list_stores(folder: str) -> list[ListedStore]:
    """Return the result stores that lie in a folder, or in one of a bucket, in the order of their names.

    Links to stores, and stores in folders within the folder, are left out.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    place = place_of(folder)
    if not place.exists():
        raise UserError(f"there is no folder {folder}, or it is empty. Give the folder in which result stores lie.")
    return [_listed(path) for path in _stores_in(folder)]


def newest_after(result: Result) -> str | None:
    """Return the newest complete store of the same folder that continues the components of one; None if none does."""
    assert result.identity is not None
    later = [
        (found.started, found.store)
        for found in map(_read_or_none, _stores_in(result.store.rstrip("/").rpartition("/")[0] or "."))
        if found is not None and found.is_complete and found.started > result.started
        if found.identity is not None and found.identity.line == result.identity.line
    ]
    return max(later)[1] if later else None


def _read_or_none(path: str) -> Result | None:
    try:
        return open_result(path, unfinished=True)
    except DamagedError:
        return None


def _stores_in(folder: str) -> list[str]:
    """Return the paths of the result stores in a folder."""
    paths = [f"{folder.rstrip('/')}/{name}" for name in sorted(place_of(folder).folders())]
    return [path for path in paths if not _is_link(path) and store.is_store(path)]


def _is_link(path: str) -> bool:
    return Path(path).is_symlink() or place_of(path).followed().path != path


def _listed(path: str) -> ListedStore:
    found = _read_or_none(path)
    if found is None:
        return ListedStore(path, ListedStatus.DAMAGED)
    if found.is_complete:
        status = ListedStatus.COMPLETE
    else:
        status = ListedStatus.RUNNING if store.is_locked(path) else ListedStatus.STOPPED
    groups = found.groups.n_groups if found.groups else None
    return ListedStore(
        path, status, found.config["name"], found.best, found.n_rows, found.started, found.finished, groups
    )
