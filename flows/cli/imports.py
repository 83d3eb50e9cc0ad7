"""The imports of a command, which take most of the time of a short one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Leave what is imported to itself: modules stay as long as the process, and hold nothing to collect.

    The garbage collector would look through them some ten times while they are loaded, and later once more with each of
    its full collections: a tenth of the time of a small job.
    """
    was_enabled, n_modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > n_modules:
            gc.freeze()
        if was_enabled:
            gc.enable()
