"""Data that counts its reads, and a record of the tasks that Dask runs."""

from __future__ import annotations

import threading

import dask.array as da
import numpy as np
from dask.callbacks import Callback


class CountingRows:
    """Rows that count how often each element is read, from any thread."""

    def __init__(self, array):
        self._array, self._lock = array, threading.Lock()
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.counts = np.zeros(array.shape, dtype=int)

    def __getitem__(self, index):
        with self._lock:
            self.counts[index] += 1
        return self._array[index]

    @property
    def reads(self) -> int:
        """How often each element was read; an error if they differ."""
        assert self.counts.min() == self.counts.max(), f"uneven reads: {np.unique(self.counts)}"
        return int(self.counts[0, 0])

    def as_dask(self, chunks) -> da.Array:
        return da.from_array(self, chunks=chunks, name=False)


class TaskNames(Callback):
    """The names of the tasks that run, without their tokens, in a list."""

    def __init__(self):
        super().__init__()
        self.names = []

    def _pretask(self, key, dask, state):
        name = key[0] if isinstance(key, tuple) else key
        self.names.append(name.partition("-0")[0])
