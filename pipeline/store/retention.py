"""Retention: which results of a job are kept, and the removal of the others.

Only what is recognised as a result of the job is removed, and never while a run holds its lock.
"""

from __future__ import annotations

import json

from gmm_dask.errors import LockedError, UserError
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.config.templates import is_dated, with_name
from pipeline.store.paths import existing_paths, report_folder, stores_of
from pipeline.store.places import place_of
from pipeline.store.rows.scores import read_scores
from pipeline.store.rows.zarr import SUMMARY


def remove_old_stores(config: JobConfig, keep: int) -> tuple[str, ...]:
    """Remove all stores of a job that are older than its last complete ones.

    Parameters
    ----------
    config : JobConfig
        With the path of the stores, which has a date in it.
    keep : int
        Number of complete stores to keep, at least 1.

    Returns
    -------
    tuple of str
        Paths of the removed stores. A report and rows beside a store are removed with it.
    """
    found = list(stores_of(config))
    complete = [one.store for one in found if one.is_complete]
    if len(complete) <= keep:
        return ()
    oldest = [one.store for one in found].index(complete[keep - 1])
    return tuple(one.store for one in found[oldest + 1 :] if remove_store(one.store))


def remove_store(path: str) -> bool:
    """Remove a store with all that lies beside it, unless a run is at work on it; returns whether it was removed."""
    try:
        with store.lock(path):
            store.discard_replacement(path)
            for folder in (path, report_folder(path), store.rows_folder(path)):
                place_of(folder).remove_at_once()
    except LockedError:
        return False
    place_of(path).remove_lock()
    return True


def remove_old_scores(config: JobConfig, keep: int) -> tuple[str, ...]:
    """Remove the complete scores of a job at ``score.out``, but for the newest ones; returns their paths.

    Scores of other jobs, unfinished ones, and what is not recognised as scores stay.
    """
    if config.score is None or not is_dated(template := with_name(config.score.out, config.name)):
        return ()
    ours = [path for _, path in existing_paths(template) if _job_of_scores(path) == config.name]
    return tuple(path for path in ours[keep:] if _remove_scores(path))


def _job_of_scores(path: str) -> str | None:
    """Return the name of the job of complete scores; None of anything else."""
    from pipeline.store.rows.parquet import require_parts

    try:
        if place_of(path).has(SUMMARY):
            require_parts(place_of(path))
            summary = json.loads(place_of(path).read(SUMMARY))
        else:
            summary = read_scores(path).summary
    except (UserError, ValueError):
        return None
    return summary.get("job") if isinstance(summary, dict) else None


def _remove_scores(path: str) -> bool:
    try:
        with store.lock(path):
            for folder in (path, report_folder(path)):
                place_of(folder).remove_at_once()
    except LockedError:
        return False
    place_of(path).remove_lock()
    return True
