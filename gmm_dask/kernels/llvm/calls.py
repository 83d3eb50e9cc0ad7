"""A call of a compiled function by its address: the caller is compiled without it."""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types

from gmm_dask.kernels.llvm.vectors import INDEX, inlined


@inlined
def call_constrain(
    typing: Any, address: Any, model: Any, n_components: Any, d: Any, mixture: Any, previous: Any
) -> Any:
    """Call :func:`gmm_dask.kernels.parsimonious.constrain` for two mixtures as vectors, the second perhaps empty."""
    return types.int64(*[types.int64] * 4, mixture, previous), partial(_call, INDEX)


@inlined
def call_prior(
    typing: Any, address: Any, kind: Any, n_components: Any, d: Any, mixture: Any, factors: Any, prior: Any
) -> Any:
    """Call a function of :mod:`gmm_dask.kernels.priors` for a mixture as a vector, its factors and a prior."""
    return types.float64(*[types.int64] * 4, mixture, factors, prior), partial(_call, ir.DoubleType())


def _call(returned: Any, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    address, *numbers = args[:4]
    vectors = []
    for kind, value in zip(signature.args[4:], args[4:], strict=True):
        array = context.make_array(kind)(context, builder, value)
        vectors += [array.data, array.nitems]
    kinds = [INDEX] * 3 + [ir.DoubleType().as_pointer(), INDEX] * (len(vectors) // 2)
    function = builder.inttoptr(address, ir.FunctionType(returned, kinds).as_pointer())
    return builder.call(function, [*numbers, *vectors])
