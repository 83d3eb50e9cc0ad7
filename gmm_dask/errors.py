"""The errors a user can meet, each with its remedy in the message."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the data, the settings or the command: the message says what to change."""


class FaultError(RuntimeError):
    """Something outside the program failed, such as a disk or a network: the message says what to look after."""


class LockedError(UserError):
    """Another run is at work on the same result."""


class UnusableError(UserError):
    """Rows hold values that are NaN or infinite."""


class TooLargeError(UserError):
    """Rows hold values whose squares are too large for float64."""


class ChangedRowsError(UserError):
    """Rows are not those that an earlier pass has read.

    Attributes
    ----------
    difference : str
    """

    def __init__(self, difference: str, message: str = "") -> None:
        super().__init__(
            message
            or f"the rows were changed while they were read: {difference}. Every pass must read the same rows: run it "
            "again when nobody writes to them."
        )
        self.difference = difference


class SingularError(ValueError):
    """A covariance matrix is not positive definite, so that a model has no density."""


SINGULAR_CAUSE = "a component collapsed onto too few distinct rows, so its covariance is not positive definite"
SINGULAR_ADVICE = "Increase reg_covar, ask for fewer components, or scale the data."
SINGULAR_REMEDY = f"{SINGULAR_CAUSE}. {SINGULAR_ADVICE}"
