"""Compilation of kernels: one place for what Numba is told."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import event

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel) -> Kernel:
    """Compile a kernel at its first call, without Python's lock, and keep the machine code on disk.

    Products and sums may be contracted (fused multiply-add), never reordered: the same input gives the same bits.

    Kernels copy arrays in loops: an assignment to a slice compiles the message of a failed broadcast, for two seconds.
    """
    return _compiled(kernel, no_cpython_wrapper=False)


def compiled_part(kernel: Kernel) -> Kernel:
    """Compile what only kernels call, without an entry from Python, which would take a tenth of the time.

    A call from Python ends the process.
    """
    return _compiled(kernel, no_cpython_wrapper=True)


def _compiled(kernel: Kernel, **options: Any) -> Kernel:
    options |= {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "no_cfunc_wrapper": True}
    try:
        dispatcher = numba.njit(cache=True, **options)(kernel)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**options)(kernel)  # type: ignore[no-any-return]
    _renew_with_any_kernel(dispatcher)
    return dispatcher  # type: ignore[no-any-return]


def _renew_with_any_kernel(dispatcher: Any) -> None:
    """Make the machine code on disk that of all kernels' sources, not only of the file that the kernel is in.

    It holds the code of the kernels that it calls. Numba compares the time and size of the one file: after an upgrade
    that changed another, it would run the old code of that one, with arguments of the new.
    """
    try:
        file = dispatcher._cache._cache_file
        file._source_stamp = (file._source_stamp, _sources())
    except AttributeError:  # these are no public names: without them, remove __pycache__ after a change
        pass


@functools.cache
def _sources() -> str:
    """A hash of the sources of all kernels."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


@contextmanager
def compilation_reported(report: Callable[[bool], None]) -> Iterator[None]:
    """Call ``report`` when a kernel has to be compiled, once: with whether its machine code is kept on disk.

    Kernels that are loaded from disk are not reported.
    """
    with event.install_listener("numba:compile", _FirstCompilation(report)):
        yield


class _FirstCompilation(event.Listener):  # type: ignore[misc]
    def __init__(self, report: Callable[[bool], None]) -> None:
        self._report: Callable[[bool], None] | None = report

    def on_start(self, event: Any) -> None:
        report, self._report = self._report, None
        if report is not None:
            report(event.data["dispatcher"].stats.cache_path is not None)

    def on_end(self, event: Any) -> None:
        pass
