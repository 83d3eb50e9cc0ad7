"""Reading ahead: the next chunk is read in a thread while one is computed; two chunks at most, and the same errors."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from functools import partial

import numpy as np
import pytest

import alive
from gmm_dask.passes.execution.read_ahead import compute_while_reading

PATIENCE = 10.0


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_the_next_chunk_is_read_while_one_is_computed():
    begun = [threading.Event() for _ in range(5)]

    def read(number):
        begun[number].set()
        return 10 * number

    def compute(number, chunk):
        assert number == 4 or begun[number + 1].wait(PATIENCE)
        return number, chunk

    found = list(compute_while_reading([partial(read, i) for i in range(5)], compute))
    assert found == [(i, 10 * i) for i in range(5)]
    assert readers() == []


def test_two_chunks_are_in_memory_at_most():
    alive.forget()
    reads = [partial(alive.counted, np.zeros(3)) for _ in range(20)]
    assert sum(1 for _ in compute_while_reading(reads, lambda number, chunk: len(chunk))) == 20
    assert alive.most() == 2


def test_an_error_of_a_read_comes_in_the_place_of_its_chunk():
    def read(number):
        if number == 2:
            raise OSError("half a file")
        return number

    computed = []
    with pytest.raises(OSError, match="half a file"):
        computed.extend(compute_while_reading([partial(read, i) for i in range(5)], lambda i, chunk: chunk))
    assert computed == [0, 1]
    assert readers() == []


def test_the_thread_ends_when_the_work_fails():
    read = []

    def compute(number, chunk):
        raise ValueError("no rows")

    with pytest.raises(ValueError, match="no rows"):
        list(compute_while_reading([partial(read.append, i) for i in range(5)], compute))
    assert read in ([0], [0, 1])
    assert readers() == []


def test_reads_see_the_context_of_their_task():
    worker = ContextVar("worker")
    worker.set("alice")
    assert list(compute_while_reading([worker.get] * 3, lambda number, chunk: chunk)) == ["alice"] * 3
