"""The axes of arrays that have a value for each candidate: number of components, covariance type, and noise if any."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import zarr

from gmm_dask.families import FAMILIES
from gmm_dask.families.candidate import Candidate
from pipeline.store.arrays import get, get_text, put

_NOISE = "noise"


@dataclass(frozen=True)
class CandidateAxes:
    """The axes of a group of such arrays.

    Attributes
    ----------
    counts : tuple of int
        Numbers of components, ascending.
    types : tuple of str
        Covariance types.
    noise : tuple of bool
        Whether candidates have noise; empty where none has, as then there is no such axis.
    """

    counts: tuple[int, ...]
    types: tuple[str, ...]
    noise: tuple[bool, ...] = ()

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> Self:
        """Return the axes that hold some candidates."""
        given = list(candidates)
        noise = sorted({one.noise for one in given})
        counts = sorted({one.n_components for one in given})
        types = dict.fromkeys(one.covariance_type for one in given)
        return cls(tuple(counts), tuple(types), tuple(noise) if any(noise) else ())

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions."""
        return ("n_components", "covariance_type", *([_NOISE] if self.noise else []))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an array of them."""
        return (len(self.counts), len(self.types), *([len(self.noise)] if self.noise else []))

    def place(self, candidate: Candidate) -> tuple[int, ...]:
        """Return the position of a candidate; raises ValueError if it has none."""
        first = self.counts.index(candidate.n_components), self.types.index(candidate.covariance_type)
        return (*first, self.noise.index(candidate.noise)) if self.noise else first

    def candidates(self) -> list[Candidate]:
        """Return what every position stands for, in the order of tables: by type, noise, and number of components."""
        combined = itertools.product(self.types, self.noise or (False,), self.counts)
        return [Candidate(name, count, noise) for name, noise, count in combined]

    def write(self, group: zarr.Group) -> None:
        """Write the coordinates."""
        put(group, "n_components", self.counts, ("n_components",))
        put(group, "covariance_type", list(self.types), ("covariance_type",))
        if self.noise:
            put(group, _NOISE, np.array(self.noise), (_NOISE,))

    @classmethod
    def read(cls, group: zarr.Group) -> Self:
        """Read the coordinates; raises KeyError or ValueError if they are those of no candidates."""
        counts = get(group, "n_components", np.int64, (None,)).tolist()
        types = get_text(group, "covariance_type", (None,))
        noise = get(group, _NOISE, np.bool_, (None,)).tolist() if _NOISE in group else []
        if not (set(types) <= set(FAMILIES) and all(count > 0 for count in counts) and len(set(noise)) == len(noise)):
            raise ValueError(f"its candidates have the covariance types {', '.join(types)} and {counts} components")
        return cls(tuple(counts), tuple(types), tuple(noise))
