"""Compilation of kernels: one place for what Numba is told."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numba.core import event, sigutils
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# an argument that is a constant makes another kernel than one that varies, unless it is a number of NumPy
ZERO: Any = np.int64(0)
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


class Missing(NamedTuple):
    """Machine code that is to be made: of a kernel of a module, for a signature of Numba's types."""

    module: str
    name: str
    signature: Any


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


def inlined_part(kernel: Kernel) -> Kernel:
    """Take a kernel's body into those that call it, before they are compiled.

    What is compiled by itself is compiled with all that it calls, and these again with each of its callers.
    """
    return _compiled(kernel, no_cpython_wrapper=True, inline="always")


def callback(kernel: Callable[..., Any], signature: Any) -> int:
    """Compile a kernel for one signature, and return its address, by which kernels call it that do not know it."""
    found = CFunc(kernel, sigutils.normalize_signature(signature), locals={}, options=dict(OPTIONS))
    found._cache = _cache_of(kernel)  # type: ignore[attr-defined]
    found.compile()
    assert found.address is not None
    return found.address


def _compiled(kernel: Kernel, **options: Any) -> Kernel:
    dispatcher = numba.njit(**options, **OPTIONS, nogil=True, no_cfunc_wrapper=True)(kernel)
    dispatcher._cache = _cache_of(kernel)
    return dispatcher  # type: ignore[no-any-return]


# -- machine code on disk ------------------------------------------------------------------------------------------


def _cache_of(kernel: Callable[..., Any]) -> FunctionCache | NullCache:
    try:
        return KernelCache(kernel)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        pass
    try:
        _make_folder()
        return KernelCache(kernel)
    except (RuntimeError, OSError):
        return NullCache()


def _make_folder() -> None:
    """Let Numba keep machine code in a temporary folder as long as this process lives; the processes it starts, too."""
    folder = tempfile.mkdtemp(prefix="gmm-dask-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = folder


class KernelCache(FunctionCache):  # type: ignore[misc]
    """The machine code of a kernel on disk. Numba has no public names for this.

    It is that of all kernels' sources, not only of the file that the kernel is in: it holds the code of the kernels
    that it calls. Numba compares the one file: after an upgrade that changed another, it would run the old code of that
    one, with arguments of the new.
    """

    def __init__(self, kernel: Callable[..., Any]) -> None:
        super().__init__(kernel)
        stamp = self._impl.locator.get_source_stamp(), _sources()
        self._cache_file = _KernelFile(self._cache_path, self._impl.filename_base, stamp)

    def has(self, signature: Any, target: Any) -> bool:
        """Whether the machine code for a signature is there."""
        return self._index_key(signature, target.codegen()) in self._cache_file._load_index()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load machine code, if it is there; where processes make it, it is made first."""
        found = super().load_overload(sig, target_context)
        if found is None and maker is not None:
            maker(Missing(self._py_func.__module__, self._py_func.__name__, sig))
            found = super().load_overload(sig, target_context)
        return found


class _KernelFile(IndexDataCacheFile):  # type: ignore[misc]
    """The files of a kernel, each named after what it is for.

    Numba counts them: two processes that keep code for different signatures at the same time may choose one name, and
    then one of them runs the other's code.
    """

    def save(self, key: Any, data: Any) -> None:
        number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:6])
        name = self._data_name(number)
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


@functools.cache
def _sources() -> str:
    """A hash of the sources of all kernels."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


# makes the machine code of a kernel that is not on disk; None lets this process compile it
maker: Callable[[Missing], object] | None = None


@contextmanager
def made_by(make: Callable[[Missing], object]) -> Iterator[None]:
    """Let ``make`` put machine code on disk that is not there, instead of this process, which then loads it.

    Where there is still none, this process compiles it.
    """
    global maker
    before, maker = maker, make
    try:
        yield
    finally:
        maker = before


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
