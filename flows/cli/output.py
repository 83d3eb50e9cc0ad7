"""What a command prints: a text for people or a document for machines, and how much of what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows import terminal

if TYPE_CHECKING:
    from flows.documents import Document
    from pipeline.progress import Progress


@dataclass(frozen=True)
class Output:
    """The output of one command.

    Attributes
    ----------
    as_json : bool
        Whether standard output holds a document, and nothing else.
    quiet : bool
        Whether it holds nothing for people.
    log_level : str or None
        Of standard error; None for warnings where ``quiet``, and for progress otherwise.
    """

    as_json: bool = False
    quiet: bool = False
    log_level: str | None = None

    @property
    def level(self) -> str:
        """``debug``, ``info``, ``warning`` or ``error``."""
        return self.log_level or ("warning" if self.quiet else "info")

    @property
    def is_text(self) -> bool:
        """Whether standard output is for people."""
        return not (self.as_json or self.quiet)

    def announce(self, line: str) -> None:
        """Print a line ahead of the result."""
        if self.is_text:
            terminal.print_line(line)

    def result(self, show: Callable[[], object], document: Callable[[], Document]) -> None:
        """Print the result, as text or as a document."""
        if self.as_json:
            terminal.print_json(document())
        elif self.is_text:
            show()

    def warn(self, sentence: str) -> None:
        """Print a warning, where no text of the result holds it."""
        if not self.is_text and self.level != "error":
            terminal.print_warning(sentence)

    def progress(self) -> AbstractContextManager[Progress]:
        """Return the listener for a job's progress."""
        return terminal.progress_listener(self.level)
