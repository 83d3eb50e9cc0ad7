"""The configuration's sections ``schedule``, ``score``, ``refresh`` and ``tasks``: jobs that run unattended."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo
from itertools import islice
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from dateutil.rrule import rrule, rruleset, rrulestr
from pydantic import AfterValidator, Field, model_validator

from gmm_dask.errors import UserError
from gmm_dask.families import FAMILIES
from gmm_dask.families.candidate import Candidate
from pipeline.config.fields import (
    Count,
    Delay,
    HiddenInJson,
    LocalPath,
    Positive,
    Seconds,
    Section,
    Whole,
    parse_duration,
)
from pipeline.config.templates import check_template

# names of the Prefect flows
FlowName = Literal["bic-sweep", "refresh", "score-batch"]

_CRON = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|(\S+\s+){4}\S+")


_CRON_NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def _cron(value: str) -> str:
    rule, wrong = value.strip(), ""
    if not _CRON.fullmatch(rule):
        wrong = "expected five fields"
    elif not rule.startswith("@"):
        try:
            next(CronSim(rule, datetime(2026, 1, 1)))
        except CronSimError as error:
            wrong = f"expected five fields of a time that comes ({error})"
        except StopIteration:
            wrong = "expected five fields of a time that comes"
    if wrong:
        raise ValueError(f"{wrong}, such as '0 2 * * *': minute, hour, day, month, weekday")
    return rule


def _interval(value: str) -> str:
    if parse_duration(value) < 1.0:
        raise ValueError("expected a time of a second or more")
    return value


def _rrule(value: str) -> str:
    try:
        wrong = "" if _recurrence(value)[:1] else "this one has no time"
    except (ValueError, TypeError) as error:
        wrong = str(error)
        if "UNTIL values" in wrong:
            wrong = "UNTIL ends in Z only if there is a DTSTART with a time zone, and else is in schedule.timezone"
    if wrong:
        raise ValueError(f"expected a rule such as FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=2 (RFC 5545); {wrong}")
    return value


def _recurrence(value: str) -> rrule | rruleset:
    # a rule without DTSTART starts where Prefect starts it
    return rrulestr(value, dtstart=datetime(2020, 1, 1))


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, OSError, ValueError):
        raise ValueError("expected the name of a time zone, such as Asia/Tokyo") from None
    return value


def _model_name(value: str) -> str:
    candidate = Candidate.parse(value)
    if candidate is None or candidate.covariance_type not in FAMILIES:
        raise ValueError("expected a covariance type and a number of components, such as full-k2")
    return value


class ScheduleConfig(Section):
    """When 'gmm-dask serve' runs the job; one of cron, interval and rrule."""

    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None, description="Minute, hour, day, month and weekday, such as '0 2 * * *' for 02:00 every night."
    )
    interval: Annotated[str, AfterValidator(_interval)] | None = Field(
        default=None, description="Time between two runs with its unit: s, min, h, d or w, such as 30min, 6h or 1d."
    )
    rrule: Annotated[str, AfterValidator(_rrule)] | None = Field(
        default=None, description="Recurrence rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=2;BYMINUTE=0."
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="UTC", description="Time zone of the schedule, and of {started} in output.store."
    )
    flow: FlowName = Field(
        default="bic-sweep",
        description="bic-sweep runs the whole job; refresh refits the last winner to the current data, and repeats the "
        "whole search if the data have drifted; score-batch labels other rows with the last winner.",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of cron, interval and rrule; found {found}")
        return self

    @property
    def seconds(self) -> float | None:
        """The interval in seconds."""
        return None if self.interval is None else parse_duration(self.interval)

    @property
    def zone(self) -> tzinfo:
        """The time zone."""
        return ZoneInfo(self.timezone)

    def times(self, count: int) -> list[datetime]:
        """Return the next times of the schedule, in its time zone; fewer if it ends."""
        now = datetime.now(self.zone)
        if self.seconds is not None:
            return [now + timedelta(seconds=number * self.seconds) for number in range(count)]
        if self.rrule is not None:
            rule = _recurrence(self.rrule)
            # Prefect takes the hour of a time, and its zone from the schedule
            return list(islice(rule.xafter(now.replace(tzinfo=rule[0].tzinfo)), count))
        assert self.cron is not None
        return list(islice(CronSim(_CRON_NAMES.get(self.cron, self.cron), now), count))

    def require_time_to_come(self) -> None:
        """Raise :class:`UserError` if all times of a recurrence rule have passed."""
        if self.rrule is None or not re.search("COUNT|UNTIL|RDATE", self.rrule, re.IGNORECASE):
            return
        rule = _recurrence(self.rrule)
        # Prefect takes the hour of a time, and its zone from the schedule
        now = datetime.now(self.zone).replace(tzinfo=rule[0].tzinfo)
        if rule.after(now) is None:
            raise UserError(
                f"schedule.rrule: expected a time to come; the last was {rule.before(now):%Y-%m-%d %H:%M}. Change "
                "UNTIL, or COUNT, which counts from DTSTART, by default 2020-01-01; or remove the schedule."
            )


class ScoreConfig(Section):
    """The rows that the flow score-batch labels, with a model of the newest complete store."""

    source: Annotated[LocalPath, HiddenInJson] = Field(
        description="Path or URL of the rows, as data.source; data.storage_options apply here, too. Where "
        "data.filter, data.missing, data.missing_chunks, data.chunk_rows, data.dataset or keys of output are set, they "
        "apply to these rows; all else is taken from the store."
    )
    out: Annotated[LocalPath, AfterValidator(check_template)] = Field(
        default="results/{name}-scores-{started:%Y-%m-%d}.zarr",
        description="Path of the result: a Zarr group, or a folder that ends in .parquet; {name} and "
        "{started:%Y-%m-%d} are filled in.",
    )
    model: Annotated[str, AfterValidator(_model_name)] | None = Field(
        default=None,
        description="Name of the model that labels the rows, such as full-k2; null takes the best one. A store that "
        "has no model of this name is refused.",
    )


class RefreshConfig(Section):
    """When the flow refresh repeats the search, and how many stores it retains."""

    drift: Positive = Field(
        default=0.05,
        description="The search is repeated if refitting the last winner improves its mean log-likelihood per row, on "
        "rows held out for this, by more than this bound. The gains of all refreshes since the last search are added "
        "up, so that slow drift counts.",
    )
    keep: Count = Field(
        default=7,
        description="Number of complete stores to retain; older ones are removed, with their reports and rows.",
    )


class TasksConfig(Section):
    """Retries and timeouts of the stages of a job, each of which is a Prefect task."""

    retries: Whole = Field(
        default=0,
        description="How often a failed stage is retried, from its last checkpoint; mistakes in the data or the "
        "configuration are not retried. --no-prefect never retries.",
    )
    retry_delay_seconds: Delay = Field(
        default=10.0, description="Wait before a retry, in seconds or with a unit such as 5min."
    )
    timeout_seconds: Seconds | None = Field(
        default=None,
        description="Time after which a fitting stage fails, in seconds or with a unit such as 2h. It is checked "
        "between passes, and what was computed is saved: a retry or the next run resumes from there. null sets no "
        "limit.",
    )
