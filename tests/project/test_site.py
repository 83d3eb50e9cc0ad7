"""The documentation site is built without a warning: every page is in it, every reference leads somewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from flows.cli import app
from paths import ROOT


@pytest.mark.slow
def test_site_is_built_without_warnings(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    (tmp_path / "docs/_build/extra").mkdir(parents=True)
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs", "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    python = (tmp_path / "site/reference/python.html").read_text(encoding="utf-8")
    assert "gmm_dask.GaussianMixtureSearch.predict" in python
    commands = (tmp_path / "site/reference/commands.html").read_text(encoding="utf-8")
    for command in app.registered_commands:
        assert f"gmm-dask-{command.name or command.callback.__name__}" in commands
