"""The configuration's section ``data``: the rows to cluster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field, ValidationInfo

from pipeline.config.fields import Count, HiddenInJson, LocalPath, Section, Text, distinct
from pipeline.config.formats import FORMATS, chunking, having
from pipeline.config.secrets import shown

ColumnNames = Annotated[
    tuple[Text, ...], Field(json_schema_extra={"minItems": 1, "uniqueItems": True}), AfterValidator(distinct)
]


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
    columns: ColumnNames | None = Field(
        default=None,
        description="Names of the columns to cluster on; null takes every numeric column. The columns of a plain array "
        "are x0, x1, ...",
    )
    weights: Text | None = Field(
        default=None, description="Name of the column with the weight of each row; null gives all rows the same weight."
    )
    chunk_rows: Count | Literal["auto"] = Field(
        default="auto",
        description="Rows of a chunk, the unit that one task reads and computes; auto chooses a number that gives the "
        f"candidates at least 50 ms of work, within the memory limit. {chunking()}.",
    )
    missing: Literal["error", "drop"] = Field(
        default="error",
        description="How to treat a row in which a clustered column or the weight is missing or not finite: error "
        "stops the job and reports how many there are; drop leaves such rows out of the fit, and they get label -1 "
        "and no density in the result.",
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
        "later passes read them faster: auto does so beside the result for CSV, for URLs and for row groups or storage "
        "chunks that are larger than a chunk, unless that would take more than half of the free space or other "
        "machines compute; none never; a folder does so in it, for every source, and all workers must see it. The "
        "cache is removed when the run ends. Data that fit in memory need none.",
    )
    scale: Literal["none", "standard"] = Field(
        default="none",
        description="How to scale the columns for the fit: none leaves them as they are, standard scales them to mean "
        "0 and standard deviation 1. Log-likelihoods and criteria refer to the unscaled columns in either case.",
    )

    @property
    def shown(self) -> str:
        """The source as messages and stores show it: ``***`` stands for what may be a secret in a URL."""
        return str(shown(self.source))

    @pydantic.field_validator("weights")
    @classmethod
    def _not_clustered_on(cls, weights: str | None, info: ValidationInfo) -> str | None:
        if weights is not None and weights in (info.data.get("columns") or ()):
            raise ValueError("expected a column that data.columns does not list")
        return weights
