"""What a message must name, whatever its sentence."""

from __future__ import annotations

import re


def names(*parts):
    """Return a pattern for ``match`` that finds all the parts of a message, in any order; of a tuple, one of them."""
    choices = [part if isinstance(part, tuple) else (part,) for part in parts]
    return "(?s)" + "".join(f"(?=.*(?:{'|'.join(re.escape(str(one)) for one in choice)}))" for choice in choices)
