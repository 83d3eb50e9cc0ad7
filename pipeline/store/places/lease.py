"""A lease on an object store: one run holds a place, as long as it lives and says so.

The lease is an object beside the place. It is made, renewed and taken over by conditional writes, which the store lets
one of several writers do. A run renews its lease several times in the time that it lasts. Another run that wants the
place watches: only if the object stays as it is for the whole of that time, by the watcher's own clock, does it take
the lease over. So no two clocks are ever compared. A run that was stopped meanwhile finds that its lease is not
renewed any more: before it writes, it has to renew it, which fails if another has it.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Protocol

from pydantic import Field, TypeAdapter, ValidationError

from gmm_dask.errors import FaultError, LockedError, UserError

# a lease is renewed so many times while it lasts
RENEWALS = 4
# the longest that is waited for
MAX_SECONDS = 600.0


def now() -> float:
    """Return the seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    if platform.system() == "Linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class LeaseObject(Protocol):
    """The object in which a lease is kept."""

    path: str

    def read(self) -> tuple[bytes, Any] | None:
        """Return what is stored, and its version; None if nothing is."""

    def write(self, data: bytes, version: Any) -> Any:
        """Write if the version is still this one, or, for None, nothing is there.

        Returns the new version, or None if that is not so.
        """


@dataclass(frozen=True)
class Terms:
    """What a lease says.

    Attributes
    ----------
    holder : str
        Of the run that holds the lease, and of no other; empty if none does.
    where : str
        The process, for messages.
    seconds : float
        After which another may take it over if it was not renewed.
    renewals : int
        How often it was.
    """

    holder: str
    where: str
    seconds: Annotated[float, Field(gt=0.0, le=MAX_SECONDS)]
    renewals: int

    def to_bytes(self) -> bytes:
        """Return the terms as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, stored: LeaseObject) -> tuple[Terms | None, Any]:
        """Read the terms of a lease and its version; none of both if there is no lease."""
        found = stored.read()
        if found is None:
            return None, None
        try:
            return _TERMS.validate_json(found[0]), found[1]
        except ValidationError:
            raise UserError(
                f"{stored.path} is not a lease of gmm-dask, and is left as it is. Choose another output.store."
            ) from None


_TERMS = TypeAdapter(Terms)


class Lease:
    """The lease of a run, which a thread renews until it ends."""

    def __init__(self, stored: LeaseObject, seconds: float) -> None:
        self._stored = stored
        where = f"process {os.getpid()} on {socket.gethostname()}"
        self.terms = Terms(uuid.uuid4().hex, where, min(seconds, MAX_SECONDS), 0)
        self._version: Any = None
        self._renewed = 0.0
        self._is_lost = False
        self._mutex = threading.Lock()
        self._ended = threading.Event()

    # -- taking and leaving ----------------------------------------------------------------------------------
    def take(self, waiting: Callable[[str], object]) -> None:
        """Take the lease, when nobody has it any more; raises :class:`LockedError` if somebody does."""
        while self._version is None:
            terms, version = Terms.read(self._stored)
            if terms is not None and terms.holder:
                self._watch(terms, version, waiting)
            sent = now()
            self._version, self._renewed = self._stored.write(self.terms.to_bytes(), version), sent
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def _watch(self, terms: Terms, version: Any, waiting: Callable[[str], object]) -> None:
        """Return when the lease has run out; raise if it is renewed meanwhile."""
        waiting(f"waiting {terms.seconds:g} s to see whether {terms.where} still holds {self._stored.path}")
        seen = now()
        while now() - seen < terms.seconds:
            time.sleep(min(1.0, terms.seconds / 10))
            newer, version_now = Terms.read(self._stored)
            if newer is None or not newer.holder:
                return
            if version_now != version:
                raise LockedError(
                    f"another run is at work on {self._stored.path.removesuffix('.lock')}: {newer.where} holds its "
                    "lease. Wait for it, or choose another output.store."
                )

    def leave(self) -> None:
        """Leave the lease to whoever wants it next."""
        self._ended.set()
        with self._mutex:
            if self._is_lost:
                return
            try:
                self._stored.write(replace(self.terms, holder="").to_bytes(), self._version)
            except (UserError, FaultError):  # it runs out
                return

    # -- holding ---------------------------------------------------------------------------------------------
    def require(self) -> None:
        """Raise :class:`LockedError` if another run may hold the lease, which is asked if it was not renewed lately."""
        if self._is_lost or now() - self._renewed > self.terms.seconds / 2:
            self.renew()

    def renew(self) -> None:
        """Renew the lease; raises :class:`LockedError` if another run has taken it over."""
        with self._mutex:
            if not self._is_lost:
                terms, sent = replace(self.terms, renewals=self.terms.renewals + 1), now()
                version = self._stored.write(terms.to_bytes(), self._version)
                if version is not None:
                    self.terms, self._version, self._renewed = terms, version, sent
                    return
                self._is_lost = True
        raise LockedError(
            f"another run has taken over {self._stored.path.removesuffix('.lock')}: this one did not renew its lease "
            f"for more than {self.terms.seconds:g} s, because it was stopped or the network was. It ends here and "
            "writes nothing more."
        )

    def _keep(self) -> None:
        while not self._ended.wait(self.terms.seconds / RENEWALS):
            try:
                self.renew()
            except LockedError:  # whoever writes next is told
                return
            except (UserError, FaultError):  # the store may answer the next time
                continue


class Witness:
    """On a worker, whether the run that sent a task still holds the lease."""

    def __init__(self, stored: LeaseObject, holder: str) -> None:
        self._stored = stored
        self._holder = holder
        self._until = 0.0

    def require(self) -> None:
        """Raise :class:`LockedError` if another run holds the lease."""
        if now() < self._until:
            return
        begin = now()
        terms, _ = Terms.read(self._stored)
        if terms is None or terms.holder != self._holder:
            raise LockedError(f"another run has taken over {self._stored.path.removesuffix('.lock')}.")
        self._until = begin + terms.seconds / 2
