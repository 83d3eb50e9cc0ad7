"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for name in ("gmm_dask", "pipeline", "flows") for p in (ROOT / name).rglob("*.py"))
LIBRARY = [p for p in SOURCES if p.is_relative_to(ROOT / "gmm_dask")]

PACKAGES = {"gmm_dask": 0, "pipeline": 1, "flows": 2}

# a module imports from layers below its own, never from beside or above
LAYERS = [
    {"errors"},
    {"kernels"},
    {"families"},
    {"stack"},
    {"status", "acceleration", "partition"},
    {"em"},
    {"profile", "criteria", "quantiles", "chance"},
    {"seeding", "inits", "inputs", "ridge"},
    {"scan"},
    {"answers", "memory", "sweep", "telling"},
    {"scout"},
    {"drawing", "display", "exchange", "selection", "starts", "widening"},
    {"estimator"},
    {"search"},
    {"plotting"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# these packages' modules, and the kernels', know each other
INSIDE = {"families", "kernels"}
# answers are lazy arrays made of delayed chunks; inputs wrap what is stored; pictures show some rows of it;
# only scan writes graphs
DASK_USERS = {
    "scan": {"dask"},
    "answers": {"dask", "dask.array"},
    "inputs": {"dask.array"},
    "plotting": {"dask", "dask.array"},
}
GRAPH_NAMES = {"HighLevelGraph", "Delayed", "Task", "TaskRef", "DataNode"}


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


def part(module):
    """``stack`` of ``gmm_dask.stack.build_stack``; None for other packages and the library's own names."""
    names = module.split(".")
    return names[1] if names[0] == "gmm_dask" and len(names) > 1 and names[1] in LEVEL else None


def own_part(path):
    return path.relative_to(ROOT / "gmm_dask").parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    assert {own_part(path) for path in LIBRARY} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_packages_import_downwards(path):
    own = PACKAGES[path.relative_to(ROOT).parts[0]]
    for module in imports(path):
        assert PACKAGES.get(module.split(".")[0], 0) <= own, f"{module} is above"


@pytest.mark.parametrize("path", [p for p in LIBRARY if own_part(p) != "__init__"], ids=relative)
def test_library_imports_downwards(path):
    own = own_part(path)
    for module in imports(path):
        below = part(module)
        if below is not None and not (below == own and own in INSIDE):
            assert LEVEL[below] < LEVEL[own], f"{module} is not below {own}"


@pytest.mark.parametrize("path", sorted((ROOT / "gmm_dask/kernels").glob("*.py")), ids=relative)
def test_kernels_import_numpy_and_numba_alone(path):
    found = [module for module in imports(path) if module.split(".")[0] not in sys.stdlib_module_names]
    assert {module.split(".")[0] for module in found} <= {"numpy", "numba", "llvmlite", "gmm_dask"}
    assert all(module.startswith("gmm_dask.kernels") for module in found if module.startswith("gmm_dask"))


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_only_scan_builds_graphs(path):
    found = {module for module in imports(path) if module.split(".")[0] in ("dask", "distributed")}
    if own_part(path) == "scan":
        return
    allowed = DASK_USERS.get(own_part(path), set())
    assert found <= allowed
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not names & GRAPH_NAMES


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
        for part_ in inside:
            yield from (n.value for n in ast.walk(part_) if isinstance(n, ast.Constant) and isinstance(n.value, str))


@pytest.mark.parametrize("path", [p for p in SOURCES if "families" not in p.parts], ids=relative)
def test_only_families_ask_for_the_covariance_type(path):
    assert not {"full", "tied", "diag", "spherical"} & set(compared_strings(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) < 400
