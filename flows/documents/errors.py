"""Why a command ended without its result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.documents.base import Document, Part

ErrorKind = Literal["fault", "mistake", "locked", "interrupted", "terminated"]


class ErrorPart(Part):
    """Why a command ended without its result."""

    kind: ErrorKind = Field(
        description="fault: something outside failed; mistake: of the user; locked: another run is at work on the same "
        "result; interrupted: by Ctrl-C; terminated: by SIGTERM."
    )
    exit_code: int = Field(description="Of the command.")
    message: str = Field(description="The paragraph that is printed on standard error.")


class ErrorDocument(Document):
    """What any command with ``--json`` prints if it fails."""

    error: ErrorPart
