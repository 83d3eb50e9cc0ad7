"""The signatures for which kernels are called: what there is to compile before the first call.

A call for another one is compiled when it comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import boolean, float64, from_dtype, int64, types

from gmm_dask.kernels import parsimonious, priors
from gmm_dask.kernels.arguments import Block, FitRows, FitSettings, Model, Monomials, Prior
from gmm_dask.kernels.compilation.jit import Missing

VALUES, MATRIX, STACK = float64[::1], float64[:, ::1], float64[:, :, ::1]
INDICES, CHOICE = int64[::1], boolean[::1]
DOUBLE = np.dtype(np.float64)
MODEL = types.BaseTuple.from_types([*[int64] * 5, boolean, float64], Model)


def of_predictions(rows: np.dtype[Any]) -> Missing:
    """Return the kernel of row outputs of chunks of a dtype; they are computed in double precision."""
    return _of("chunks", "predict_chunk", *_of_block(rows, DOUBLE), int64, INDICES, VALUES, MATRIX)


def of_sums(rows: np.dtype[Any], precision: np.dtype[Any]) -> Missing:
    """Return the kernel of passes over chunks of a dtype, in a precision."""
    x, *model, z, logits, shares = _of_block(rows, precision)
    return _of("chunks", "add_chunk", x, VALUES, *model, INDICES, z, logits, shares, int64, MATRIX, MATRIX)


def _of_block(rows: np.dtype[Any], precision: np.dtype[Any]) -> list[Any]:
    """Return rows, origins, coefficients, both factors and the memory of a block."""
    block = from_dtype(precision)
    return [from_dtype(rows)[:, ::1], MATRIX, block[:, :, ::1], INDICES, INDICES, *[block[:, ::1]] * 3]


def of_incomplete_predictions(rows: np.dtype[Any]) -> list[Missing]:
    """Return the kernels of row outputs of rows with gaps, of a dtype."""
    x, *of_patterns, row_multiple = _of_patterns(rows)
    outputs = INDICES, VALUES, MATRIX
    return [
        _of("gaps.patterns", "sort_by_pattern", x),
        _of("gaps.sums", "predict_incomplete", int64, x, *of_patterns, row_multiple, *outputs),
    ]


def of_incomplete_sums(rows: np.dtype[Any]) -> Missing:
    """Return the kernel of passes over rows with gaps, of a dtype."""
    x, *of_patterns, row_multiple = _of_patterns(rows)
    return _of("gaps.sums", "add_incomplete", int64, x, VALUES, *of_patterns, row_multiple, MATRIX, MATRIX)


def of_imputation(rows: np.dtype[Any]) -> Missing:
    """Return the kernel that fills gaps of rows of a dtype with expectations."""
    x, *gaps = _of_gaps(rows)
    return _of("gaps.conditional", "condition_incomplete", int64, x, *gaps, MATRIX, MATRIX, MATRIX)


def of_draws() -> Missing:
    """Return the kernel that fills gaps of a sample of rows with draws."""
    x, *gaps = _of_gaps(DOUBLE)
    return _of("gaps.conditional", "draw_incomplete", int64, x, *gaps, INDICES, MATRIX, MATRIX)


def _of_patterns(rows: np.dtype[Any]) -> list[Any]:
    """Return rows with gaps, their mixture, origins, both factors and the memory of a block, and its row multiple."""
    return [*_of_gaps(rows), MATRIX, *[int64[:, ::1]] * 2, *[MATRIX] * 3, int64]


def _of_gaps(rows: np.dtype[Any]) -> list[Any]:
    """Return rows with gaps, where each pattern begins and what it has, and the mixture."""
    return [from_dtype(rows)[:, ::1], INDICES, boolean[:, ::1], VALUES]


def of_fits() -> list[Missing]:
    """Return the kernels of starts, M-steps and checks of components."""
    part = [MATRIX, VALUES, MATRIX, float64, MATRIX, INDICES, INDICES]
    gain = float64, VALUES, VALUES
    return [
        _of("narrow_components", "judge_held_open", VALUES, MATRIX, STACK, VALUES, *[float64] * 4, *gain),
        _of("narrow_components", "all_gain", VALUES, MATRIX, MATRIX, CHOICE, *gain),
        _of("narrow_components", "find_narrower", STACK, MATRIX, float64, CHOICE),
        _of("assembly", "add_parts", *part, MATRIX, MATRIX, int64, MATRIX),
        _of("cholesky", "precision_factors", STACK),
    ]


def of_whole_fit(precision: np.dtype[Any]) -> Missing:
    """Return the kernel of fits over rows in memory, in a precision."""
    prior = _named(Prior, int64, int64, boolean, VALUES)
    rows = _named(FitRows, MATRIX, VALUES, float64, VALUES, MATRIX, VALUES)
    monomials = _named(Monomials, INDICES, INDICES)
    block = _named(Block, *[from_dtype(precision)[:, ::1]] * 3, int64)
    settings = _named(FitSettings, *[float64] * 4, int64, float64, VALUES, VALUES)
    ends = [VALUES, INDICES, MATRIX, int64[:, ::1], VALUES]
    return _of("fit", "fit_many", MODEL, prior, rows, monomials, monomials, block, settings, MATRIX, MATRIX, *ends)


def of_mixtures_from_parts() -> tuple[Missing, Missing]:
    """Return the kernels that a search makes mixtures with: ``assemble`` and ``fill_responsibilities``."""
    parts, mixture = [int64[:, ::1], MATRIX, MATRIX, VALUES], [MATRIX, MATRIX, VALUES, VALUES]
    block = [INDICES, INDICES, MATRIX, MATRIX, MATRIX, int64]
    return (
        _of("assembly", "assemble", MODEL, *parts, MATRIX, MATRIX, CHOICE),
        _of("assembly", "fill_responsibilities", int64, *mixture, *block, MATRIX),
    )


def of_constraints() -> list[Missing]:
    """Return the kernels of covariance models that have something in common."""
    return [
        _of("parsimonious", "constrain", *[int64] * 3, *[VALUES] * 3),
        Missing(parsimonious.__name__, "_constrain_mixture", parsimonious.MIXTURE_SIGNATURE),
    ]


def of_priors() -> list[Missing]:
    """Return the kernels that whole fits with a prior of EM call."""
    return [Missing(priors.__name__, name, priors.SIGNATURE) for name in ("_move_to_prior", "_log_prior")]


def _named(kind: type, *members: Any) -> types.BaseTuple:
    return types.BaseTuple.from_types(members, kind)


def _of(module: str, name: str, *kinds: Any) -> Missing:
    return Missing(f"gmm_dask.kernels.{module}", name, kinds)
