"""What an installed package brings, and what importing it does not."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_importing_the_library_imports_neither_prefect_nor_matplotlib():
    code = "import sys, gmm_dask; print({'prefect', 'matplotlib', 'pipeline'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_citation_names_the_version():
    version = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version[1] == metadata("gmm-dask")["Version"]


def test_files_beside_the_code_are_package_data():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
        if path.is_file()
    }
    tracked = subprocess.run(
        ["git", "ls-files", "gmm_dask", "pipeline", "flows"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listed == {path for path in tracked.stdout.split() if not path.endswith(".py")}


def test_make_alone_lists_the_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^make (\w+) +\S", done.stdout, re.MULTILINE)
    assert listed == re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"quickstart", "test", "lint", "bench", "docs", "clean"} <= set(listed)
