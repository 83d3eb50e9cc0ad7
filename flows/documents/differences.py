"""Two result stores beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from flows.documents.base import Document, Part, known

if TYPE_CHECKING:
    from pipeline.compare import StoreDifference
    from pipeline.store import Result


class StorePart(Part):
    """One of two stores that are compared."""

    store: str
    best: str
    noise_weight: float | None = Field(description="Weight of the winner's noise; null without.")
    n_rows: int | None
    mean_log_likelihood: float | None = Field(description="Per fitted row, of the winner.")

    @classmethod
    def of(cls, result: Result) -> Self:
        """Read a complete result store."""
        return cls(
            store=result.store,
            best=str(result.best),
            noise_weight=result.noise_weight,
            n_rows=result.n_rows,
            mean_log_likelihood=known(result.mean_log_likelihood),
        )


class CandidatePairPart(Part):
    """A candidate's criterion in each store; null where a store does not have it."""

    name: str
    a: float | None
    b: float | None


class ComponentPairPart(Part):
    """A component of one store, of the other, or of both."""

    a: int | None = Field(description="Its number in A; null if A does not have it.")
    b: int | None
    name: str | None
    weight_a: float | None
    weight_b: float | None
    distance: float | None = Field(
        description="Bhattacharyya distance of the two Gaussians, 0 if they are equal; null if one transform drops or "
        "clips what the other keeps."
    )
    overlap: float | None = Field(description="Of B's sampled rows with either label, the share that has both.")


class DiffDocument(Document):
    """What ``diff --json`` prints: two complete stores compared."""

    command: Literal["diff"] = "diff"
    a: StorePart
    b: StorePart
    criterion: str = Field(description="Of B, by which the candidates are compared; smaller is better.")
    same_rows: bool = Field(
        description="Whether both stores are of the same rows. If not, criteria cannot be compared."
    )
    same_densities: bool = Field(
        description="Whether the densities of both are of the same values. If not, as one transform drops or clips "
        "what the other keeps, criteria cannot be compared."
    )
    candidates: list[CandidatePairPart] = Field(description="The best of B first.")
    components: list[ComponentPairPart] = Field(description="Those of both, then of A alone, then of B alone.")
    matched_by: str | None = Field(
        description="How the components were paired; null if nothing tells which is which: the stores are of other "
        "rows, and one transform drops or clips what the other keeps."
    )
    agreement: float | None = Field(
        description="Share of B's sampled rows that both models give the same component; null if these are not paired."
    )

    @classmethod
    def of(cls, found: StoreDifference) -> Self:
        """Read the difference of two stores."""
        return cls(
            a=StorePart.of(found.a),
            b=StorePart.of(found.b),
            criterion=found.criterion,
            same_rows=found.same_rows,
            same_densities=found.same_densities,
            candidates=[CandidatePairPart(**vars(one)) for one in found.candidates],
            components=[ComponentPairPart(**vars(one)) for one in found.components],
            matched_by=found.matched_by,
            agreement=known(found.agreement),
        )
