"""Kernels: arithmetic on one block of rows, held in NumPy arrays that stay in the processor's cache.

They validate nothing, know no covariance type and no Dask, and write only into the buffers they are handed.
A block is stored line by line, shape (n_lines, n_rows), so that every operation runs along the rows.

The compiled ones, named here, are imported when they are first used, and Numba with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_COMPILED = {
    "add_chunk": "chunks",
    "add_incomplete": "gaps.sums",
    "add_parts": "assembly",
    "add_sums": "products",
    "constrain": "parsimonious",
    "constrain_address": "parsimonious",
    "assemble": "assembly",
    "condition_incomplete": "gaps.conditional",
    "mode_addresses": "priors",
    "posterior_addresses": "priors",
    "predict_chunk": "chunks",
    "predict_incomplete": "gaps.sums",
    "draw_incomplete": "gaps.conditional",
    "fill_lines": "chunks",
    "fill_responsibilities": "assembly",
    "all_gain": "narrow_components",
    "find_narrower": "narrow_components",
    "fit_many": "fit",
    "log_densities": "products",
    "judge_held_open": "narrow_components",
    "precision_factors": "cholesky",
    "sort_by_pattern": "gaps.patterns",
    "softmax": "e_step",
}


def __getattr__(name: str) -> Any:
    if name not in _COMPILED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kernel = getattr(import_module(f"{__name__}.{_COMPILED[name]}"), name)
    globals()[name] = kernel
    return kernel
