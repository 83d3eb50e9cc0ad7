"""Stages of a job: plain functions that an orchestrator may wrap, and a limit of their time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gmm_dask.errors import FaultError
from pipeline.progress import Event, PassDone, Progress

Stage = Callable[..., Any]
AnyStage = TypeVar("AnyStage", bound=Stage)


class StageTimeoutError(FaultError, TimeoutError):
    """A stage took longer than ``tasks.timeout_seconds``."""


def unchanged(stage: Stage) -> Stage:
    """The stage as it is: what is called where no orchestrator wraps stages."""
    return stage


def limited(stage: AnyStage, seconds: float | None) -> AnyStage:
    """Make a stage fail after so many seconds: it is told so by its watcher, its last argument, after a pass."""
    if seconds is None:
        return stage

    @functools.wraps(stage)
    def until_then(*arguments: Any) -> Any:
        *others, progress = arguments
        return stage(*others, _watch(progress, time.monotonic() + seconds, seconds, stage.__name__))

    return cast(AnyStage, until_then)


def _watch(progress: Progress, end: float, seconds: float, name: str) -> Progress:
    def tell(event: Event) -> None:
        progress(event)
        if isinstance(event, PassDone) and event.running and time.monotonic() > end:
            raise StageTimeoutError(
                f"the stage {name} took longer than tasks.timeout_seconds, {seconds:g} s, and was stopped after pass "
                f"{event.number}, which is kept. The next run goes on from there."
            )

    return tell
