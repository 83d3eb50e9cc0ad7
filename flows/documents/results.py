"""Jobs and result stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field

from flows.documents.base import Document, Part, known
from gmm_dask.families.candidate import Candidate
from gmm_dask.selection.criteria import CRITERIA
from pipeline.store.attributes import Identity, RunStatus
from pipeline.store.listing import ListedStatus, ListedStore

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.fit.job import GroupsSummary, Summary
    from pipeline.store import Result


class CandidatePart(Part):
    """A candidate of a search."""

    name: str = Field(description="Such as tied-k3.")
    n_components: int
    covariance_type: str
    noise: bool = Field(description="Whether a uniform component for rows that belong to none stands beside them.")
    same_model: list[str] = Field(
        description="Names of other candidates that are the same model: with one component, or one feature, covariance "
        "types coincide."
    )
    status: str = Field(
        description="converged, running, max_iter, inner_max_iter (the iterations within the last M-step stopped at "
        "their bound), or why it may not win."
    )
    criteria: dict[str, float | None] = Field(description="By name: " + ", ".join(CRITERIA) + ".")
    delta: float | None = Field(
        description="By how much the criterion is larger than the smallest; null of candidates that may not win."
    )
    log_likelihood: float | None = Field(description="Of all fitted rows, in the user's units.")
    held_out_log_likelihood: float | None = Field(description="Mean per held-out row.")
    n_parameters: int
    n_iter: int = Field(description="Iterations of the best start.")
    refits: int = Field(description="Resamples with a usable fit; 0 without resamples.")
    stability: float | None = Field(description="Mean adjusted Rand index of the labels in resamples with those here.")
    wins: float | None = Field(description="Share of the resamples in which the candidate wins.")
    delta_error: float | None = Field(description="Standard error of the criterion's difference to the winner.")

    @classmethod
    def of(cls, row: Mapping[Any, Any], same_model: list[str]) -> Self:
        """Read a row of the table of candidates."""
        return cls(
            name=Candidate.of(row).name,
            n_components=row["n_components"],
            covariance_type=row["covariance_type"],
            noise=row["noise"],
            same_model=same_model,
            status=row["status"],
            criteria={name: known(row[name]) for name in CRITERIA},
            delta=known(row["delta"]),
            log_likelihood=known(row["log_likelihood"]),
            held_out_log_likelihood=known(row["held_out_log_likelihood"]),
            n_parameters=row["n_parameters"],
            n_iter=row["n_iter"],
            refits=int(row.get("refits", 0)),
            **{name: known(row.get(name, math.nan)) for name in ("stability", "wins", "delta_error")},
        )


def _candidates(table: pd.DataFrame, n_features: int) -> list[CandidatePart]:
    rows = table.to_dict("records")
    forms = [Candidate.of(row).form(n_features) for row in rows]
    names = [Candidate.of(row).name for row in rows]
    same = [[names[j] for j, other in enumerate(forms) if other == form and j != i] for i, form in enumerate(forms)]
    return [CandidatePart.of(row, also) for row, also in zip(rows, same, strict=True)]


class ResultDocument(Document):
    """What ``show --json`` prints: a result store, finished or not."""

    command: Literal["show", "run"] = "show"
    store: str
    name: str = Field(description="Of the job.")
    status: RunStatus = Field(description="complete, or running of a store whose run works or was stopped.")
    criterion: str = Field(description="That chooses: " + ", ".join(CRITERIA) + ".")
    best: str | None = Field(description="Name of the winner; of an unfinished store, of the best candidate so far.")
    candidates: list[CandidatePart] = Field(description="The best first; of an unfinished store, as they are so far.")
    weights: list[float] = Field(description="Of the winner's components; empty of an unfinished store.")
    labels: list[int] = Field(description="Numbers of these components, as the labels of rows have them.")
    noise_weight: float | None = Field(
        description="Weight of the noise, whose rows have the label -1; null of a winner without, and of an unfinished "
        "store."
    )
    clusters: list[int] = Field(
        description="Of each component, the cluster that it is merged into where components overlap: the number of the "
        "cluster's component of the largest weight."
    )
    names: dict[int, str] = Field(description="Names of components, by their numbers.")
    identity: Identity | None = Field(
        description="Which components continue those of the job's earlier store; null before the choice."
    )
    weights_error: list[float | None] = Field(description="Their standard errors; empty without resamples.")
    n_rows: int | None = Field(description="Rows of the fits.")
    mean_log_likelihood: float | None = Field(description="Per fitted row, of the winner.")
    held_out_rows: int
    held_out_log_likelihood: float | None = Field(description="Mean per held-out row, of the winner.")
    remarks: list[str] = Field(description="What to know before the choice is trusted.")
    notes: list[str] = Field(description="What else is known of the choice.")
    passes: int = Field(description="Reads of the data.")
    bytes_read: int
    started: str
    finished: str | None

    @classmethod
    def of(cls, result: Result, **more: Any) -> Self:
        """Read a result store."""
        table = result.table
        if len(table):
            table = table.sort_values(["delta", "n_components"], na_position="last", kind="stable")
        complete = result.is_complete
        return cls(
            store=result.store,
            name=result.config["name"],
            status=result.status,
            criterion=result.criterion,
            best=result.leader,
            candidates=_candidates(table, len(result.data["columns"])),
            weights=list(result.weights) if complete else [],
            labels=list(result.best_model.numbers) if complete else [],
            noise_weight=result.noise_weight if complete else None,
            clusters=list(result.clusters) if complete else [],
            names=result.names,
            identity=result.identity,
            weights_error=[known(error) for error in result.errors.weights.tolist()] if result.errors else [],
            n_rows=result.n_rows,
            mean_log_likelihood=known(result.mean_log_likelihood) if complete else None,
            held_out_rows=result.held_out_rows,
            held_out_log_likelihood=known(result.held_out_log_likelihood) if complete else None,
            remarks=result.remarks if complete else [],
            notes=result.notes if complete else [],
            passes=result.passes,
            bytes_read=result.bytes_read,
            started=result.started,
            finished=result.finished,
            **more,
        )


class ListedPart(Part):
    """A result store of a folder."""

    store: str
    status: ListedStatus = Field(description="running if a run holds its lock; stopped if none does.")
    name: str | None = Field(description="Of the job; null, as the following, of a damaged store.")
    best: str | None
    n_rows: int | None
    started: str | None
    finished: str | None
    groups: int | None = Field(description="Of a search for each group (data.by), how many there are; else null.")


class ListDocument(Document):
    """What ``ls --json`` prints: the result stores of a folder."""

    command: Literal["ls"] = "ls"
    folder: str
    stores: list[ListedPart] = Field(description="In the order of their names.")

    @classmethod
    def of(cls, folder: str, stores: Sequence[ListedStore]) -> Self:
        """Read a listing."""
        return cls(folder=folder, stores=[ListedPart(**vars(one)) for one in stores])


class RowsPart(Part):
    """Counts of the rows that a model was applied to."""

    n_rows: int
    usable: int = Field(description="Rows with a label.")
    labels: list[int] = Field(description="Numbers of the components.")
    label_counts: list[int] = Field(description="Rows of each component.")
    noise: int | None = Field(description="Rows of the noise; null of a model without.")
    anomalies: int | None = Field(description="Rows marked as anomalies; null if none were to be marked.")
    anomaly_threshold: float | None = Field(description="The log density below which they lie.")


def rows_part(rows: Any) -> RowsPart:
    """Return what is known of rows as a part of a document."""
    return RowsPart(**{name: getattr(rows, name) for name in RowsPart.model_fields})


class RunFields(BaseModel):
    """What a run did, beside the store that it left."""

    rows: RowsPart | None = Field(description="Null if no output of rows was written.")
    report: str | None = Field(description="Path of the report's page.")
    seconds: float = Field(description="That this run took.")
    reused: bool = Field(description="Whether the store was complete before, so that nothing was computed.")


def run_fields(summary: Summary | GroupsSummary) -> dict[str, Any]:
    """Return the values of :class:`RunFields`."""
    return {
        "rows": rows_part(summary.row_summary) if summary.row_summary else None,
        "report": summary.page,
        "seconds": summary.run_seconds,
        "reused": summary.reused,
    }


class RunDocument(RunFields, ResultDocument):
    """What ``run --json`` prints: the complete store, and what this run did."""

    command: Literal["run"] = "run"

    @classmethod
    def of_run(cls, summary: Summary) -> Self:
        """Read the summary of a run."""
        return cls.of(summary, **run_fields(summary))
