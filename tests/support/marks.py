"""Cases of parametrised tests that run with --runslow only."""

from __future__ import annotations

import pytest


def slow(cases):
    """Mark each of the cases, a value or a tuple of values, as slow."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]
