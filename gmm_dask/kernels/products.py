"""The two products of a pass: log densities from coefficients, and sums over rows from responsibilities.

Both go through the monomials of a row, ``z[first] * z[second]``, which are never stored: they are formed in registers
and used at once for all components of a tile. A tile holds its results in registers: ``TILE_COMPONENTS`` by
``TILE_VECTORS`` of them, the features and one coefficient are what the register file has room for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from gmm_dask.kernels.compilation.jit import compiled
from gmm_dask.kernels.llvm.vectors import N_REGISTERS, REGISTER_BYTES, Lanes, for_each_size, inlined, integer, matrices

# 8 x 3 results with 32 registers, 4 x 3 with 16: of the shapes that fit, the one with the most multiply-adds per load
TILE_COMPONENTS = N_REGISTERS // 4
TILE_VECTORS = 3
# rows of a block come in multiples of this many bytes a feature
TILE_BYTES = TILE_VECTORS * REGISTER_BYTES
# of each component's responsibilities, so many bytes are used again and again while they lie in the first cache
PANEL_BYTES = 11 * TILE_BYTES


@inlined
def _log_density_tile(
    typing: Any, eta: Any, first: Any, second: Any, z: Any, out: Any, row: Any, component: Any, size: Any
) -> Any:
    """Log densities of ``size`` components for the rows of one tile."""
    signature = types.void(eta, first, second, z, out, types.intp, types.intp, types.intp)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (eta, first, second, z, out), (row, component, size) = matrices(context, builder, signature, args)
        lanes = Lanes(builder, z.scalar)
        rows = [builder.add(row, integer(v * lanes.width)) for v in range(TILE_VECTORS)]

        def emit(n: int) -> None:
            components = [builder.add(component, integer(k)) for k in range(n)]
            total = [[lanes.variable(lanes.constant(0.0)) for _ in rows] for _ in components]
            # an outer product for each monomial: 3 loads of rows serve n components, n coefficients serve 3 vectors of
            # rows. The 3 n sums are independent, which hides the latency of a multiply-add (4 cycles)
            with cgutils.for_range(builder, eta.n_rows) as loop:
                a, b = (part.number(integer(0), loop.index) for part in (first, second))
                phi = [builder.fmul(lanes.load(z.at(a, i)), lanes.load(z.at(b, i))) for i in rows]
                for k, places in zip(components, total, strict=True):
                    coefficient = lanes.spread(eta.number(loop.index, k))
                    for monomial, place in zip(phi, places, strict=True):
                        builder.store(lanes.multiply_add(monomial, coefficient, builder.load(place)), place)
            for k, places in zip(components, total, strict=True):
                for i, place in zip(rows, places, strict=True):
                    lanes.store(builder.load(place), out.at(k, i))

        for_each_size(builder, size, TILE_COMPONENTS, emit)
        return context.get_dummy_value()

    return signature, code


@inlined
def _sums_tile(
    typing: Any,
    resp: Any,
    first: Any,
    second: Any,
    z: Any,
    sums: Any,
    start: Any,
    stop: Any,
    monomial: Any,
    component: Any,
    size: Any,
) -> Any:
    """Add sums of ``size`` components and ``TILE_VECTORS`` monomials over rows from ``start`` to ``stop``."""
    signature = types.void(resp, first, second, z, sums, *[types.intp] * 5)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (resp, first, second, z, sums), numbers = matrices(context, builder, signature, args)
        start, stop, monomial, component, size = numbers
        lanes = Lanes(builder, z.scalar)
        columns = [builder.add(monomial, integer(j)) for j in range(TILE_VECTORS)]
        factors = [[part.number(integer(0), j) for part in (first, second)] for j in columns]

        def emit(n: int) -> None:
            components = [builder.add(component, integer(k)) for k in range(n)]
            total = [[lanes.variable(lanes.constant(0.0)) for _ in columns] for _ in components]
            # the sums of a component and a monomial stay apart by lane until the panel ends
            with cgutils.for_range_slice(builder, start, stop, integer(lanes.width)) as (i, _):
                phi = [builder.fmul(lanes.load(z.at(a, i)), lanes.load(z.at(b, i))) for a, b in factors]
                for k, places in zip(components, total, strict=True):
                    r = lanes.load(resp.at(k, i))
                    for value, place in zip(phi, places, strict=True):
                        builder.store(lanes.multiply_add(r, value, builder.load(place)), place)
            for k, places in zip(components, total, strict=True):
                for j, place in zip(columns, places, strict=True):
                    # single precision sums a panel, double precision sums the panels: the error does not grow with rows
                    found = lanes.sum(builder.load(place))
                    found = found if lanes.double else builder.fpext(found, sums.scalar)
                    builder.store(builder.fadd(sums.number(k, j), found), sums.at(k, j))

        for_each_size(builder, size, TILE_COMPONENTS, emit)
        return context.get_dummy_value()

    return signature, code


@compiled
def log_densities(
    eta: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    z: NDArray[Any],
    out: NDArray[Any],
    n_rows: int,
) -> None:
    """``out[k, i] = sum_p eta[p, k] z[first[p], i] z[second[p], i]``.

    Parameters
    ----------
    eta : ndarray of shape (n_monomials, n_components or more)
    first, second : ndarray of shape (n_monomials or more,)
        Lines of ``z`` whose product is a monomial.
    z : ndarray of shape (n_lines, n_block_rows)
        Float64 or float32, like ``eta`` and ``out``.
    out : ndarray of shape (n_components, n_block_rows)
    n_rows : int
        Rows in use; a multiple of ``TILE_BYTES`` bytes.
    """
    n_components = len(out)
    # tiles of nearly equal size: 9 components are 4 + 5 and not 8 + 1, which would leave most registers empty
    n_tiles = -(-n_components // TILE_COMPONENTS)
    for row in range(0, n_rows, TILE_BYTES // z.itemsize):
        for tile in range(n_tiles):
            k, stop = tile * n_components // n_tiles, (tile + 1) * n_components // n_tiles
            _log_density_tile(eta, first, second, z, out, row, k, stop - k)


@compiled
def add_sums(
    resp: NDArray[Any],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    z: NDArray[Any],
    sums: NDArray[np.float64],
    n_rows: int,
) -> None:
    """``sums[k, p] += sum_i resp[k, i] z[first[p], i] z[second[p], i]``, gathered in float64 panel by panel.

    Parameters
    ----------
    resp : ndarray of shape (n_components, n_block_rows)
    first, second : ndarray of shape (n_monomials,)
        As in :func:`log_densities`; their number is a multiple of ``TILE_VECTORS``.
    z : ndarray of shape (n_lines, n_block_rows)
    sums : ndarray of shape (n_components, n_monomials)
    n_rows : int
        Rows in use; a multiple of ``REGISTER_BYTES`` bytes.
    """
    n_components = resp.shape[0]
    n_tiles = -(-n_components // TILE_COMPONENTS)
    # a panel of the responsibilities of a tile stays in the first-level cache while all monomials pass over it
    panel = PANEL_BYTES // z.itemsize
    for start in range(0, n_rows, panel):
        stop = min(start + panel, n_rows)
        for tile in range(n_tiles):
            k, last = tile * n_components // n_tiles, (tile + 1) * n_components // n_tiles
            for monomial in range(0, len(first), TILE_VECTORS):
                _sums_tile(resp, first, second, z, sums, start, stop, monomial, k, last - k)
