"""One run a store: a lock beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipeline.store.arrays import writing
from pipeline.store.places import StorePath, place_of

# for which a run holds a store on an object store without renewing its lease, and another waits that wants it
LEASE_SECONDS = 30.0


@contextmanager
def lock(
    path: StorePath, *, seconds: float = LEASE_SECONDS, waiting: Callable[[str], object] = lambda sentence: None
) -> Iterator[None]:
    """Hold a result store for this run.

    Parameters
    ----------
    path : str or Path
    seconds : float
        On an object store, after which another run may take it over if this one does not renew its lease. On a disk
        the operating system frees the lock when the process dies, however it dies.
    waiting : callable
        Called with a sentence if the lease of a run that may have died is waited for.

    Raises
    ------
    LockedError
        If another run holds it.
    """
    place = place_of(path)
    with ExitStack() as held:
        with writing(place.lock_path):
            held.enter_context(place.lock(seconds, waiting))
        yield


def is_locked(path: StorePath) -> bool:
    """Whether a run is at work on a result store; on an object store it may have died."""
    return place_of(path).is_locked()
