"""The tutorial is run from its first command to its last, and prints what it says."""

from __future__ import annotations

import shutil
import sys

import pytest

from paths import ROOT
from walks import walk


@pytest.mark.slow
def test_tutorial(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("flights.*"))
    shutil.copy(ROOT / "configs/flights.yaml", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a block adds to it
    assert walk(ROOT / "docs/tutorial.md", tmp_path) == 5
