"""What a message must name, whatever its sentence."""

from __future__ import annotations

import re


def names(*parts):
    """Return a pattern for ``match`` that finds all the parts of a message, in any order."""
    return "(?s)" + "".join(f"(?=.*{re.escape(str(part))})" for part in parts)
