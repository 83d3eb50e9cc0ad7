"""The configuration of a job: all sections together, read from a YAML file, and its JSON Schema."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pydantic
from pydantic import Field, ValidationInfo

from pipeline.config.cluster import ClusterConfig
from pipeline.config.data import DataConfig
from pipeline.config.environment import fill_in
from pipeline.config.fields import Section
from pipeline.config.output import OutputConfig
from pipeline.config.schedule import RefreshConfig, ScheduleConfig, ScoreConfig, TasksConfig
from pipeline.config.search import SearchConfig
from pipeline.config.secrets import literals, secrets_hidden
from pipeline.config.templates import is_dated, with_name
from pipeline.config.yaml_file import Document, explain, read_document

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# keys in which ``${NAME}`` stays until the value is used, as they may hold secrets
_FILLED_LATE = {"data": ("source", "storage_options"), "cluster": ("kwargs",), "score": ("source",)}


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

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user about what may be secrets and is written out."""
        written = [
            *literals(self.data.source, "data.source"),
            *literals(self.data.storage_options, "data.storage_options"),
            *literals(self.cluster.kwargs, "cluster.kwargs"),
            *(literals(self.score.source, "score.source") if self.score else ()),
        ]
        if not written:
            return ()
        return (
            f"{', '.join(written)}: written out in the configuration, and shown and stored as ***. Secrets should come "
            "from the environment: write ${NAME}.",
        )

    @property
    def secret_values(self) -> tuple[Any, ...]:
        """The values in which secrets may be, for :func:`pipeline.config.secrets.secrets_hidden`."""
        source = self.score.source if self.score else ""
        return self.data.source, self.data.storage_options, self.cluster.kwargs, source

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
    """Decorate a function of a configuration, so that its errors, those of libraries among them, show no secrets."""

    @functools.wraps(function)
    def hidden(config: JobConfig, /, *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        with secrets_hidden(*config.secret_values):
            return function(config, *arguments, **options)

    return hidden


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> JobConfig:
    """Read a job's configuration.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    overrides : list of str
        Values that replace the file's, each as ``section.key=value`` with a YAML value.

    Returns
    -------
    JobConfig
        With every default filled in, and ``{name}`` in ``output.store``.

    Raises
    ------
    UserError
        If the file cannot be read, or a key or a value is not known. The message names every such key.
    """
    document = read_document(Path(path)).with_overrides(overrides)
    return validated(replace(document, values=_filled_in(document.values)), path)


def validated(document: Document, path: str | Path) -> JobConfig:
    """Return a document as a configuration; raises :class:`UserError` that names every key that is wrong."""
    try:
        return JobConfig.model_validate(document.values)
    except pydantic.ValidationError as error:
        raise explain(error, path, JobConfig, document) from None


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
