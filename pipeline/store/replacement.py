"""What ``--fresh`` builds beside a complete result, and puts in its place when it is complete itself.

::

    STORE                 the complete result, which readers find until the end
    STORE.fresh           its replacement, beside STORE itself if that is a link
    STORE.fresh-rows      the values of its rows, where they are Parquet files

Call the functions while :func:`pipeline.store.lock` of STORE is held.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.store.arrays import StorePath, writing
from pipeline.store.durable import sync
from pipeline.store.rows.zarr import rows_folder


def replacement_of(path: StorePath) -> str:
    """Where the replacement of a store is built."""
    place = os.path.realpath(path) if Path(path).is_symlink() else str(path).rstrip("/")
    return f"{place}.fresh"


def discard_replacement(path: StorePath) -> None:
    """Remove what a run has built of a replacement, the rows first: rows alone are half of a move."""
    new = replacement_of(path)
    for folder in (rows_folder(new), f"{rows_folder(new)}.unfinished", new):
        remove_at_once(Path(folder))


def put_in_place(path: StorePath) -> None:
    """Move a complete replacement to where the store lies, or do the rest of it where a kill ended an earlier call.

    Old rows go first and new rows come last: no store ever has the other's rows beside it.
    """
    new, rows = Path(replacement_of(path)), Path(rows_folder(path))
    new_rows = Path(rows_folder(new))
    with writing(path):
        if new.exists():
            remove_at_once(rows)
            swap(new, Path(path).resolve())
        if new_rows.exists():
            remove_at_once(rows)  # half of a copy, where a link leads to another disk
            shutil.move(new_rows, rows)


def swap(new: Path, old: Path) -> None:
    """Move a folder to where another lies, which a reader finds until then."""
    with _set_aside(old):
        new.rename(old)
        sync(old.parent)


def remove_at_once(folder: Path) -> None:
    """Remove a folder, if it is there, in a way that nobody finds a half of it."""
    with _set_aside(folder):
        pass


@contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """Give a folder another name, and remove it in the end."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    yield
    shutil.rmtree(aside, ignore_errors=True)
