"""What a message must name, whatever its sentence, and what a log must hold."""

from __future__ import annotations

import re


def names(*parts):
    """Return a pattern for ``match`` that finds all the parts of a message, in any order; of a tuple, one of them."""
    choices = [part if isinstance(part, tuple) else (part,) for part in parts]
    return "(?s)" + "".join(f"(?=.*(?:{'|'.join(re.escape(str(one)) for one in choice)}))" for choice in choices)


def stages_of(log):
    """What the lines of a log begin with, but for those of a first run, or of a slow one, which tells every 10 s."""
    return [line.split(":")[0] for line in log.splitlines() if not re.match(r"compile|starts|pass \d|\d+ of ", line)]
