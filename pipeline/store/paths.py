"""Where a job's results lie: the stores of its name, and the one that a run works on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache

from gmm_dask.errors import UserError
from pipeline import store
from pipeline.config.formats import ZARR
from pipeline.config.job import JobConfig
from pipeline.config.templates import at, dated_paths, is_dated
from pipeline.progress import Message, Progress
from pipeline.sources import open_source
from pipeline.sources.fingerprint import header_of
from pipeline.store import Result
from pipeline.store.places import Place, StorePath, is_url

# of a report, the file that is opened
PAGE = "index.html"
GROUP_PREFIX = "group-"
# of the name of a group, what is no part of the name of a file
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


# is called with what is wrong with a store of a job that is passed over
PassedOver = Callable[[store.DamagedError], None]


def _silent(error: store.DamagedError) -> None:
    """Say nothing of a store that is passed over."""


def reported_once(progress: Progress) -> PassedOver:
    """Return a function that warns of stores that are passed over, of each once."""
    known = set()

    def report(error: store.DamagedError) -> None:
        if str(error) not in known:
            known.add(str(error))
            progress(Message("passed over", str(error), is_warning=True))

    return report


def placed(
    config: JobConfig, *, fresh: bool = False, now: datetime | None = None, passed_over: PassedOver = _silent
) -> JobConfig:
    """The configuration with the path of the store that a run works on.

    Parameters
    ----------
    config : JobConfig
        A path without a date stays.
    fresh : bool
        Whether to start anew, even where a run was stopped.
    now : datetime, optional
    passed_over : callable
        Is called with the error of each damaged store of the job, of several by date, that is met.

    Returns
    -------
    JobConfig
        With the store that an earlier run of the same configuration and data did not finish or replace, or is at work
        on, if it is newer than any that is complete; else with the path that the present moment makes.
    """
    template = config.output.store
    if not is_dated(template):
        return config
    found = None if fresh else _unfinished(config, passed_over)
    return with_store(config, found or dated_now(config, template, now))


def working_path(config: JobConfig, *, fresh: bool = False) -> str:
    """Where a run works that holds the lock of its store: there, or at the replacement of a complete result.

    Parameters
    ----------
    config : JobConfig
        With the path of the store.
    fresh : bool
        Whether to start anew: what is left of an earlier replacement is removed. Otherwise one that a run of the same
        configuration and data did not finish is resumed.
    """
    path = config.output.store
    new = store.replacement_of(path)
    if not fresh:
        return new if _same_job(config)(new) else path
    complete = _status_to_replace(path) is store.StoreStatus.COMPLETE
    _status_to_replace(new)  # something else is never touched
    store.discard_replacement(path)
    return new if complete else path


def _status_to_replace(path: str) -> store.StoreStatus:
    """What is found at a path that is to be replaced; a damaged store is nothing to keep."""
    try:
        return store.find_store(path)
    except store.DamagedError:
        return store.StoreStatus.NEW


def dated_now(config: JobConfig, template: str, now: datetime | None = None) -> str:
    """The path that the present moment makes of one with a date, in the time zone of the schedule."""
    return at(template, now or datetime.now(config.schedule.zone if config.schedule else None))


def with_store(config: JobConfig, path: str) -> JobConfig:
    """The configuration with another path of its store."""
    return config.model_copy(update={"output": config.output.model_copy(update={"store": path})})


def report_folder(path: StorePath) -> str:
    """Where the report of a store, or of scores, lies: beside it."""
    return f"{str(path).rstrip('/')}-report"


def file_name(group: str) -> str:
    """Return the name of a file or a folder for a group: what no file system objects to."""
    return f"{GROUP_PREFIX}{_UNSAFE.sub('_', group)[:100]}"


def results_of(path: StorePath) -> list[str]:
    """All paths that runs of a store write to or remove."""
    rows, new = store.rows_folder(path), store.replacement_of(path)
    caches = f"{path}-cache", f"{new}-cache"
    return [str(path), new, rows, f"{rows}.unfinished", report_folder(path), *caches]


def require_no_group_around(path: StorePath) -> None:
    """Raise :class:`UserError` if a result lies within a Zarr group, such as the result of another job."""
    for folder in store.place_of(path).around():
        if any(_has(folder, name) for name in ZARR.metadata):
            raise UserError(
                f"{path} lies within the Zarr group {folder}, with which it would be replaced or moved. Choose another "
                "path (output.store; of scores, score.out or -o)."
            )


def _has(folder: Place, name: str) -> bool:
    try:
        return folder.has(name)
    except UserError:  # credentials may be for the folder of the result alone
        return False


def stores_of(config: JobConfig, passed_over: PassedOver = _silent) -> Iterator[Result]:
    """Stores that runs of a configuration's name have left, complete or not, the newest first.

    Of several by date, damaged ones are passed over: one bad night stops no later one. Raises :class:`DamagedError` if
    the path has no date, so that there is no other.
    """
    template = config.output.store
    paths = [path for _, path in existing_paths(template)] if is_dated(template) else [template]
    for path in paths:
        if not store.is_store(path):
            continue
        try:
            found = store.open_result(path, unfinished=True)
        except store.DamagedError as error:
            if not is_dated(template):
                raise
            passed_over(error)
            continue
        if found.config["name"] == config.name:  # other jobs may have the same template
            yield found


def existing_paths(template: str) -> list[tuple[datetime, str]]:
    """Return the existing paths of a template with their dates, the newest first."""
    if not is_url(template):
        return dated_paths(template)
    from pipeline.store.places.objects.place import matching_prefixes

    return dated_paths(template, matching_prefixes)


def last_complete(config: JobConfig, passed_over: PassedOver = _silent) -> Result | None:
    """The newest complete store of a configuration's name; damaged ones are passed over as by :func:`stores_of`."""
    return next((found for found in stores_of(config, passed_over) if found.is_complete), None)


def _unfinished(config: JobConfig, passed_over: PassedOver) -> str | None:
    """The store to go on with."""
    is_same_job = _same_job(config)
    for found in stores_of(config, passed_over):
        if is_same_job(store.replacement_of(found.store)):
            return found.store
        if found.is_complete:
            return None
        if found.checkpoint is None and not store.is_locked(found.store):
            continue
        if is_same_job(found.store):
            return found.store
    return None


def _same_job(config: JobConfig) -> Callable[[str], bool]:
    """Return a function that tells whether a store is of a configuration and of the data as they are now."""
    header = cache(lambda version: header_of(open_source(config.data.at(version))))

    def is_same_job(path: str) -> bool:
        if not store.is_store(path):
            return False
        found = store.open_result(path, unfinished=True)
        version = found.data.get("version")
        try:
            now = header(version)
        except UserError:
            if version is None:
                raise
            return False  # the table has no longer that version
        return store.is_same_job((found.config, config.model_dump(mode="json")), (found.data, now))

    return is_same_job
