"""Printing on standard output and standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.printable import printable

if TYPE_CHECKING:
    from flows.documents import Document


def print_line(text: str, style: str = "") -> None:
    """Print a line on standard output. It is never wrapped, since it may contain a path to copy."""
    console_for().print(printable(text), style=style, soft_wrap=True)


def print_paragraph(text: str, style: str = "") -> None:
    """Print a paragraph on standard output, wrapped between words on a terminal."""
    console = console_for()
    console.print(printable(text), style=style, soft_wrap=not console.is_terminal)


def print_error(text: str) -> None:
    """Print a paragraph on standard error, wrapped between words on a terminal."""
    console = console_for(stderr=True)
    console.print(f"gmm-dask: {printable(text)}", soft_wrap=not console.is_terminal)


def print_warning(text: str) -> None:
    """Print a warning on standard error, wrapped between words on a terminal."""
    print_error(f"warning: {text}")


def print_json(document: Document) -> None:
    """Print a document on standard output."""
    print(document.model_dump_json(indent=2))


def console_for(stderr: bool = False) -> Console:
    """Return a console that prints text as it is, without markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
