"""Sections of the configuration for jobs that nobody watches: when they run, and how often a stage is tried."""

from __future__ import annotations

import re
from datetime import tzinfo
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from dask.utils import parse_timedelta
from dateutil.rrule import rrulestr
from pydantic import AfterValidator, Field, Strict, model_validator

from pipeline.config.environment import without_secrets
from pipeline.config.fields import Count, Section, Text, Whole
from pipeline.config.templates import check_template

# as Prefect names its flows
FlowName = Literal["bic-sweep", "refresh", "score-batch"]

_CRON = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|(\S+\s+){4}\S+")


def _cron(value: str) -> str:
    if not _CRON.fullmatch(value.strip()):
        raise ValueError("expected five fields such as '0 2 * * *': minute, hour, day, month, weekday")
    return value.strip()


def _interval(value: str) -> str:
    try:
        seconds = parse_timedelta(value, default=None)
    except (KeyError, ValueError, TypeError):
        seconds = 0.0
    if not seconds or seconds < 1.0:
        raise ValueError("expected a time of a second or more with its unit, such as 30min, 6h or 1d")
    return value


def _rrule(value: str) -> str:
    try:
        rrulestr(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected a rule such as FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=2 (RFC 5545); {error}") from None
    return value


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, OSError, ValueError):
        raise ValueError("expected the name of a time zone, such as Asia/Tokyo") from None
    return value


class ScheduleConfig(Section):
    """When 'gmm-dask serve' runs the job."""

    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None, description="Minute, hour, day, month and weekday, such as '0 2 * * *' for every night at two."
    )
    interval: Annotated[str, AfterValidator(_interval)] | None = Field(
        default=None, description="Time between two runs, such as 30min, 6h or 1d."
    )
    rrule: Annotated[str, AfterValidator(_rrule)] | None = Field(
        default=None, description="A rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=2;BYMINUTE=0."
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="UTC", description="Time zone of the schedule, and of {started} in output.store."
    )
    flow: FlowName = Field(
        default="bic-sweep",
        description="What is run: bic-sweep, the whole job; refresh, the fit of the last winner to the data as they "
        "are now, with the whole search again where it has drifted; score-batch, the labels of other rows.",
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            came = f"both {' and '.join(given)}" if given else "none of them"
            raise ValueError(f"expected one of cron, interval and rrule; {came} came")
        return self

    @property
    def seconds(self) -> float | None:
        """The interval in seconds."""
        return None if self.interval is None else float(parse_timedelta(self.interval))

    @property
    def zone(self) -> tzinfo:
        """The time zone."""
        return ZoneInfo(self.timezone)


class ScoreConfig(Section):
    """What the flow score-batch labels, with the model of the newest complete store."""

    source: Annotated[Text, AfterValidator(without_secrets)] = Field(
        description="Where the rows are, as data.source; data.storage_options are used here too. What is set of "
        "data.missing, chunk_rows and dataset, and of output, holds for these rows; the rest is as in the store."
    )
    out: Annotated[Text, AfterValidator(check_template)] = Field(
        default="results/{name}-scores-{started:%Y-%m-%d}.zarr",
        description="What is written: a Zarr group, or a folder that ends in .parquet; {name} and "
        "{started:%Y-%m-%d} are filled in.",
    )


class RefreshConfig(Section):
    """When the flow refresh searches again, and what it keeps."""

    drift: Annotated[float, Strict(), Field(gt=0.0, allow_inf_nan=False)] = Field(
        default=0.05,
        description="The search is made again if, on rows that were held out, a refit of the last winner is better "
        "than it was by more than this: mean log-likelihood a row. The gains of all refreshes since the last search "
        "are summed for that, so that slow drift counts.",
    )
    keep: Count = Field(
        default=7, description="Complete stores that are kept; older ones are removed, with their reports and rows."
    )


class TasksConfig(Section):
    """How the stages of a job are tried, each a task of its flow."""

    retries: Whole = Field(
        default=0,
        description="How often a stage that failed is tried again, from its last checkpoint; a mistake in the data or "
        "the configuration is not. --no-prefect tries once.",
    )
    retry_delay_seconds: Annotated[float, Strict(), Field(ge=0.0, le=86400.0)] = Field(
        default=10.0, description="Seconds before a stage is tried again."
    )
    timeout_seconds: Annotated[float, Strict(), Field(gt=0.0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds after which a stage that fits has failed. The time is looked at between passes, and "
        "what was computed is kept: another try, or the next run, goes on from there. null waits for ever.",
    )
