"""Exit codes, and what an exception becomes: a paragraph on standard error, and with ``--json`` a document."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, cast

import typer

from flows import terminal
from flows.interrupts import Terminated, raised
from pipeline.printable import printable

if TYPE_CHECKING:
    from flows.documents import ErrorKind


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAULT = 1
    MISTAKE = 2
    LOCKED = 3
    DRIFT = 4
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = (
    "Exit codes: 0 done; 1 something outside failed (a disk, a network, a server); 2 a mistake in the command, the "
    "config or the data; 3 another run is at work on the same result; 4 drift (score --fail-on-drift); 130 Ctrl-C; 143 "
    "SIGTERM."
)

_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_MEMORY_REMEDY = (
    "The system gives the program no more memory, or no more threads. Raise its limits (ulimit -v unlimited, ulimit "
    "-u), which do not replace cluster.memory_limit, or take a machine with more memory."
)
# of address space: a small job with one thread takes 2.9 GiB of it and 0.4 GiB of memory, as each library and each
# thread reserves more than it uses. With less, libraries end the process, raise what says nothing of it, or (with 0.7
# GiB: OpenMP, in k-means) hang
_LEAST_ADDRESSES = 4 << 30
# what the loader of libraries and Python say where memory or threads are limited
_NO_MEMORY = ("failed to map segment", "can't start new thread", "Cannot allocate memory")


def resumes(last: str, fresh: bool) -> str:
    """Say how an interrupted command is resumed: with --fresh it would start over."""
    return f"The same command{' without --fresh' if fresh else ''} resumes from the last {last}."


@contextmanager
def error_messages(debug: bool, after_interrupt: str = "", *, as_json: bool = False) -> Iterator[None]:
    """Turn an exception, or SIGTERM, into a paragraph on standard error and an exit code.

    Parameters
    ----------
    debug : bool
        Print the traceback as well.
    after_interrupt : str
        What to do after Ctrl-C and SIGTERM.
    as_json : bool
        Print the error as a document on standard output as well.
    """
    try:
        with raised(signal.SIGTERM):
            _require_addresses()
            yield
    except KeyboardInterrupt as error:
        code = ExitCode.TERMINATED if isinstance(error, Terminated) else ExitCode.INTERRUPTED
        _report(f"{code.name.lower()}. {after_interrupt}".rstrip(), code, as_json)
        raise typer.Exit(code) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _message_and_code(error, debug)
        _report(message, code, as_json)
        raise typer.Exit(code) from None


def _report(message: str, code: ExitCode, as_json: bool) -> None:
    terminal.print_error(message)
    if as_json:
        from flows.documents import ErrorDocument, ErrorPart

        kind = cast("ErrorKind", code.name.lower())
        terminal.print_json(ErrorDocument(error=ErrorPart(kind=kind, exit_code=code, message=printable(message))))


def _require_addresses() -> None:
    """Refuse an address space in which the libraries end the process, or hang, before they can raise an error."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESSES:
        from gmm_dask.errors import UserError

        raise UserError(
            f"the address space is limited to {limit / 2**20:,.0f} MiB (ulimit -v), and {_LEAST_ADDRESSES >> 20:,} MiB "
            "are needed, most of which is reserved and never used. Lift the limit: ulimit -v unlimited. The memory of "
            "a job is limited by cluster.memory_limit."
        )


@contextmanager
def prefect_imported(otherwise: str = "") -> Iterator[None]:
    """Say why Prefect cannot be imported: it reads its settings then, from a home folder that it may have to make."""
    from gmm_dask.errors import UserError

    try:
        yield
    except (OSError, RuntimeError) as error:
        remedy = f"Set PREFECT_HOME to a folder that can be written. {otherwise}".rstrip()
        raise UserError(f"Prefect cannot start: {str(error).rstrip('.')}. {remedy}") from error


def _message_and_code(error: Exception, debug: bool) -> tuple[str, ExitCode]:
    from gmm_dask.errors import FaultError, LockedError, UserError

    if any(isinstance(cause, OSError) and cause.errno in _TOO_MANY_FILES for cause in _causes(error)):
        return (
            f"{error}\nToo many files are open at once. Raise the limit (ulimit -n 4096), then run it again.",
            ExitCode.FAULT,
        )
    if isinstance(error, LockedError):
        return str(error), ExitCode.LOCKED
    if isinstance(error, UserError):
        return str(error), ExitCode.MISTAKE
    if any(map(_lacks_memory, _causes(error))):
        return f"{type(error).__name__}: {error}\n{_MEMORY_REMEDY}", ExitCode.FAULT
    if isinstance(error, FaultError):
        return str(error), ExitCode.FAULT
    hint = "" if debug else " Add --debug to see where it happened."
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text.rstrip('.')}.{hint}", ExitCode.FAULT


def _lacks_memory(error: BaseException) -> bool:
    """Whether an error says that the operating system gave no memory; a library's address space counts as well."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(words in str(error) for words in _NO_MEMORY)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised for."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
