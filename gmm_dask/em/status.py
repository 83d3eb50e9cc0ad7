"""How a fit stands: the outcomes, each with its cause and its remedy."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from gmm_dask.errors import SINGULAR_ADVICE, SINGULAR_CAUSE


class Status(StrEnum):
    """The outcome of one start of a candidate.

    Attributes
    ----------
    cause : str
        What happened.
    advice : str
        What to do about it; empty where there is nothing to do.
    """

    cause: str
    advice: str

    def __new__(cls, value: str, cause: str = "", advice: str = "") -> Self:
        """Create the member of this value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.cause, member.advice = cause, advice
        return member

    RUNNING = "running", "the fit was interrupted", "Run it again to resume it."
    CONVERGED = "converged", "the mean log-likelihood, or the bound per row, changed by less than tol"
    MAX_ITER = (
        "max_iter",
        "max_iter was reached before the change fell below tol",
        "Increase max_iter or tol.",
    )
    INNER_MAX_ITER = (
        "inner_max_iter",
        "the change fell below tol, but the iterations within the last M-step, which find what the components' "
        "covariances have in common, stopped at their bound: the likelihood may still rise",
        "Decrease tol, so that further steps follow, or take a larger reg_covar: covariances that are all but singular "
        "need so many.",
    )
    SINGULAR = "singular", SINGULAR_CAUSE, SINGULAR_ADVICE
    DEGENERATE = (
        "degenerate",
        "a component holds one row or less (its weight is not above 1/n), so it describes no group of rows",
        "Ask for fewer components, or bring more rows; sample weights count rows and should add up to about the "
        "number of rows.",
    )
    ALL_NOISE = (
        "all_noise",
        "the noise takes all rows, as it is denser than the components: its volume is too small, or the rows are "
        "spread evenly over it",
        "Give no volume, which takes that of the box around the rows, or a larger one; or fit without noise.",
    )
    SPURIOUS = (
        "spurious",
        "a component is spurious: in some direction it is far narrower than the others, because rows are rounded, "
        "equal, or in line by chance, and without it they would be described about as well; or copies of rows alone "
        "let it win over fewer components",
        "Ask for fewer components, take reg_covar: auto or a larger one, or use tied covariances.",
    )
    FAILED = (
        "failed",
        "there are fewer rows than components, or the numbers left the range of float64",
        "Ask for fewer components, or scale the data to standard deviations of about one.",
    )

    @property
    def remedy(self) -> str:
        """The cause, and what to do about it."""
        return f"{self.cause}. {self.advice}".strip()

    @property
    def usable(self) -> bool:
        """Whether parameters of this status have a density."""
        return self not in (Status.SINGULAR, Status.FAILED)

    @property
    def trusted(self) -> bool:
        """Whether parameters of this status may win; the others win only where no candidate is trusted."""
        return self in (Status.RUNNING, Status.CONVERGED, Status.MAX_ITER, Status.INNER_MAX_ITER)
