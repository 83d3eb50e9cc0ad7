"""Processes that compile kernels, and leave the machine code on disk: LLVM's memory is theirs, and goes with them.

``python -m gmm_dask.kernels.compilation.processes`` is one of them: it reads what it is to make from its input.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

import numba
from numba.core.registry import cpu_target

from gmm_dask.kernels.compilation import jit
from gmm_dask.kernels.compilation.jit import KernelCache, Missing, callback

# a process at its peak, measured on Linux with some room: 273 MiB for all kernels of a job, 240 for a half of them
PROCESS_BYTES = 300 << 20
# more do not end sooner: the longest kernel takes half of the time of all
MOST_PROCESSES = 2


def missing_of(wanted: Iterable[Missing]) -> list[Missing]:
    """Return those whose machine code is to be made, and can be kept."""
    target = cpu_target.target_context
    target.refresh()
    caches = [(one, _cache_of(one)) for one in wanted]
    return [one for one, cache in caches if cache is not None and not cache.has(one.signature, target)]


def _cache_of(one: Missing) -> KernelCache | None:
    kernel = getattr(import_module(one.module), one.name)
    cache = getattr(kernel, "_cache", None) or KernelCache(kernel)  # a callback has none before it is compiled
    return cache if isinstance(cache, KernelCache) else None


def make(wanted: Sequence[Missing], n_processes: int = 1) -> list[str]:
    """Make machine code in so many processes side by side, and wait for them.

    Each takes the next kernel that none has taken. What a kernel shares with one that is done is loaded.

    Returns
    -------
    failures : list of str
        Why a process ended before it was done; its kernels are compiled where they are called.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="gmm-dask-", ignore_cleanup_errors=True) as taken:
            try:
                for _ in range(min(n_processes, len(wanted))):
                    processes.append(_start(wanted, taken))
                return [failure for process in processes if (failure := _failure_of(process))]
            finally:  # also where a signal ends the wait
                for process in processes:
                    process.kill()
                    with process:  # closes its pipe
                        pass
    except OSError as error:
        return [f"no process could be started: {error}"]


def compile_in_processes() -> None:
    """Let this process compile nothing from now on, unless something else makes its machine code."""
    if jit.maker is None:
        jit.maker = lambda one: make([one])


def _start(wanted: Sequence[Missing], taken: str) -> subprocess.Popen[bytes]:
    # the modules that this process finds, and not those of its working folder
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_CACHE_DIR": numba.config.CACHE_DIR}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | paths,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # where it has ended, its status tells why
        process.stdin.write(pickle.dumps((list(wanted), taken)))
    process.stdin = None
    return process


def _failure_of(process: subprocess.Popen[bytes]) -> str:
    _, errors = process.communicate()
    if process.returncode == 0:
        return ""
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    return f"a process that compiles ended with {process.returncode}" + "".join(f" ({line})" for line in last)


def _compile(given: IO[bytes]) -> None:
    """Compile what no other process has taken, each of which leaves a file."""
    wanted, taken = pickle.load(given)
    for number, one in enumerate(wanted):
        try:
            os.close(os.open(os.path.join(taken, str(number)), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        kernel: Any = getattr(import_module(one.module), one.name)
        if hasattr(kernel, "compile"):
            kernel.compile(one.signature)
        else:
            callback(kernel, one.signature)


if __name__ == "__main__":
    _compile(sys.stdin.buffer)
