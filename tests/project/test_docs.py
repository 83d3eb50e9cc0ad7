"""The documentation agrees with the program: links, configs, commands, options, keys and code."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from typing import get_args

import pytest
import typer.main
from pydantic import BaseModel

from flows.cli import app
from paths import ROOT
from pipeline.config.job import JobConfig, load_config
from pipeline.config.reference import config_markdown
from pipeline.config.yaml_file import read_document

# docs/reference/commands.md is generated, and in the site only
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(set((ROOT / "docs").rglob("*.md")) - set(ROOT.glob("docs/reference/*.md"))),
]
APP = typer.main.get_command(app)
COMMANDS = APP.commands
CONFIGS = {load_config(path).name: path for path in sorted((ROOT / "configs").glob("*.yaml"))}


def section_of(annotation):
    """The section that a key of the top level holds, also one that may be null; None if its value is plain."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


SECTIONS = {name: found for name, field in JobConfig.model_fields.items() if (found := section_of(field.annotation))}

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"`gmm-dask ([^`\n]+)`|^(?:\w+=\S+ )*gmm-dask (.+)$", re.MULTILINE)
KEY = re.compile(rf"`(?:--set ['\"]?)?({'|'.join(SECTIONS)})\.(\w+)")
SOURCE = re.compile(r"`((?:gmm_dask|pipeline|flows|tests|benchmarks)/(?:[\w./-]+\.py|[\w/]*))`")
TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)


def relative(path):
    return path.relative_to(ROOT).as_posix()


def read(page):
    """A page, with lines of commands that go on on the next one joined."""
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def blocks(language):
    """Each block of a language, named by its page and number."""
    found = [(page, [text for name, text in FENCE.findall(read(page)) if name == language]) for page in PAGES]
    return [pytest.param(text, id=f"{relative(page)}-{i}") for page, texts in found for i, text in enumerate(texts)]


def commands(page):
    """The commands in a page's blocks and within its lines, each as words."""
    text = FENCE.sub(lambda block: block[0] if block[1] == "sh" else "", read(page))
    return [shlex.split(inline or line, comments=True) for inline, line in COMMAND.findall(text)]


def anchors(page):
    """What GitHub calls the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(read(page))}


@pytest.fixture(params=PAGES, ids=relative)
def page(request):
    return request.param


def test_links_lead_somewhere(page):
    for link in LINK.findall(read(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{relative(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{relative(page)} links to {link}"


def test_source_files_that_are_named_exist(page):
    for path in SOURCE.findall(read(page)):
        assert (ROOT / path).exists(), f"{relative(page)} names {path}"


def test_the_architecture_names_every_folder():
    named = SOURCE.findall(read(ROOT / "docs" / "architecture.md"))
    packages = [folder for name in ("gmm_dask", "pipeline") for folder in (ROOT / name).iterdir() if folder.is_dir()]
    folders = {f"{relative(folder)}/" for folder in packages if (folder / "__init__.py").exists()}
    assert folders <= set(named)


def test_pictures_are_small_and_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in LINK.findall(read(page))}
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.resolve() in shown, f"no page shows {picture.name}"
        assert picture.stat().st_size < 200_000, f"{picture.name} is large"


# -- configs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", blocks("yaml"))
def test_configs_are_valid(text, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(text, encoding="utf-8")
    given = read_document(file).values
    is_fragment = "source" not in given.get("data", {})
    job = load_config(file, ["data.source=rows.parquet"] if is_fragment else [])
    if given.get("name") in CONFIGS and not is_fragment:
        whole = load_config(CONFIGS[job.name])
        assert job == whole, f"differs from {relative(CONFIGS[job.name])}"


def test_keys_are_known(page):
    for section, key in KEY.findall(read(page)):
        assert key in SECTIONS[section].model_fields, f"{relative(page)} names {section}.{key}"


def test_the_reference_is_current():
    page = ROOT / "docs" / "config.md"
    assert read(page) == config_markdown(), "make it anew: gmm-dask schema --markdown > docs/config.md"


def test_the_reference_has_every_key():
    rows = re.findall(r"^\| `([\w.]+)` \|", config_markdown(), re.MULTILINE)
    plain = [name for name in JobConfig.model_fields if name not in SECTIONS]
    assert rows == [*plain, *(f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields)]


# -- commands --------------------------------------------------------------------------------------------------


def test_commands_and_their_options_exist(page):
    for name, *words in commands(page):
        if name.startswith("--"):
            assert name in {option for parameter in APP.params for option in parameter.opts}
            continue
        assert name in COMMANDS, f"{relative(page)}: gmm-dask {name}"
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z].*", word)}
        assert used <= known, f"{relative(page)}: gmm-dask {name} has no {', '.join(used - known)}"


def test_the_readme_lists_every_command():
    listed = re.findall(r"^\| `gmm-dask (\w+)", read(ROOT / "README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_targets_of_make_exist(page):
    targets = TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8"))
    for target in re.findall(r"(?:`|^)make ([a-z]+)", read(page), re.MULTILINE):
        assert target in targets, f"{relative(page)}: make {target}"


# -- code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", blocks("python"))
def test_code_compiles_and_its_names_exist(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gmm_dask"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
