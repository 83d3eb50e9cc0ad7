"""The configuration of a job: all sections together, read from a YAML file, and its JSON Schema."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pydantic
from pydantic import Field, PrivateAttr, ValidationInfo

from gmm_dask.errors import UserError
from gmm_dask.passes.row_outputs import IMPUTED
from pipeline.config.cluster import ClusterConfig
from pipeline.config.data import DataConfig
from pipeline.config.environment import fill_in
from pipeline.config.fields import Section
from pipeline.config.grouping import require_groupable
from pipeline.config.output import OutputConfig
from pipeline.config.schedule import RefreshConfig, ScheduleConfig, ScoreConfig, TasksConfig
from pipeline.config.search import SearchConfig
from pipeline.config.secrets import literals, secrets_hidden
from pipeline.config.templates import at, is_dated, with_name
from pipeline.config.yaml_file import Document, explain, located, read_document

# runs of a schedule whose paths are compared
_TIMES_COMPARED = 50

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# keys in which ``${NAME}`` stays until the value is used, as they may hold secrets
_FILLED_LATE = {"data": ("source", "storage_options"), "cluster": ("kwargs",), "score": ("source",)}


class _Origins(dict[str, str]):
    """Where each key stands, which is no part of what a configuration says: two of them are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Origins)

    __hash__ = None


class JobConfig(Section):
    """A job: choose a Gaussian mixture for the data, and store it."""

    name: str = Field(
        default="gmm-dask",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the job, for messages and file names: letters, digits, dot, dash and underscore.",
    )
    data: DataConfig = Field(description="The rows to cluster.")
    search: SearchConfig = Field(
        default=SearchConfig(), description="The candidates, how each is fitted, and how one is chosen."
    )
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="Where Dask computes.")
    output: OutputConfig = Field(default=OutputConfig(), description="What is stored of the result, and where.")
    tasks: TasksConfig = Field(default=TasksConfig(), description="Retries and timeouts of the stages of the job.")
    score: ScoreConfig | None = Field(
        default=None, description="The rows that the flow score-batch labels; null for none."
    )
    refresh: RefreshConfig | None = Field(
        default=None,
        description="When the flow refresh repeats the search, and how many stores it retains; null takes the "
        "defaults.",
    )
    schedule: ScheduleConfig | None = Field(
        default=None, description="When 'gmm-dask serve' runs the job; null sets no schedule."
    )

    # where each key stands, for the messages of errors
    _origins: _Origins = PrivateAttr(default_factory=lambda: _Origins())

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user: what may be secrets and is written out, and settings that may not do what they say."""
        written = [
            *literals(self.data.source, "data.source"),
            *literals(self.data.storage_options, "data.storage_options"),
            *literals(self.cluster.kwargs, "cluster.kwargs"),
            *(literals(self.score.source, "score.source") if self.score else ()),
        ]
        notes = []
        if written:
            notes.append(
                f"{', '.join(written)}: written out in the configuration, and shown and stored as ***. Secrets should "
                "come from the environment: write ${NAME}."
            )
        if self.search.has_noise and self.output.anomaly_quantile is not None:
            notes.append(
                "output.anomaly_quantile: of a model with noise (search.noise) many rows have the least density, that "
                "of the noise, so that a smaller quantile may mark no row. The label -1 tells the rows of the noise."
            )
        return tuple(notes)

    @property
    def secret_values(self) -> tuple[Any, ...]:
        """The values in which secrets may be, for :func:`pipeline.config.secrets.secrets_hidden`."""
        source = self.score.source if self.score else ""
        return self.data.source, self.data.storage_options, self.cluster.kwargs, source

    @pydantic.field_validator("search")
    @classmethod
    def _goes_with_data(cls, search: SearchConfig, info: ValidationInfo) -> SearchConfig:
        data = info.data.get("data")
        if data is None or not data.has_gaps:
            return search
        if search.has_noise:
            raise ValueError(
                "expected no noise, as data.missing is likelihood: noise would need a volume for each pattern of gaps. "
                "Leave it out, or set data.missing: drop"
            )
        if search.resamples or search.inference != "em":
            what = f"resamples: {search.resamples}" if search.resamples else f"inference: {search.inference}"
            raise ValueError(
                f"expected no {what}, as data.missing is likelihood: these fits are of complete rows. Leave it out, or "
                "set data.missing: drop"
            )
        return search

    @pydantic.field_validator("output")
    @classmethod
    def _fills_gaps(cls, output: OutputConfig, info: ValidationInfo) -> OutputConfig:
        data = info.data.get("data")
        if IMPUTED.name in output.row_outputs and data is not None and not data.has_gaps:
            raise ValueError(
                f"expected imputed: false, as data.missing is {data.missing}: with likelihood alone rows with gaps "
                "take part. Set data.missing to likelihood, or leave out output.imputed"
            )
        return output

    @pydantic.field_validator("output")
    @classmethod
    def _fill_in_name(cls, output: OutputConfig, info: ValidationInfo) -> OutputConfig:
        store = with_name(output.store, info.data.get("name", ""))
        named: OutputConfig = output.model_copy(update={"store": store})
        return named

    @pydantic.field_validator("schedule")
    @classmethod
    def _can_run(cls, schedule: ScheduleConfig | None, info: ValidationInfo) -> ScheduleConfig | None:
        flow, output = schedule.flow if schedule else None, info.data.get("output")
        if flow == "score-batch" and info.data.get("score") is None:
            raise ValueError("expected a section score for the flow score-batch: score: {source: new-rows.parquet}")
        if flow == "refresh" and output is not None and not is_dated(output.store):
            raise ValueError(
                "expected a date in output.store, as the flow refresh makes a new store each time: "
                "output: {store: 'results/{name}-{started:%Y-%m-%d}.zarr'}"
            )
        return schedule


def hiding_secrets(
    function: Callable[Concatenate[JobConfig, Parameters], Result],
) -> Callable[Concatenate[JobConfig, Parameters], Result]:
    """Decorate a function of a configuration, so that its errors show no secrets, and the lines of keys they name."""

    @functools.wraps(function)
    def hidden(config: JobConfig, /, *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        with _errors_located(config._origins), secrets_hidden(*config.secret_values):
            return function(config, *arguments, **options)

    return hidden


@contextmanager
def _errors_located(origins: Mapping[str, str]) -> Iterator[None]:
    """Put the place of the key before the message of a user's error that begins with one."""
    try:
        yield
    except UserError as error:
        error.args = (located(str(error), origins), *error.args[1:])
        raise


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> JobConfig:
    """Read a job's configuration.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    overrides : list of str
        Values that replace the file's, each as ``section.key=value`` with a YAML value. They also replace those of
        variables of the environment, such as ``GMM_DASK__SEARCH__TOL``, which replace the file's.

    Returns
    -------
    JobConfig
        With every default filled in, and ``{name}`` in ``output.store``.

    Raises
    ------
    UserError
        If the file cannot be read, or a key or a value is not known. The message names every such key.
    """
    document = read_document(Path(path)).with_environment(os.environ).with_overrides(overrides)
    with _errors_located(document.origins):
        document = replace(document, values=_filled_in(document.values))
    return validated(document, path)


def validated(document: Document, path: str | Path) -> JobConfig:
    """Return a document as a configuration; raises :class:`UserError` that names every key that is wrong."""
    try:
        config = JobConfig.model_validate(document.values)
    except pydantic.ValidationError as error:
        raise explain(error, path, JobConfig, document) from None
    config._origins = _Origins(document.origins)
    with _errors_located(document.origins):
        _require_dates_to_keep(config)
        require_groupable(config)
    return config


def _require_dates_to_keep(config: JobConfig) -> None:
    paths = [config.output.store, *([config.score.out] if config.score else [])]
    if config.output.keep is not None and not any(map(is_dated, paths)):
        raise UserError(
            "output.keep: expected a date in output.store, as there is one store otherwise: "
            "output: {store: 'results/{name}-{started:%Y-%m-%d}.zarr'}."
        )


def require_schedulable(config: JobConfig) -> None:
    """Raise :class:`UserError` if runs of the schedule would find the result of an earlier one, or none is to come."""
    schedule = config.schedule
    if schedule is None:
        return
    with _errors_located(config._origins):
        schedule.require_time_to_come()
        key, template = "output.store", config.output.store
        if schedule.flow == "score-batch" and config.score is not None:
            key, template = "score.out", with_name(config.score.out, config.name)
        if not is_dated(template):
            raise UserError(
                f"{key}: expected a date, as each run of a schedule makes a new result, and the second one would find "
                "that of the first: such as results/{name}-{started:%Y-%m-%d}.zarr."
            )
        times = schedule.times(_TIMES_COMPARED)
        if same := next((pair for pair in pairwise(times) if at(template, pair[0]) == at(template, pair[1])), None):
            raise UserError(
                f"{key}: expected a date as fine as the schedule, such as {{started:%Y-%m-%dT%H%M%S}}: the runs due at "
                f"{same[0]:%Y-%m-%d %H:%M:%S} and {same[1]:%Y-%m-%d %H:%M:%S} would get the same path."
            )


def _filled_in(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in variables of the environment, except where secrets may be: there ``${NAME}`` stays until it is used."""
    late: dict[str, dict[str, Any]] = {}
    early = dict(values)
    for section, keys in _FILLED_LATE.items():
        found = values.get(section)
        if isinstance(found, dict):
            late[section] = {key: found[key] for key in keys if key in found}
            early[section] = {key: value for key, value in found.items() if key not in keys}
    filled = dict(fill_in(early, ""))
    return filled | {section: {**filled[section], **kept} for section, kept in late.items()}


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration, with the meaning and default of every key."""
    schema = JobConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
