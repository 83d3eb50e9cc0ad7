"""What ``--fresh`` builds beside a complete result, and puts in its place when it is complete itself.

::

    STORE                 the complete result, which readers find until the end
    STORE.fresh           its replacement, beside STORE itself if that is a link
    STORE.fresh-rows      the values of its rows, where they are Parquet files

Call the functions while :func:`pipeline.store.lock` of STORE is held.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.store.arrays import writing
from pipeline.store.places import StorePath, is_url, place_of
from pipeline.store.rows.zarr import SUMMARY, rows_folder


def replacement_of(path: StorePath) -> str:
    """Where the replacement of a store is built."""
    is_link = not is_url(path) and Path(path).is_symlink()
    return f"{os.path.realpath(path) if is_link else str(path).rstrip('/')}.fresh"


def discard_replacement(path: StorePath) -> None:
    """Remove what a run has built of a replacement, the rows first: rows alone are half of a move."""
    new = replacement_of(path)
    for folder in (rows_folder(new), f"{rows_folder(new)}.unfinished", new):
        place_of(folder).remove_at_once()


def put_in_place(path: StorePath) -> None:
    """Move a complete replacement to where the store lies, or do the rest of it where a kill ended an earlier call.

    Old rows go first and new rows come last: no store ever has the other's rows beside it.
    """
    new, rows = place_of(replacement_of(path)), place_of(rows_folder(path))
    new_rows = place_of(rows_folder(new.path))
    with writing(path):
        if new.exists():
            rows.remove_at_once()
            place_of(path).take(new)
        if new_rows.exists():
            rows.take(new_rows, SUMMARY)
