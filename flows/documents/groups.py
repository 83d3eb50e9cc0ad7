"""Results of a search for each group of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from flows.documents.base import Document, Part, known
from flows.documents.results import RowsPart, RunFields, rows_part, run_fields
from gmm_dask.selection.criteria import CRITERIA
from pipeline.store.attributes import RunStatus

if TYPE_CHECKING:
    from pipeline.fit.job import GroupsSummary
    from pipeline.score.group_scores import GroupScores
    from pipeline.store import GroupsResult


class GroupPart(Part):
    """A group."""

    group: str = Field(description="The value of the column of groups, as text.")
    status: str = Field(description="That of the winner: converged, max_iter, ...; failed without one.")
    best: str | None = Field(description="Name of the winner; null without one.")
    n_components: int | None
    n_rows: int = Field(description="Rows of the fits; all rows of a group that failed before them.")
    n_left_out: int = Field(description="Rows that were left out as values are missing.")
    criteria: dict[str, float | None] = Field(description="Of the winner, by name: " + ", ".join(CRITERIA) + ".")
    log_likelihood: float | None = Field(description="Of all fitted rows, by the winner.")
    message: str = Field(description="Why there is no model; empty if there is one.")


class GroupsDocument(Document):
    """What ``show --json`` prints of a store with a search for each group, finished or not."""

    command: Literal["show", "run"] = "show"
    store: str
    name: str = Field(description="Of the job.")
    status: RunStatus = Field(description="complete, or running of a store whose run works or was stopped.")
    criterion: str = Field(description="That chooses: " + ", ".join(CRITERIA) + ".")
    by: str = Field(description="Name of the column of groups.")
    n_groups: int | None = Field(description="Null until the rows were read.")
    n_done: int = Field(description="Groups whose search has ended.")
    failed: int | None = Field(description="Groups without a model; null until all are done.")
    n_without: int | None = Field(description="Rows that have no value in the column, and no group.")
    groups: list[GroupPart] = Field(description="In the order of their values; empty of an unfinished store.")
    n_rows: int | None = Field(description="Rows of the fits.")
    passes: int = Field(description="Reads of the data.")
    bytes_read: int
    started: str
    finished: str | None

    @classmethod
    def of(cls, result: GroupsResult, **more: Any) -> Self:
        """Read a result store."""
        counts = result.groups
        return cls(
            store=result.store,
            name=result.config["name"],
            status=result.status,
            criterion=result.criterion,
            by=str(result.by),
            n_groups=counts.n_groups if counts else None,
            n_done=result.n_done,
            failed=len(result.without_model) if result.has_failed else counts.failed if counts else None,
            n_without=counts.n_without if counts else None,
            groups=list(map(_group, result.overview.to_dict("records"))) if result.is_complete else [],
            n_rows=result.n_rows,
            passes=result.passes,
            bytes_read=result.bytes_read,
            started=result.started,
            finished=result.finished,
            **more,
        )


def _group(row: dict[Any, Any]) -> GroupPart:
    return GroupPart(
        group=row["group"],
        status=row["status"],
        best=row["best"] or None,
        n_components=row["n_components"] or None,
        n_rows=row["n_rows"],
        n_left_out=row["n_left_out"],
        criteria={name: known(row[name]) for name in CRITERIA},
        log_likelihood=known(row["log_likelihood"]),
        message=row["message"],
    )


class GroupsRunDocument(RunFields, GroupsDocument):
    """What ``run --json`` prints of a search for each group: the complete store, and what this run did."""

    command: Literal["run"] = "run"

    @classmethod
    def of_run(cls, summary: GroupsSummary) -> Self:
        """Read the summary of a run."""
        return cls.of(summary, **run_fields(summary))


class GroupScoresDocument(Document):
    """What ``score --json`` prints of a store with a search for each group."""

    command: Literal["score"] = "score"
    out: str
    store: str
    by: str = Field(description="Name of the column of groups.")
    rows: RowsPart
    mean_log_density: float | None = Field(description="Mean per row with a label.")
    n_groups: int = Field(description="Groups with a model that have rows.")
    n_without: int = Field(description="Rows without a value in the column.")
    unknown: dict[str, int] = Field(
        description="Rows of each group that the store does not have, or has no model of; the largest of many."
    )
    n_unknown: int = Field(description="How many such groups there are.")
    unknown_rows: int = Field(description="Rows of all of them; they have no label.")
    seconds: float
    reused: bool = Field(description="Whether the scores were complete before, so that nothing was computed.")

    @classmethod
    def of(cls, scores: GroupScores) -> Self:
        """Read the summary of a score run."""
        names = (
            "out",
            "store",
            "by",
            "n_groups",
            "n_without",
            "unknown",
            "n_unknown",
            "unknown_rows",
            "seconds",
            "reused",
        )
        return cls(
            rows=rows_part(scores.rows),
            mean_log_density=known(scores.rows.mean_log_density),
            **{name: getattr(scores, name) for name in names},
        )
