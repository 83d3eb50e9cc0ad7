"""Reads over a network that fail are repeated for a while, and counted.

The file systems repeat a request some times within seconds; here a chunk is read again after an outage of a minute.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gmm_dask.errors import FaultError
from pipeline.progress import Message, Progress

Piece = TypeVar("Piece")
Read = TypeVar("Read")

# a read is not repeated later than this after the first
RETRY_SECONDS = 60.0
# between two reads: twice as long each time, and up to a half less, so that threads do not come all at once
FIRST_WAIT, LONGEST_WAIT = 1.0, 16.0
# under which workers of a cluster tell the client of a read that failed
TOPIC = "gmm-dask-failed-read"

# who is told of failed reads in this process
_listeners: list[Callable[[str], None]] = []


class UnreachableError(FaultError):
    """A remote file could not be read: a network, or a server, failed."""


def read_with_retries(read: Callable[[Piece], Read], piece: Piece) -> Read:
    """Return ``read(piece)``; after an :class:`UnreachableError` it is tried again, with pauses that grow."""
    last, wait = time.monotonic() + RETRY_SECONDS, FIRST_WAIT
    while True:
        try:
            return read(piece)
        except UnreachableError as error:
            if time.monotonic() + wait > last:
                raise
            _tell(str(error))
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2.0 * wait, LONGEST_WAIT)


def _tell(error: str) -> None:
    if "distributed" in sys.modules:
        from distributed import get_worker

        try:
            get_worker().log_event(TOPIC, error)
            return
        except ValueError:  # this is no worker
            pass
    failed(error)


def failed(error: str) -> None:
    """Tell this process's listeners of a read that failed."""
    for listener in list(_listeners):
        listener(error)


def failed_on_worker(event: tuple[float, Any]) -> None:
    """Handle an event of :data:`TOPIC`, as ``distributed.Client.subscribe_topic`` hands it over."""
    failed(event[1])


@contextmanager
def repeated_reads_reported(progress: Progress) -> Iterator[None]:
    """Report the first read that failed and is repeated, and in the end how many there were."""
    count = 0

    def listener(error: str) -> None:
        nonlocal count
        count += 1
        if count == 1:
            progress(Message("retry", f"{error} The read is repeated for {RETRY_SECONDS:g} s"))

    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        if count:
            progress(Message("retry", f"{count:,} failed reads of the data were repeated"))
