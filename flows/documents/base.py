"""What documents have in common."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1


class Document(BaseModel):
    """A document of a command."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    version: Literal[1] = Field(default=1, alias="schema", description="Raised when a key changes its meaning.")


class Part(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def known(value: float | None) -> float | None:
    """Return a number, or None for one that JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(value)
