"""Ctrl-C, and SIGTERM as the same, also where Python loses the exception.

An exception that a signal raises within a callback of compiled code, as while kernels are compiled, is printed and
forgotten. So it is raised again at the next progress of the command.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# what was raised since the command began
_raised: type[KeyboardInterrupt] | None = None


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM), which it does as after Ctrl-C."""


_INTERRUPTS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def _interrupt(number: int, _: FrameType | None) -> None:
    global _raised
    _raised = _INTERRUPTS[signal.Signals(number)]
    raise _raised


@contextmanager
def raised(number: signal.Signals) -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGINT, or :class:`Terminated` for SIGTERM."""
    global _raised
    _raised = None
    before = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)


def raise_lost() -> None:
    """Raise what a signal has raised before, in the thread that is interrupted."""
    if _raised is not None and threading.current_thread() is threading.main_thread():
        raise _raised
