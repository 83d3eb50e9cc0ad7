"""The settings of a score run: those of the stored job, with what may be replaced for other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem
from typing import Any

from gmm_dask.errors import UserError
from pipeline.config.formats import format_of
from pipeline.config.job import JobConfig, validated
from pipeline.config.output import SWITCHES
from pipeline.config.schedule import ScoreConfig
from pipeline.config.yaml_file import Document, parse_overrides
from pipeline.store import Result, StoredModel

# what may be replaced: how the new data are read, and which outputs are written
SETTABLE = (
    *("data.chunk_rows", "data.filter", "data.missing", "data.missing_chunks", "data.version", "data.dataset"),
    "data.storage_options",
    "cluster",
    *(f"output.{key}" for key in (*SWITCHES, "clusters", "anomaly_quantile", "key_columns", "report", "metrics")),
)
# of these the store's value never holds: what computes, and how a URL is reached, belong to a run
_NEVER_STORED = ("cluster", "data.storage_options", "output.metrics")


@dataclass(frozen=True)
class ScoreSettings:
    """What replaces the settings of the stored job in a score run.

    Attributes
    ----------
    values : dict
        Values by the paths of their keys, such as ``data.missing``; each key is one of :data:`SETTABLE` or within it.
    origin : str
        What error messages call the place where they stand: ``"--set"``, or nothing.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @classmethod
    def from_overrides(cls, overrides: Sequence[str]) -> ScoreSettings:
        """Parse texts ``section.key=value``, the options ``--set`` of the command line.

        Raises
        ------
        UserError
            If a text is not of this form, or its key is not settable.
        """
        values = parse_overrides(overrides)
        for key in values:
            if not any(f"{key}.".startswith(f"{allowed}.") for allowed in SETTABLE):
                raise UserError(
                    f"--set {key}: the stored model stays as it is, and its features are found by name (--columns, "
                    f"where they have other names). Keys that can be set are {', '.join(SETTABLE)}."
                )
        return cls(values, "--set")

    @classmethod
    def from_job(cls, config: JobConfig, score: ScoreConfig) -> ScoreSettings:
        """Take what a configuration sets itself; what it leaves out is as in the store, and not the default."""
        keys = {key: key in _NEVER_STORED or _is_set(config, key) for key in SETTABLE}
        # these belong to one format, which the new rows need not have
        source_format = format_of(score.source)
        keys["data.dataset"] &= source_format is not None and source_format.has_datasets
        keys["data.missing_chunks"] &= source_format is not None and source_format.missing_chunks
        keys["data.version"] = False  # of the table that the job fits
        keys["output.key_columns"] &= is_parquet(score.out)
        values = config.model_dump()
        return cls({key: reduce(getitem, key.split("."), values) for key, taken in keys.items() if taken})


def _is_set(config: JobConfig, key: str) -> bool:
    section, name = key.split(".")
    return name in getattr(config, section).model_fields_set


def score_config(
    result: Result,
    model: StoredModel,
    data: str,
    out: str,
    columns: Sequence[str] | None,
    settings: ScoreSettings,
) -> JobConfig:
    """Return the stored job's configuration with other data, another path for what is written, and the settings."""
    if columns is not None and len(columns) != len(model.sources):
        raise UserError(
            f"--columns: expected {len(model.sources)} names, in the order of the model's features "
            f"({', '.join(model.sources)}); got {len(columns)}: {', '.join(columns)}."
        )
    stored = result.config
    rows = "parquet" if is_parquet(out) else "zarr"
    kind = format_of(data)
    fills = stored["data"]["missing_chunks"] if kind is not None and kind.missing_chunks else "error"
    dropped = {"keep", "metrics", *(["key_columns"] if rows != "parquet" else [])}
    output = {key: value for key, value in stored["output"].items() if key not in dropped}
    values = {
        "name": stored["name"],
        "data": {
            "source": data,
            "columns": list(columns or model.sources),
            "variables": stored["data"].get("variables"),
            "feature_dims": stored["data"].get("feature_dims", []),
            "filter": stored["data"]["filter"],
            "missing": stored["data"]["missing"],
            "missing_chunks": fills,
            "by": stored["data"]["by"],
        },
        "search": stored["search"],
        "cluster": stored["cluster"],
        # a path is no template here: braces in it stay as they are
        "output": {**output, "store": out.replace("{", "{{").replace("}", "}}"), "rows": rows},
    }
    return validated(Document(values).with_values(settings.values, settings.origin), "of the scores")


def is_parquet(out: str) -> bool:
    """Return whether a path of scores is one of a folder of Parquet files."""
    return out.rstrip("/").endswith(".parquet")
