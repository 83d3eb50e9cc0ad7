"""Where a job's results lie: the stores of its name, and the one that a run works on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.config.templates import at, dated_paths, is_dated
from pipeline.sources import open_source
from pipeline.sources.fingerprint import header_of
from pipeline.store import Result


def placed(config: JobConfig, *, fresh: bool = False, now: datetime | None = None) -> JobConfig:
    """The configuration with the path of the store that a run works on.

    Parameters
    ----------
    config : JobConfig
        A path without a date stays.
    fresh : bool
        Whether to start anew, even where a run was stopped.
    now : datetime, optional

    Returns
    -------
    JobConfig
        With the store that an earlier run of the same configuration and data did not finish, or is at work on, if it
        is newer than any that is complete; else with the path that the present moment makes.
    """
    template = config.output.store
    if not is_dated(template):
        return config
    found = None if fresh else _unfinished(config)
    return with_store(config, found or dated_now(config, template, now))


def dated_now(config: JobConfig, template: str, now: datetime | None = None) -> str:
    """The path that the present moment makes of one with a date, in the time zone of the schedule."""
    return at(template, now or datetime.now(config.schedule.zone if config.schedule else None))


def with_store(config: JobConfig, path: str) -> JobConfig:
    """The configuration with another path of its store."""
    return config.model_copy(update={"output": config.output.model_copy(update={"store": path})})


def stores_of(config: JobConfig) -> Iterator[Result]:
    """Stores that runs of a configuration's name have left, complete or not, the newest first."""
    template = config.output.store
    paths = [path for _, path in dated_paths(template)] if is_dated(template) else [template]
    for path in paths:
        if store.is_store(path):
            found = store.open_result(path, unfinished=True)
            if found.config["name"] == config.name:  # other jobs may have the same template
                yield found


def last_complete(config: JobConfig) -> Result | None:
    """The newest complete store of a configuration's name."""
    return next((found for found in stores_of(config) if found.is_complete), None)


def _unfinished(config: JobConfig) -> str | None:
    """The store to go on with."""
    header = None
    for found in stores_of(config):
        if found.is_complete:
            return None
        if found.checkpoint is None and not store.is_locked(found.store):
            continue
        header = header or header_of(open_source(config.data))
        if store.is_same_job((found.config, config.model_dump(mode="json")), (found.data, header)):
            return found.store
    return None
