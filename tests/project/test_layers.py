"""Which folder may import which, read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# each package's folders and single modules, lowest first: one imports from those before it, and from itself
LAYERS = {
    "gmm_dask": (
        *(
            "errors",
            "formatting",
            "conventions",
            "arrays",
            "kernels",
            "families",
            "passes",
            "em",
            "variational",
            "init",
            "memory",
        ),
        *(
            "selection",
            "labelled",
            "inputs",
            "plotting",
            "base",
            "imputation",
            "estimator",
            "bayesian",
            "search",
            "matching",
            "merging",
        ),
    ),
    "pipeline": (
        *("config", "printable", "progress", "stages", "transforms", "sources", "compilation", "store", "metrics"),
        *("dask_clusters",),
        *("score", "report", "fit", "compare", "load", "export", "synth", "starter"),
    ),
    "flows": ("flows",),
}
PACKAGES = list(LAYERS)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """Full names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(package, module):
    """Position of the folder that a module lies in; -1 of the package itself."""
    names = module.removeprefix(f"{package}.").split(".")
    return LAYERS[package].index(names[0]) if names[0] in LAYERS[package] else -1


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_downwards(path):
    package, *inside = path.relative_to(ROOT).with_suffix("").parts
    if inside == ["__init__"]:
        return
    for module in imports(path):
        top = module.split(".")[0]
        if top not in PACKAGES:
            continue
        assert PACKAGES.index(top) <= PACKAGES.index(package), f"{module} is above {package}"
        if top == package != "flows":
            assert layer(package, module) <= layer(package, f"{package}.{inside[0]}"), f"{module} is above {inside[0]}"


def test_the_library_names_one_function_above_it():
    """Users call gmm_dask.load, which reads result stores; it is imported when it is first used."""
    above = [name for name in imports(ROOT / "gmm_dask/__init__.py") if name.split(".")[0] in ("pipeline", "flows")]
    assert above == ["pipeline.load.load"]


@pytest.mark.parametrize("package", ["gmm_dask", "pipeline"])
def test_every_folder_has_a_layer(package):
    found = {
        path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__"} == set(LAYERS[package])


@pytest.mark.parametrize("path", sorted((ROOT / "gmm_dask/kernels").rglob("*.py")), ids=relative)
def test_kernels_import_numpy_and_numba_alone(path):
    found = [module for module in imports(path) if module.split(".")[0] not in sys.stdlib_module_names]
    assert {module.split(".")[0] for module in found} <= {"numpy", "numba", "llvmlite", "gmm_dask"}
    assert all(module.startswith("gmm_dask.kernels") for module in found if module.startswith("gmm_dask"))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_flows_imports_prefect(path):
    if path.is_relative_to(ROOT / "flows"):
        return
    assert not [module for module in imports(path) if module.split(".")[0] == "prefect"]


def compared_strings(tree):
    """String constants on either side of a comparison, in a match, or as keys that are looked up."""
    for node in ast.walk(tree):
        inside = []
        if isinstance(node, ast.Compare):
            inside = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            inside = [node.value]
        elif isinstance(node, ast.Subscript):
            inside = [node.slice]
        for part in inside:
            yield from (n.value for n in ast.walk(part) if isinstance(n, ast.Constant) and isinstance(n.value, str))


@pytest.mark.parametrize("path", [p for p in SOURCES if "families" not in p.parts], ids=relative)
def test_only_families_ask_for_the_covariance_type(path):
    assert not {"full", "tied", "diag", "spherical"} & set(compared_strings(ast.parse(path.read_text())))
