"""Estimates of a job, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from flows.documents.base import Document, Part, known

if TYPE_CHECKING:
    from pipeline.fit.plan import Estimate
    from pipeline.fit.profile import Profile
    from pipeline.fit.timing.chunks import PassTime
    from pipeline.score.estimate import ScoreEstimate


class TimePart(Part):
    """How long a pass takes, as measured on a chunk (``--time``)."""

    seconds: tuple[float, float] = Field(description="At the least and at the most.")
    passes: tuple[int, int] = Field(description="The fewest and the most of the job.")


class ColumnPart(Part):
    """What a read of the data found in a column (``--profile``)."""

    name: str
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    missing: int


class ProfilePart(Part):
    """What a read of the data found (``--profile``)."""

    n_rows: int
    left_out: int = Field(description="Rows with missing or infinite values.")
    copies: float = Field(description="Share of rows that are copies of another.")
    columns: list[ColumnPart]
    notes: list[str]

    @classmethod
    def of(cls, profile: Profile) -> Self:
        """Read a profile."""
        numbers = ("minimum", "maximum", "mean", "deviation")
        columns = [
            ColumnPart(name=one.name, missing=one.missing, **{name: known(getattr(one, name)) for name in numbers})
            for one in profile.columns
        ]
        return cls(
            n_rows=profile.n_rows,
            left_out=profile.left_out,
            copies=profile.copies,
            columns=columns,
            notes=list(profile.notes),
        )


class ScoringPart(Part):
    """What the flow score-batch reads and needs."""

    data: str = Field(description="Path or URL of the rows to label.")
    format: str
    n_rows: int | None = Field(description="Null if only a read tells (CSV).")
    columns: list[str]
    chunks: int
    bytes_per_pass: int
    model: str | None = Field(description="Of the newest complete store; null, as the following, if there is none.")
    store: str | None
    written: list[str] = Field(description="What is written of each row.")
    threads: int | None
    memory_bytes: int | None = Field(description="Projected peak.")
    memory_limit: int | None = Field(description="In bytes.")
    out: str = Field(description="Path of the scores; dates are not filled in.")
    notes: list[str]

    @classmethod
    def of(cls, estimate: ScoreEstimate) -> Self:
        """Read an estimate."""
        source, inputs = estimate.source, estimate.inputs
        return cls(
            data=source.path,
            format=source.format.name,
            n_rows=source.n_rows,
            columns=list(source.columns),
            chunks=int(source.array.numblocks[0]),
            bytes_per_pass=source.bytes_per_pass,
            model=inputs.model.candidate.name if inputs else None,
            store=inputs.result.store if inputs else None,
            written=inputs.request.written if inputs else [],
            threads=inputs.machine.threads if inputs else None,
            memory_bytes=inputs.memory_bytes if inputs else None,
            memory_limit=inputs.machine.memory_limit if inputs else None,
            out=estimate.out,
            notes=list(estimate.notes),
        )


class ScoringDocument(Document):
    """What ``validate --json`` prints for a config whose flow is score-batch."""

    command: Literal["validate"] = "validate"
    scoring: ScoringPart
    answering: list[str] = Field(description="What was contacted and answers (``--connect``), a line each.")


class EstimateDocument(Document):
    """What ``validate --json`` prints: what the job reads and needs."""

    command: Literal["validate"] = "validate"
    data: str = Field(description="Path or URL of the rows.")
    format: str
    n_rows: int | None = Field(description="Null if only a read tells (CSV, and rows that a filter chooses).")
    columns: list[str]
    transform: list[str] = Field(description="The steps of data.transform, as in: log of income.")
    transform_reads: int = Field(description="Reads of the data that fitting these takes, after the first pass.")
    chunks: int
    bytes_per_pass: int
    in_memory: bool = Field(description="Whether only the first pass of a stage reads the rows, as they are few.")
    candidates: int
    starts: int = Field(description="Fits: candidates times starts.")
    extends: bool = Field(description="Whether the search may add candidates.")
    waves: int = Field(description="Groups of fits that do not share passes, as all together need too much memory.")
    threads: int
    memory_bytes: int = Field(description="Projected peak.")
    memory_limit: int = Field(description="In bytes.")
    cache: str = Field(description="Whether the rows are kept on a local disk, where and why; may be empty.")
    store: str
    notes: list[str]
    time: TimePart | None = None
    profile: ProfilePart | None = None
    answering: list[str] = Field(description="What was contacted and answers (``--connect``), a line each.")
    scoring: ScoringPart | None = Field(default=None, description="Of a config with a section score.")
    by: str | None = Field(default=None, description="Name of the column of groups, of a search for each (data.by).")
    groups: int | None = Field(default=None, description="How many groups there are, where the names of folders tell.")

    @classmethod
    def of(
        cls,
        estimate: Estimate,
        time: PassTime | None,
        profile: Profile | None,
        answering: Sequence[str] = (),
        scoring: ScoringPart | None = None,
    ) -> Self:
        """Read an estimate, with what was measured."""
        source, plan = estimate.source, estimate.plan
        return cls(
            data=source.path,
            format=source.format.name,
            n_rows=source.n_rows,
            columns=list(source.columns),
            transform=list(estimate.transform),
            transform_reads=estimate.transform_reads,
            chunks=int(source.array.numblocks[0]),
            bytes_per_pass=source.bytes_per_pass,
            in_memory=estimate.in_memory,
            candidates=len(plan.candidates),
            starts=len(plan.candidates) * plan.n_init,
            extends=estimate.extends,
            waves=len(plan.waves),
            threads=plan.machine.threads,
            memory_bytes=plan.memory_bytes,
            memory_limit=plan.machine.memory_limit,
            cache=time.cache if time else estimate.cache,
            store=estimate.store,
            notes=list(estimate.notes),
            time=TimePart(seconds=time.range, passes=time.n_passes) if time else None,
            profile=ProfilePart.of(profile) if profile else None,
            answering=list(answering),
            scoring=scoring,
            by=estimate.by,
            groups=estimate.n_groups,
        )
