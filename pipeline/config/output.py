"""The configuration's section ``output``: what is stored of the result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field, Strict, ValidationInfo

from gmm_dask.passes.row_outputs import ANOMALY, CLUSTER, ROW_OUTPUTS
from pipeline.config.fields import Count, LocalPath, Section, Switch, Text, each_once
from pipeline.config.formats import having
from pipeline.config.templates import check_template

Quantile = Annotated[float, Strict(), Field(gt=0.0, le=0.5)]


class _StoreConfig(Section):
    store: Annotated[LocalPath, AfterValidator(check_template)] = Field(
        default="results/{name}.zarr",
        description="Path of the result store, relative to the current directory, where ~ is the home folder; or URL "
        "of a folder in a bucket, s3://, gs:// or az://, with credentials from the environment. {name} stands for the "
        "name of the job, {started:%Y-%m-%d} for the time when the run began. A run that was stopped resumes in its "
        "store.",
    )


# keys of output, each of which stores a row output
SWITCHES = {output.config_key: output for output in ROW_OUTPUTS.values() if output.config_key is not None}
_fields: dict[str, Any] = {
    key: (Switch, Field(default=output.stored_by_default, description=output.description))
    for key, output in SWITCHES.items()
}
_SwitchConfig: Any = pydantic.create_model("_SwitchConfig", __base__=_StoreConfig, **_fields)


class OutputConfig(_SwitchConfig):  # type: ignore[misc]
    """What is stored of the result, and where."""

    clusters: Literal["components", "merged"] = Field(
        default="components",
        description="What a cluster is: components, each component one, so that the labels tell all; merged, "
        "components that overlap are one (merged by entropy), and each row's cluster is stored beside its label. A "
        "cluster has the number of its component of the largest weight.",
    )
    anomaly_quantile: Quantile | None = Field(
        default=None,
        description="Share of the rows, those of the lowest density, to mark as anomalies, up to 0.5, such as 0.001; "
        "null marks none. The log densities are stored, too.",
    )
    rows: Literal["zarr", "parquet"] = Field(
        default="zarr",
        description="Format of the per-row outputs: zarr, arrays in the store; parquet, a folder of files beside it, "
        f"STORE-rows/, for {having('key_opener')} data only.",
    )
    key_columns: Annotated[tuple[Text, ...], AfterValidator(each_once)] = Field(
        default=(),
        description="Columns of the data that are copied beside the per-row outputs, to join them by; with rows: "
        "parquet.",
    )
    report: Switch = Field(
        default=True, description="Whether to write the report, STORE-report/, at the end; of scores, OUT-report/."
    )

    metrics: LocalPath | None = Field(
        default=None,
        description="Folder for metrics in the text format of OpenMetrics, as the textfile collector of Prometheus's "
        "node exporter reads them: gmm-dask-NAME-run.prom of each run, gmm-dask-NAME-score.prom of scores. null writes "
        "none.",
    )
    keep: Count | None = Field(
        default=None,
        description="Number of complete results of the job to keep, of stores and of the scores at score.out, where "
        "their paths have a date. After a run, older ones are removed, with their reports and rows, unless a run works "
        "on them. null keeps all; the flow refresh then keeps refresh.keep stores.",
    )

    @property
    def row_outputs(self) -> tuple[str, ...]:
        """Names of the row outputs to store, chunk by chunk; anomalies need the log densities."""
        requested = {output.name for key, output in SWITCHES.items() if getattr(self, key)}
        if self.anomaly_quantile is not None:
            requested.update(ANOMALY.inputs)
        if self.clusters == "merged":
            requested.add(CLUSTER.name)
        return tuple(name for name in ROW_OUTPUTS if name in requested)

    @pydantic.field_validator("key_columns")
    @classmethod
    def _of_parquet(cls, key_columns: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if key_columns and info.data.get("rows") != "parquet":
            raise ValueError("expected none unless output.rows is parquet")
        return key_columns
