"""The job's configuration: what each key of the YAML file means, and the JSON Schema made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo

from gmm_dask.families import FAMILIES
from gmm_dask.init.starts import INIT_PARAMS, STARTS
from gmm_dask.passes.row_outputs import ANOMALY, ROW_OUTPUTS
from gmm_dask.selection.criteria import CRITERIA
from pipeline.config.cluster import ClusterConfig
from pipeline.config.environment import fill_in, without_secrets
from pipeline.config.fields import Count, Real, Section, Switch, Text, Whole
from pipeline.config.formats import FORMATS, chunking, having
from pipeline.config.schedule import RefreshConfig, ScheduleConfig, ScoreConfig, TasksConfig
from pipeline.config.templates import check_template, is_dated, with_name
from pipeline.config.yaml_file import Document, explain, read_document

Quantile = Annotated[float, Strict(), Field(gt=0.0, le=0.5)]
Share = Annotated[float, Strict(), Field(ge=0.0, lt=1.0, allow_inf_nan=False)]

# keys in which ``${NAME}`` stays, to be filled in where the value is used
_FILLED_LATE = {"data": ("source", "storage_options"), "cluster": ("kwargs",), "score": ("source",)}


class ComponentRange(Section):
    """A range of numbers of components, both ends included."""

    min: Count = Field(default=1, description="The smallest number of components.")
    max: Count = Field(default=9, description="The largest number of components.")


def _component_counts(value: Any) -> Any:
    """Every number of components of a range or a list, ascending."""
    if isinstance(value, Mapping):
        unknown = set(value) - set(ComponentRange.model_fields)
        ends = [value.get(key, field.default) for key, field in ComponentRange.model_fields.items()]
        if unknown or not all(_is_count(end) for end in ends) or ends[0] > ends[1]:
            raise ValueError("expected {min: 1, max: 9} with whole numbers, 1 <= min <= max")
        return tuple(range(ends[0], ends[1] + 1))
    if not isinstance(value, list | tuple) or not all(_is_count(count) for count in value):
        raise ValueError("expected {min: 1, max: 9} or a list of whole numbers from 1, such as [2, 3, 5]")
    return tuple(sorted(_distinct(tuple(value))))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, of which there must be some, and each once."""
    if not values:
        raise ValueError("expected a list with at least one entry")
    return _each_once(values)


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"expected each value once; {', '.join(map(repr, repeated))} is repeated")
    return values


def _known_families(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        raise ValueError(f"expected some of {', '.join(FAMILIES)}; {unknown[0]!r} is none of them")
    return _distinct(names)


ComponentCounts = Annotated[
    tuple[int, ...],
    BeforeValidator(_component_counts, json_schema_input_type=ComponentRange | list[Count]),
]
ColumnNames = Annotated[
    tuple[Text, ...], Field(json_schema_extra={"minItems": 1, "uniqueItems": True}), AfterValidator(_distinct)
]
if TYPE_CHECKING:
    CriterionName = str
else:
    CriterionName = Literal[tuple(CRITERIA)]
CovarianceTypes = Annotated[
    tuple[str, ...],
    Field(json_schema_extra={"minItems": 1, "items": {"type": "string", "enum": list(FAMILIES)}}),
    AfterValidator(_known_families),
]

# the starts that the library registers, as choices that pydantic checks and lists
if TYPE_CHECKING:
    InitParams = str
else:
    InitParams = Literal[INIT_PARAMS]


class DataConfig(Section):
    """The rows to cluster."""

    source: Annotated[Text, AfterValidator(without_secrets)] = Field(
        description=f"Path or URL of the data: {', '.join(each.description for each in FORMATS)}. A path is relative "
        "to the current directory; a URL is one of s3://, gs://, abfs://, https://, memory://. ${NAME} is filled in "
        "from the environment when the data are opened."
    )
    storage_options: Annotated[dict[str, Any], AfterValidator(without_secrets)] = Field(
        default={},
        description="What fsspec's file system of a URL is told, such as {anon: true} for a public bucket. Secrets "
        "come from the environment: {key: '${KEY}', secret: '${SECRET}'}; they are filled in when the data are "
        "opened, and neither printed nor stored.",
    )
    dataset: Text | None = Field(
        default=None,
        description=f"Path of the dataset within the file, for {having('has_datasets')}; null takes the only one.",
    )
    columns: ColumnNames | None = Field(
        default=None,
        description="Names of the columns to cluster on; null takes every numeric column. "
        "Columns without names are x0, x1, ...",
    )
    weights: Text | None = Field(
        default=None, description="Name of a column with each row's weight; null weighs all rows alike."
    )
    chunk_rows: Count | Literal["auto"] = Field(
        default="auto",
        description="Rows of a chunk, the unit that one task reads and computes; auto chooses a number that gives the "
        f"candidates at least 50 ms of work, within the memory limit. {chunking()}.",
    )
    missing: Literal["error", "drop"] = Field(
        default="error",
        description="What to do with a row in which a clustered column or the weight is missing or not finite: "
        "error stops the job and tells how many there are; drop leaves such rows out of the fit, and they have label "
        "-1 and no density in the result.",
    )
    missing_chunks: Literal["error", "fill"] = Field(
        default="error",
        description="What to do with a chunk that is not stored, for "
        f"{having('missing_chunks')}: error stops the job, because the chunk may be lost; fill takes the array's fill "
        "value, for data whose writer leaves out chunks of fill values.",
    )
    scale: Literal["none", "standard"] = Field(
        default="none",
        description="How to scale the columns for the fit: none takes them as they are, standard fits columns of mean "
        "0 and standard deviation 1. The log-likelihood and the criteria are those of the unscaled columns.",
    )

    @pydantic.field_validator("weights")
    @classmethod
    def _not_clustered_on(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is not None and weights in (info.data.get("columns") or ()):
            raise ValueError("expected a column that data.columns does not list")
        return weights


class SearchConfig(Section):
    """The candidates, how each is fitted, and how one is chosen."""

    n_components: ComponentCounts = Field(
        default=tuple(range(1, 10)),
        description="Numbers of components to try: a range {min: 1, max: 9}, or a list.",
    )
    covariance_types: CovarianceTypes = Field(
        default=tuple(FAMILIES), description="Covariance types to try with each number of components."
    )
    criterion: CriterionName = Field(
        default="bic",
        description="The criterion to minimise. "
        + " ".join(f"{name}: {criterion.description}" for name, criterion in CRITERIA.items()),
    )
    held_out: Share = Field(
        default=0.0,
        description="Share of the rows, below 1, that take no part in the fits and their criteria. The closing pass "
        "tells how likely each candidate finds them, from the same read. Which rows follows from the seed and each "
        "row's position among all rows. All rows are labelled.",
    )
    extend: Switch = Field(
        default=False,
        description="Whether the grid is widened when the best candidate has the most components of it, or the fewest "
        "and more than one: by half as many numbers of components as it has, in its own stride, for every covariance "
        "type, until the best one lies inside. It ends, too, where no new candidate can be trusted, at as many "
        "components as rows, and at cluster.memory_limit. Each time takes two reads of the data more, beside those of "
        "the new fits. With init_params: auto the new candidates are searched for without the others, so that "
        "they may end elsewhere than in a grid that has them at first.",
    )
    n_init: Count = Field(default=1, description="Starts of each candidate; the best of them counts.")
    init_params: InitParams = Field(
        default="auto",
        description="How a start is made, from the sample of rows. "
        + "; ".join(f"{start.name}: {start.description}" for start in STARTS.values())
        + ". Each of the n_init starts is made independently.",
    )
    tol: Real = Field(
        default=1e-3,
        description="A fit has converged when its mean log-likelihood changes by less than this.",
    )
    max_iter: Whole = Field(default=100, description="EM iterations after which a fit stops.")
    reg_covar: Real | Literal["auto"] = Field(
        default=1e-6,
        description="Added to the diagonal of every covariance; in the columns' squared units, or in "
        "those of the scaled columns with data.scale: standard. auto adds a millionth of each column's variance, so "
        "that the result does not depend on units.",
    )
    accelerate: Switch = Field(
        default=False,
        description="Whether steps of EM are extrapolated, which takes fewer passes to the same likelihood where tol "
        "is small. A step at which the likelihood would fall is given up for the plain one.",
    )
    random_state: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = Field(
        default=0, description="Seed of the random numbers; the same seed gives the same result."
    )

    @pydantic.field_validator("held_out")
    @classmethod
    def _enough_for_criterion(cls, held_out: float, info: ValidationInfo) -> float:
        criterion = CRITERIA.get(info.data.get("criterion", ""))
        if not held_out and criterion and criterion.needs_held_out:
            raise ValueError(f"expected a share above 0, such as 0.2, as search.criterion is {criterion.name}")
        return held_out


class _StoreConfig(Section):
    store: Annotated[Text, AfterValidator(check_template)] = Field(
        default="results/{name}.zarr",
        description="Path of the result store, relative to the current directory; {name} is filled in, and "
        "{started:%Y-%m-%d} with the time when the run began. A run that was stopped goes on in its store.",
    )


# keys of output, each of which stores a row output
SWITCHES = {output.config_key: output for output in ROW_OUTPUTS.values() if output.config_key is not None}
_fields: dict[str, Any] = {
    key: (Switch, Field(default=output.stored_by_default, description=output.description))
    for key, output in SWITCHES.items()
}
_SwitchConfig: Any = pydantic.create_model("_SwitchConfig", __base__=_StoreConfig, **_fields)


class OutputConfig(_SwitchConfig):  # type: ignore[misc]
    """What is kept of the result."""

    anomaly_quantile: Quantile | None = Field(
        default=None,
        description="Share of the rows, those of the lowest density, to mark as anomalies, up to 0.5, such as 0.001; "
        "null marks none. Log densities are stored with the marks.",
    )
    rows: Literal["zarr", "parquet"] = Field(
        default="zarr",
        description="How the rows' values are stored: zarr as arrays in the store; parquet, of Parquet data only, as "
        "a folder of files beside it, STORE-rows/.",
    )
    key_columns: Annotated[tuple[Text, ...], AfterValidator(_each_once)] = Field(
        default=(),
        description="Columns of Parquet data that are copied beside the rows' values, to join them by; with rows: "
        "parquet.",
    )
    report: Switch = Field(default=True, description="Whether to write the report, STORE-report/, at the end.")

    @property
    def row_outputs(self) -> tuple[str, ...]:
        """Names of the row outputs that are stored chunk by chunk; anomalies need the log densities."""
        requested = {output.name for key, output in SWITCHES.items() if getattr(self, key)}
        if self.anomaly_quantile is not None:
            requested.update(ANOMALY.inputs)
        return tuple(name for name in ROW_OUTPUTS if name in requested)

    @pydantic.field_validator("key_columns")
    @classmethod
    def _of_parquet(cls, key_columns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if key_columns and info.data.get("rows") != "parquet":
            raise ValueError("expected none unless output.rows is parquet")
        return key_columns


class JobConfig(Section):
    """One job: choose a Gaussian mixture for the data, and store it."""

    name: str = Field(
        default="gmm-dask",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the job, in messages and file names: letters, digits, dot, dash and underscore.",
    )
    data: DataConfig = Field(description="The rows to cluster.")
    search: SearchConfig = Field(
        default=SearchConfig(), description="The candidates, how each is fitted, and how one is chosen."
    )
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="What computes.")
    output: OutputConfig = Field(default=OutputConfig(), description="What is kept of the result.")
    tasks: TasksConfig = Field(default=TasksConfig(), description="How the stages of the job are tried.")
    score: ScoreConfig | None = Field(default=None, description="What the flow score-batch labels; null is nothing.")
    refresh: RefreshConfig | None = Field(
        default=None, description="When the flow refresh searches again, and what it keeps; null takes the defaults."
    )
    schedule: ScheduleConfig | None = Field(
        default=None, description="When 'gmm-dask serve' runs the job; null leaves that to others."
    )

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
    """Values with variables of the environment; where secrets may be, ``${NAME}`` stays until it is used."""
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
    """The JSON Schema of the configuration, with every key's meaning and default."""
    schema = JobConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
