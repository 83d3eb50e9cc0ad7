"""A call of a compiled function by its address: the caller is compiled without it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from gmm_dask.kernels.llvm.vectors import INDEX, inlined


@inlined
def call_constrain(
    typing: Any, address: Any, model: Any, n_components: Any, d: Any, mixture: Any, previous: Any
) -> Any:
    """Call :func:`gmm_dask.kernels.parsimonious.constrain` for two mixtures as vectors, the second perhaps empty."""
    signature = types.int64(*[types.int64] * 4, mixture, previous)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, *numbers = args[:4]
        vectors = []
        for kind, value in zip(signature.args[4:], args[4:], strict=True):
            array = context.make_array(kind)(context, builder, value)
            vectors += [array.data, array.nitems]
        kinds = [INDEX] * 3 + [ir.DoubleType().as_pointer(), INDEX] * 2
        function = builder.inttoptr(address, ir.FunctionType(INDEX, kinds).as_pointer())
        return builder.call(function, [*numbers, *vectors])

    return signature, code
