"""Vectors as wide as the processor's registers, for inner loops that a compiler does not find by itself.

A kernel's inner loop is written out once, as calls of the methods below, and compiled by Numba into the kernel that
uses it. Rows lie along the lanes, so that no kernel ever shuffles them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_features = llvmlite.binding.get_host_cpu_features()
_wide, _arm = _features.get("avx512f", False), llvmlite.binding.get_process_triple().startswith(("aarch64", "arm64"))
# bytes in a vector register, and how many of them there are
REGISTER_BYTES = 64 if _wide else 32 if _features.get("avx", False) else 16
N_REGISTERS = 32 if _wide or _arm else 16

INDEX = ir.IntType(64)

Emitter = Callable[..., Any]
inlined: Callable[[Emitter], Any] = intrinsic
"""What a compiled kernel calls, and what is written into it in place of the call."""


def integer(value: int) -> ir.Constant:
    """An index known when the kernel is compiled."""
    return ir.Constant(INDEX, value)


class Matrix:
    """A C-ordered array that a kernel was handed, and where its numbers lie."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.scalar = context.get_data_type(kind.dtype)
        self._builder, self._data = builder, array.data
        shape = cgutils.unpack_tuple(builder, array.shape)
        self.n_rows, self._n_columns = shape[0], shape[-1]

    def at(self, row: Any, column: Any) -> Any:
        """Pointer to a number."""
        start = self._builder.mul(row, self._n_columns)
        return self._builder.gep(self._data, [self._builder.add(start, column)])

    def number(self, row: Any, column: Any) -> Any:
        """The number itself."""
        return self._builder.load(self.at(row, column))


class Lanes:
    """Arithmetic on vectors of one element type, float64 or float32, one register wide."""

    def __init__(self, builder: Any, scalar: Any) -> None:
        self.double = isinstance(scalar, ir.DoubleType)
        self.width = REGISTER_BYTES // (8 if self.double else 4)
        self._builder, self.scalar = builder, scalar
        self._vector = ir.VectorType(scalar, self.width)
        self._name = f"v{self.width}f{64 if self.double else 32}"

    def constant(self, value: float) -> Any:
        """The same number in every lane."""
        return ir.Constant(self._vector, [value] * self.width)

    def spread(self, number: Any) -> Any:
        """A number that is known only when the kernel runs, in every lane."""
        undefined = ir.Constant(self._vector, ir.Undefined)
        one = self._builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self._builder.shuffle_vector(
            one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        )

    def load(self, pointer: Any) -> Any:
        """A vector from memory."""
        return self._builder.load(self._cast(pointer), align=self.scalar_bytes)

    def store(self, vector: Any, pointer: Any) -> None:
        """A vector into memory."""
        self._builder.store(vector, self._cast(pointer), align=self.scalar_bytes)

    @property
    def scalar_bytes(self) -> int:
        """Bytes of one element."""
        return 8 if self.double else 4

    def _cast(self, pointer: Any) -> Any:
        return self._builder.bitcast(pointer, self._vector.as_pointer())

    def variable(self, vector: Any) -> Any:
        """A place for a vector that changes: a register, once the compiler has seen it."""
        place = cgutils.alloca_once(self._builder, self._vector)
        self._builder.store(vector, place)
        return place

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """``a b + c``, rounded once."""
        kind = ir.FunctionType(self._vector, [self._vector] * 3)
        return self._builder.call(self._function(kind, "fma"), [a, b, c])

    def sum(self, vector: Any) -> Any:
        """The sum of the lanes, pair by pair."""
        kind = ir.FunctionType(self.scalar, [self.scalar, self._vector])
        function = self._function(kind, "vector.reduce.fadd")
        return self._builder.call(function, [ir.Constant(self.scalar, -0.0), vector], fastmath=("reassoc",))

    def _function(self, kind: Any, name: str) -> Any:
        return cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.{name}.{self._name}")

    def as_integers(self, vector: Any) -> Any:
        """The bits of each lane."""
        return self._builder.bitcast(vector, self._integers)

    def as_floats(self, integers: Any) -> Any:
        """The numbers whose bits these are."""
        return self._builder.bitcast(integers, self._vector)

    def integer_constant(self, value: int) -> Any:
        """The same integer in every lane."""
        return ir.Constant(self._integers, [value] * self.width)

    @property
    def _integers(self) -> Any:
        return ir.VectorType(ir.IntType(64 if self.double else 32), self.width)


def matrices(context: Any, builder: Any, signature: Any, args: Any) -> tuple[list[Matrix], list[Any]]:
    """The arguments of a kernel's inner loop: first arrays, then numbers."""
    n_arrays = sum(isinstance(kind, types.Array) for kind in signature.args)
    pairs = zip(signature.args[:n_arrays], args[:n_arrays], strict=True)
    return [Matrix(context, builder, kind, value) for kind, value in pairs], list(args[n_arrays:])


def for_each_size(builder: Any, size: Any, largest: int, emit: Callable[[int], None]) -> None:
    """Code for every size from 1 to ``largest``, of which the one that ``size`` says is run."""
    end = builder.append_basic_block("end")
    switch = builder.switch(size, end)
    for n in range(1, largest + 1):
        block = builder.append_basic_block(f"size_{n}")
        switch.add_case(integer(n), block)
        builder.position_at_end(block)
        emit(n)
        builder.branch(end)
    builder.position_at_end(end)
