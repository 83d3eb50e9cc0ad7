"""The chunks of a run, of which the next one is read while the present one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


def compute_while_reading(
    reads: Sequence[Callable[[], Chunk]], compute: Callable[[int, Chunk], Result]
) -> Iterator[Result]:
    """Yield ``compute(i, reads[i]())`` one after the other; meanwhile a thread calls the next of ``reads``.

    No more than two chunks are in memory. An error of a read is raised when its chunk would be computed, as without the
    thread, and the thread ends with the last read that it has begun.
    """
    # the thread works for the same task: Dask knows a task's worker by its context
    context = copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        begun = [reader.submit(context.run, reads[0])]
        for number in range(len(reads)):
            chunk = begun.pop().result()
            # the chunk before this one is gone: only now does the next read begin
            begun += [reader.submit(context.run, read) for read in reads[number + 1 : number + 2]]
            yield compute(number, chunk)
