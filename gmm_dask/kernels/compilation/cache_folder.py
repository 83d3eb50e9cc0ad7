"""Whether machine code can be kept, found without Numba."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# a kernel's machine code is kept beside its source
KERNELS = Path(__file__).parents[1]


def is_kept() -> bool:
    """Whether there is a folder for compiled kernels: ``NUMBA_CACHE_DIR``, that of the package, or a temporary one."""
    places = os.environ.get("NUMBA_CACHE_DIR"), KERNELS
    if any(place and os.access(place, os.W_OK) for place in places):
        return True
    try:
        return bool(tempfile.gettempdir())
    except FileNotFoundError:
        return False
