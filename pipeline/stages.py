"""Stages of a job: plain functions that an orchestrator may wrap, with an optional timeout."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gmm_dask.errors import FaultError
from gmm_dask.formatting import counted
from pipeline.config.job import JobConfig
from pipeline.config.secrets import secrets_hidden
from pipeline.progress import Event, GroupsDone, PassDone

Stage = Callable[..., Any]
AnyStage = TypeVar("AnyStage", bound=Stage)


class StageTimeoutError(FaultError, TimeoutError):
    """A stage took longer than ``tasks.timeout_seconds``."""


def unchanged(stage: Stage) -> Stage:
    """Return the stage as it is, where no orchestrator wraps stages."""
    return stage


def guarded(stage: AnyStage, config: JobConfig) -> AnyStage:
    """Return a stage of a job with its timeout, ``tasks.timeout_seconds``, and without secrets in its errors."""
    timed = limited(stage, config.tasks.timeout_seconds)

    @functools.wraps(stage)
    def without_secrets(*arguments: Any) -> Any:
        with secrets_hidden(*config.secret_values):
            return timed(*arguments)

    return cast(AnyStage, without_secrets)


def limited(stage: AnyStage, seconds: float | None) -> AnyStage:
    """Return the stage with a timeout, if its last argument is its progress listener.

    The time is checked by the listener after each pass, or after the search of some groups, so that a stage ends
    between them, with a checkpoint. A stage without a listener makes no passes, and has no timeout.
    """
    if seconds is None or "progress" not in inspect.signature(stage).parameters:
        return stage

    @functools.wraps(stage)
    def with_timeout(*arguments: Any) -> Any:
        *others, progress = arguments
        end = time.monotonic() + seconds

        def check_time(event: Event) -> None:
            progress(event)
            where = _place_to_stop(event)
            if where and time.monotonic() > end:
                raise StageTimeoutError(
                    f"the stage {stage.__name__} took longer than tasks.timeout_seconds, {seconds:g} s, and was "
                    f"stopped after {where}, which is saved. The next run resumes it."
                )

        return stage(*others, check_time)

    return cast(AnyStage, with_timeout)


def _place_to_stop(event: Event) -> str:
    """Return after what a stage may stop that has sent an event; empty if it may not, or is done."""
    if isinstance(event, PassDone) and event.running:
        return f"pass {event.number}"
    return counted(event.done, "group") if isinstance(event, GroupsDone) and event.done < event.total else ""
