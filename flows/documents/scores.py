"""Scores of new rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from flows.documents.base import Document, Part, known
from flows.documents.results import RowsPart, rows_part

if TYPE_CHECKING:
    from pipeline.score.new_rows import ScoreSummary


class ComponentPart(Part):
    """A component among the new rows, and in the fit."""

    number: int = Field(description="As the labels of rows have it.")
    name: str | None
    share: float | None = Field(description="Share of the new rows with its label, of those that have a label.")
    fit_share: float | None
    moved: list[str] = Field(description="What differs by more than chance explains: share, mean, scatter.")


class NoisePart(Part):
    """The noise among the new rows, and in the fit."""

    share: float | None = Field(description="Share of the new rows that are of the noise, of those with a label.")
    fit_share: float | None
    moved: list[str] = Field(description="share if they differ by more than chance explains.")


class MissingPart(Part):
    """A column of which more or fewer values are missing than in the fit, by more than chance explains."""

    column: str
    share: float = Field(description="Share of the rows with a label that lack it.")
    fit_share: float


class ScoreDocument(Document):
    """What ``score --json`` prints: the new rows compared with those of the fit."""

    command: Literal["score"] = "score"
    out: str
    report: str | None = Field(description="Path of the report's page.")
    model: str
    rows: RowsPart
    mean_log_density: float | None = Field(description="Mean per usable row.")
    fit_mean_log_density: float | None
    fit_sample: int | None = Field(description="Rows of the sample that stands for those of the fit; null for all.")
    components: list[ComponentPart]
    noise: NoisePart | None = Field(description="Null of a model without noise.")
    missing: list[MissingPart] = Field(description="Columns with other gaps than in the fit, which are no drift.")
    gain: float | None = Field(description="By how much one M-step raises the mean log density, at least.")
    chance_gain: float | None = Field(description="What it would be about without drift.")
    drifted: bool
    drift: list[str] = Field(description="A sentence for each difference that chance does not explain.")
    seconds: float
    reused: bool = Field(description="Whether the scores were complete before, so that nothing was computed.")

    @classmethod
    def of(cls, summary: ScoreSummary) -> Self:
        """Read the summary of a score run."""
        components = [
            ComponentPart(
                number=one.number,
                name=one.name,
                share=known(one.share),
                fit_share=known(one.fit_share),
                moved=list(one.moved),
            )
            for one in summary.components
        ]
        noise = None
        if (change := summary.noise) is not None:
            shares = {"share": known(change.share), "fit_share": known(change.fit_share)}
            noise = NoisePart(**shares, moved=list(change.moved))
        return cls(
            out=summary.out,
            report=summary.page,
            model=summary.model,
            rows=rows_part(summary.rows),
            mean_log_density=known(summary.mean_log_density),
            fit_mean_log_density=known(summary.fit_mean_log_density),
            fit_sample=summary.fit_sample,
            components=components,
            noise=noise,
            missing=[MissingPart(**vars(one)) for one in summary.missing],
            gain=known(summary.gain),
            chance_gain=known(summary.chance_gain),
            drifted=bool(summary.drift),
            drift=list(summary.drift),
            seconds=summary.seconds,
            reused=summary.reused,
        )
