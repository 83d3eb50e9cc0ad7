"""The configuration's section ``data``: the rows to cluster."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from pipeline.config.fields import Count, HiddenInJson, LocalPath, Section, Text, Whole
from pipeline.config.formats import FORMATS, chunking, having
from pipeline.config.row_filter import check_filter
from pipeline.config.secrets import shown
from pipeline.config.transforms import ColumnNames, ScaleOfData, Steps, TransformStep


def _time_as_text(value: Any) -> Any:
    """YAML reads a date or a time as one, where it is not in quotes."""
    return value.isoformat() if isinstance(value, date) else value


def _check_time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected the number of a version, or a time such as 2026-11-28T06:00") from None
    return text


# the number of a version, or a time
Version = Annotated[Whole | Annotated[str, AfterValidator(_check_time)], BeforeValidator(_time_as_text)]


class DataConfig(Section):
    """The rows to cluster."""

    source: Annotated[LocalPath, HiddenInJson] = Field(
        description=f"Path or URL of the data: {', '.join(each.description for each in FORMATS)}. A path is relative "
        "to the current directory, and ~ is the home folder; a URL is one of s3://, gs://, abfs://, https://, "
        "memory://. ${NAME} is filled in from the environment when the data are opened."
    )
    storage_options: Annotated[dict[str, Any], HiddenInJson] = Field(
        default={},
        description="Options of fsspec's file system for a URL, such as {anon: true} for a public bucket. Secrets come "
        "from the environment: {key: '${KEY}', secret: '${SECRET}'}; they are filled in when the data are opened. A "
        "value that is written out is stored and shown as ***, with a note, unless its key is known to be harmless, "
        "as endpoint_url is.",
    )
    dataset: Text | None = Field(
        default=None,
        description=f"Path of the dataset within the file, for {having('has_datasets')}; null takes the only one.",
    )
    version: Version | None = Field(
        default=None,
        description=f"Which state of a table is read, for {having('has_versions')}: the number of a version, or a time "
        "such as 2026-11-28T06:00, in UTC unless it has a zone, at which it was the newest; null takes the newest one "
        "when a run begins. The result knows the version, and a run that is resumed reads the same one.",
    )
    columns: ColumnNames | None = Field(
        default=None,
        description="Names of the columns to cluster on; null takes every numeric column. The columns of a plain array "
        "are x0, x1, ...",
    )
    variables: ColumnNames | None = Field(
        default=None,
        description="Names of the variables to cluster on, of data on a grid, such as [temp, salt] on (time, depth, "
        "lat, lon). Each dimension is one of the rows, but for data.feature_dims; a variable that lacks one has the "
        f"same value along it. The values of rows come back on the same grid. For {having('has_grids')} with named "
        "dimensions, as xarray writes them; several netCDF-4 files, by a glob, are joined along the dimension in whose "
        "coordinate they differ. null reads columns.",
    )
    feature_dims: tuple[Text, ...] = Field(
        default=(),
        description="The dimensions of data.variables whose coordinates become columns, such as [depth]: each column "
        "is a variable at a coordinate, and called like temp[depth=10.0].",
    )
    weights: Text | None = Field(
        default=None,
        description="Name of the column or variable with the weight of each row; null gives all rows the same weight.",
    )
    filter: Annotated[Text, AfterValidator(check_filter)] | None = Field(
        default=None,
        description="Which rows are read, such as year == 2026 and depth < 700: a column beside a value, with ==, !=, "
        "<, <=, >, >=, in [1, 2], not in, is null, is not null; joined by and, or, not. Texts and dates are in quotes, "
        "names that are no plain word in backticks. A missing value meets no comparison. Files, by the names of their "
        "folders, and row groups, by their statistics, that can have no such row are not read. The others have no "
        f"values in the result. For {having('has_filter')}.",
    )
    by: Text | None = Field(
        default=None,
        description="Name of a column whose values cut the rows into groups, such as a store, a station or a date: "
        "each group gets a search of its own, all from one read of the data, and one result has them all. The column "
        "may hold whole numbers, texts, dates or booleans. Rows without a value belong to no group and get no values "
        "in the result. null makes one search of all rows.",
    )
    chunk_rows: Count | Literal["auto"] = Field(
        default="auto",
        description="Rows of a chunk, the unit that one task reads and computes; auto chooses a number that gives the "
        f"candidates at least 50 ms of work, within the memory limit. {chunking()}.",
    )
    missing: Literal["error", "drop", "likelihood"] = Field(
        default="error",
        description="How to treat a row in which a clustered column or the weight is missing or not finite: error "
        "stops the job and reports how many there are; drop leaves such rows out of the fit, and they get label -1 "
        "and no density in the result; likelihood lets a row take part with the values that it has (Ghahramani and "
        "Jordan 1994), whose density alone is its own, and leaves out those without any value or without a weight. "
        "likelihood takes no data.by, no pca in data.transform, no search.resamples, no search.noise and no "
        "search.inference: variational.",
    )
    missing_chunks: Literal["error", "fill"] = Field(
        default="error",
        description="How to treat a chunk that is not stored, for "
        f"{having('missing_chunks')}: error stops the job, because the chunk may be lost; fill takes the array's fill "
        "value, for data whose writer leaves out chunks of fill values.",
    )
    cache: LocalPath | Literal["auto", "none"] = Field(
        default="auto",
        description="Whether the first pass over the data writes the rows of the columns in use to a local disk, where "
        "later passes read them faster: auto does so beside the result for CSV, for URLs, for row groups or storage "
        "chunks that are larger than a chunk, and for chunks that take longer to decode than to compute, as the run "
        "measures when it begins, unless that would take more than half of the free space or other machines compute; "
        "none never; a folder does so in it, for every source, and all workers must see it. The cache is removed when "
        "the run ends. Data that fit in memory need none. With data.by it holds the rows by group: auto writes it "
        "where they do not fit in memory.",
    )
    scale: Literal["none", "standard"] = Field(
        default="none",
        description="How to scale the columns for the fit: none leaves them as they are, standard scales them to mean "
        "0 and standard deviation 1. Log-likelihoods and criteria refer to the unscaled columns in either case. It is "
        "short for data.transform: [{scale: standard}].",
    )
    transform: Steps = Field(
        default=(),
        description="Steps that change the columns before the fit, in order, each of all columns or of those that it "
        "names: {scale: standard} or {scale: robust}; log, log1p or logit, such as {log: {columns: [income]}}; "
        "{arcsinh: {cofactor: 5}}, where cofactor may be a number for each column; {clip: {minimum: 0, maximum: "
        "4095}}; {pca: {n_components: 7, whiten: false}}, where a number below 1 is the share of the variance to keep, "
        "and prefix names the components. Nothing is "
        "written: rows are transformed as they are read, new ones when they are scored, too. Log-likelihoods and "
        "criteria refer to the columns as they are stored (after clip, to clipped values; where pca drops dimensions, "
        "to the coordinates that it keeps). With data.missing: likelihood a value that a step does not take, such as 0 "
        "in log, counts as missing; scales follow from the values that a column has.",
    )

    @property
    def drops(self) -> bool:
        """Whether rows that cannot be used are left out, and not an error."""
        return self.missing != "error"

    @property
    def has_gaps(self) -> bool:
        """Whether rows may have missing values, and take part."""
        return self.missing == "likelihood"

    def at(self, version: int | None) -> DataConfig:
        """Return the data at a version of their table; as they are where none is known."""
        found: DataConfig = self if version is None else self.model_copy(update={"version": version})
        return found

    @pydantic.field_validator("transform")
    @classmethod
    def _goes_with_gaps(cls, steps: tuple[TransformStep, ...], info: ValidationInfo) -> tuple[TransformStep, ...]:
        if info.data.get("missing") == "likelihood" and any(step.name == "pca" for step in steps):
            raise ValueError(
                "expected no pca, as data.missing is likelihood: a row with gaps has no principal components. Leave "
                "the step out, or set data.missing: drop"
            )
        return steps

    @property
    def shown(self) -> str:
        """The source as messages and stores show it: ``***`` stands for what may be a secret in a URL."""
        return str(shown(self.source))

    @pydantic.field_validator("feature_dims")
    @classmethod
    def _of_variables(cls, dims: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if dims and info.data.get("variables", ()) is None:
            raise ValueError("expected data.variables, too: the variables that have these dimensions")
        return dims

    @property
    def steps(self) -> tuple[TransformStep, ...]:
        """The steps of the transform, with that which ``scale`` is short for."""
        return self.transform if self.scale == "none" else (TransformStep(scale=ScaleOfData(method=self.scale)),)

    @pydantic.model_validator(mode="after")
    def _one_place_for_scaling(self) -> DataConfig:
        if self.scale != "none" and self.transform:
            raise ValueError(
                "expected data.scale: none beside data.transform, in which {scale: standard} is a step of its own"
            )
        return self

    @pydantic.field_validator("weights", "by")
    @classmethod
    def _not_clustered_on(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and name in (info.data.get("columns") or ()):
            raise ValueError("expected a column that data.columns does not list")
        if name is not None and info.field_name == "by" and name == info.data.get("weights"):
            raise ValueError("expected another column than that of data.weights")
        return name
