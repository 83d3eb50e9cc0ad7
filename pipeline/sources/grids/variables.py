"""Variables of a grid: arrays whose dimensions have names, of one store or joined from several files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmm_dask.conventions import CONVENTIONS, Encoding, date_units
from pipeline.sources.base import Span, numeric_dtype, stored_encoding
from pipeline.sources.grids.dates import in_units

# a part of an array: a range of each of its dimensions
Region = tuple[Span, ...]

# attributes that programs write for themselves, or that name other variables, which are not copied
_INTERNAL = frozenset(
    {"CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "bounds", "coordinates", "grid_mapping", "cell_measures"}
)


def whole(shape: Sequence[int]) -> Region:
    """Return the region that is all of an array."""
    return tuple(Span(0, size) for size in shape)


def slices(region: Region) -> tuple[slice, ...]:
    """Return a region as an index of an array."""
    return tuple(slice(span.start, span.stop) for span in region)


def shape_of(region: Region) -> tuple[int, ...]:
    """Return the shape of a region."""
    return tuple(map(len, region))


@dataclass(frozen=True, eq=False)
class Variable(ABC):
    """A variable of a grid; each task that reads a part of it holds it.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Names of its dimensions, in the order in which they are stored.
    attributes : mapping
    """

    name: str
    dims: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the array."""

    @property
    @abstractmethod
    def chunks(self) -> tuple[int, ...]:
        """Shape of a storage chunk."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Of the stored numbers."""

    @property
    @abstractmethod
    def encodings(self) -> tuple[Encoding, ...]:
        """How its numbers are stored, file by file; raises :class:`UserError` if attributes are not understood."""

    @abstractmethod
    def read(self, region: Region, dtype: Any) -> NDArray[Any]:
        """Return the values of a region, decoded; a missing value is NaN."""

    @abstractmethod
    def read_bytes(self, shape: tuple[int, ...]) -> int:
        """What the read of a region of this shape holds beside its values."""

    @abstractmethod
    def coordinate_values(self) -> NDArray[Any]:
        """Return all values of a coordinate: as they are stored, but numbers that are packed decoded, and text."""

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each dimension."""
        return dict(zip(self.dims, self.shape, strict=True))

    @property
    def chunk_sizes(self) -> dict[str, int]:
        """Size of a storage chunk in each dimension."""
        return dict(zip(self.dims, self.chunks, strict=True))

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """Dtype of its values: float32 if all are, else float64."""
        return np.result_type(*(encoding.dtype for encoding in self.encodings))

    @property
    def is_numeric(self) -> bool:
        """Whether it holds numbers; dates are none."""
        return numeric_dtype(self.dtype) is not None and not date_units(self.attributes)

    @property
    def shown(self) -> str:
        """Its name with its dimensions, such as ``temp(time, depth)``."""
        return f"{self.name}({', '.join(self.dims)})"

    @property
    def public_attributes(self) -> dict[str, Any]:
        """Its attributes as JSON has them, without those by which numbers are decoded or a format finds its way."""
        found = {}
        for key, value in self.attributes.items():
            plain = _plain(value)
            internal = key in _INTERNAL or key in CONVENTIONS or key.startswith("_")
            if not internal and (not isinstance(plain, float) or math.isfinite(plain)):
                found[key] = plain
        return {key: value for key, value in found.items() if isinstance(value, str | int | float | list)}


class StoredArray(Protocol):
    """An array as it is stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a storage chunk; without those, of a part that is read without its neighbours."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored numbers."""

    def read(self, region: Region) -> NDArray[Any]:
        """Return the stored numbers of a region."""

    def read_bytes(self, shape: tuple[int, ...]) -> int:
        """What the read of a region of this shape holds beside the stored numbers."""


@dataclass(frozen=True, eq=False)
class StoredVariable(Variable):
    """A variable of one file or store.

    Attributes
    ----------
    array : StoredArray
    where : str
        Its name in messages.
    """

    array: StoredArray
    where: str

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102
        return self.array.shape

    @property
    def chunks(self) -> tuple[int, ...]:  # noqa: D102
        return self.array.chunks

    @property
    def dtype(self) -> np.dtype[Any]:  # noqa: D102
        return self.array.dtype

    @cached_property
    def encoding(self) -> Encoding:
        """How its numbers are stored."""
        return stored_encoding(self.attributes, self.dtype, self.where)

    @property
    def encodings(self) -> tuple[Encoding, ...]:  # noqa: D102
        return (self.encoding,)

    def read(self, region: Region, dtype: Any) -> NDArray[Any]:  # noqa: D102
        return self.encoding.decode(self.array.read(region), dtype)

    def read_bytes(self, shape: tuple[int, ...]) -> int:  # noqa: D102
        return self.array.read_bytes(shape) + math.prod(shape) * self.dtype.itemsize

    def coordinate_values(self) -> NDArray[Any]:  # noqa: D102
        stored = self.array.read(whole(self.shape))
        if numeric_dtype(self.dtype) is None:
            texts = [str(_plain(value)) for value in np.asarray(stored).ravel().tolist()]
            return np.array(texts, dtype=np.dtypes.StringDType()).reshape(self.shape)
        return stored if self.encoding.is_plain else self.encoding.decode(stored)


@dataclass(frozen=True, eq=False)
class JoinedVariable(Variable):
    """A variable of several files, one after the other along a dimension; each may be packed in its own way.

    Attributes
    ----------
    parts : tuple of Variable
    axis : int
        Of the dimension.
    """

    parts: tuple[Variable, ...]
    axis: int

    @classmethod
    def along(cls, dim: str, parts: Sequence[Variable]) -> JoinedVariable:
        """Join variables of one name along a dimension that they have."""
        first = parts[0]
        return cls(first.name, first.dims, first.attributes, tuple(parts), first.dims.index(dim))

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102
        first = self.parts[0].shape
        return (*first[: self.axis], sum(map(self._length, self.parts)), *first[self.axis + 1 :])

    @property
    def chunks(self) -> tuple[int, ...]:  # noqa: D102
        return tuple(max(sizes) for sizes in zip(*(part.chunks for part in self.parts), strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:  # noqa: D102
        return np.result_type(*(part.dtype for part in self.parts))

    @property
    def encodings(self) -> tuple[Encoding, ...]:  # noqa: D102
        return tuple(encoding for part in self.parts for encoding in part.encodings)

    def _length(self, part: Variable) -> int:
        return part.shape[self.axis]

    def read(self, region: Region, dtype: Any) -> NDArray[Any]:  # noqa: D102
        found = np.empty(shape_of(region), dtype=dtype)
        first, span = 0, region[self.axis]
        before, after = region[: self.axis], region[self.axis + 1 :]
        for part in self.parts:
            low, high = (min(max(end - first, 0), self._length(part)) for end in (span.start, span.stop))
            if low < high:
                lines = slice(first + low - span.start, first + high - span.start)
                found[(slice(None),) * self.axis + (lines,)] = part.read((*before, Span(low, high), *after), dtype)
            first += self._length(part)
        return found

    def read_bytes(self, shape: tuple[int, ...]) -> int:  # noqa: D102
        # the values of a part are held beside those of all
        of_parts = max(part.read_bytes(shape) for part in self.parts)
        return of_parts + math.prod(shape) * self.values_dtype.itemsize

    def coordinate_values(self) -> NDArray[Any]:  # noqa: D102
        values = [in_units(part.coordinate_values(), part.attributes, self.attributes) for part in self.parts]
        return np.concatenate(values, axis=self.axis)


def _plain(value: Any) -> Any:
    """Return an attribute as JSON has it; HDF5 has text as bytes, and arrays of one element where one is meant."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
