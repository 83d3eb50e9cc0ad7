"""How a job ended: its complete store, and what this run did for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pipeline.report import report_folder
from pipeline.store import Result, open_result


@dataclass(frozen=True, eq=False, kw_only=True)
class Summary(Result):
    """A complete result store, read as the run left it.

    Attributes
    ----------
    run_seconds : float
        That this run took, its report included.
    reused : bool
        Whether the store was complete already and nothing was computed.
    """

    run_seconds: float
    reused: bool

    @property
    def report(self) -> str:
        """Path of the folder for its report."""
        return str(report_folder(self.store))

    @classmethod
    def read(cls, path: str, run_seconds: float, reused: bool) -> Self:
        """Read all of a complete store."""
        return cls(**vars(open_result(path)), run_seconds=run_seconds, reused=reused).loaded()
