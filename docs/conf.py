"""Settings of the documentation site: ``make docs`` builds it with Sphinx."""

from __future__ import annotations

import html
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import typer.main
from typer.cli import get_docs_for_click

project = "gmm-dask"
author = "gmm-dask developers"
project_copyright = "2026, gmm-dask developers"
version = release = installed_version("gmm-dask")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

# the Markdown pages are read in the repository, too: links go to files and headings as they do there
myst_heading_anchors = 4

autodoc_typehints = "none"  # docstrings give types and shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "gmm-dask"
html_extra_path = ["_build/extra"]  # written by gallery.py
html_show_sourcelink = False


def write_commands(app: Any) -> None:
    """Write the page of the commands from their help texts."""
    from flows.cli import app as commands

    command = typer.main.get_command(commands)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="gmm-dask", title="Commands")
    page = Path(app.srcdir) / "reference/commands.md"
    page.write_text(html.unescape(text), encoding="utf-8")


def setup(app: Any) -> None:
    """Let Sphinx write the generated page first."""
    app.connect("builder-inited", write_commands)
