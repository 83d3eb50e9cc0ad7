"""How many arrays of some kind a process holds at once, counted where they are made."""

from __future__ import annotations

import threading
import weakref

_lock = threading.Lock()
_now = _most = 0


def counted(block):
    """A copy of a block that counts for as long as anything holds it."""
    global _now, _most
    copy = block.copy()
    with _lock:
        _now += 1
        _most = max(_most, _now)
    weakref.finalize(copy, _gone)
    return copy


def _gone():
    global _now
    with _lock:
        _now -= 1


def forget():
    """Begin a new count of the most."""
    global _most
    _most = _now


def most():
    """The most that this process held at once."""
    return _most
