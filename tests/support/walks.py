"""Pages of the documentation, walked through: their commands and code are run, and what they show is compared.

Comments before a block, which readers do not see, say what the page does not:

- ``<!-- not run: needs a bucket -->``: the block is not run, and why.
- ``<!-- run as: gmm-dask synth big.zarr --rows 5000 -->``: a smaller command takes the place of the block's.
- ``<!-- saved as: big.yaml -->``: the block is a file.
- ``<!-- printed by: gmm-dask show results/big.zarr -->``: of a block that shows what this command prints.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

LANGUAGES = ("sh", "python", "yaml", "text")
_BLOCK = re.compile(rf"((?:^<!-- .*? -->\n)*)^```({'|'.join(LANGUAGES)})\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (not run|run as|saved as|printed by): (.*?) -->", re.DOTALL)
# of the environment, which the tests are run in
_SETUP = re.compile(r"^(?:export PATH=.*|python -m pip .*)\n", re.MULTILINE)
# flows with a server have tests of their own
_WITH_SERVER = re.compile(r"^(.*\bgmm-dask run (?!.*--no-prefect)[^\n#|>]*)", re.MULTILINE)
_NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?(?=%?$|[,:;)]*$)")


@dataclass(frozen=True)
class Block:
    """A block of a page, with the comments before it by their kind."""

    language: str
    text: str
    comments: dict[str, str] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        """Whether the block is no file, and has no comment that it is not run."""
        return self.language != "yaml" and "not run" not in self.comments


def blocks_of(page):
    """The blocks of a page, in their order."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, text, dict(_COMMENT.findall(comments))) for comments, language, text in found]


def walk(page, folder, names=()):
    """Run the blocks of a page in a folder, which is the current one, and compare what it shows.

    ``names`` are those that its code knows. Returns how many blocks were compared.
    """
    names, printed, n_shown = dict(names), "", 0
    for block in blocks_of(page):
        if path := block.comments.get("saved as"):
            (folder / path).write_text(block.text, encoding="utf-8")
        elif block.is_run and block.language == "text":
            if command := block.comments.get("printed by"):
                printed = run_shell(command, folder)
            require_shown(block.text, printed)
            n_shown += 1
        elif block.is_run:
            text = block.comments.get("run as", block.text)
            printed = run_shell(text, folder) if block.language == "sh" else run_python(text, names)
    return n_shown


def run_shell(text, folder):
    """Standard output of commands; the terminal that a page shows has 120 columns."""
    quickstart = "gmm-dask run configs/quickstart.yaml"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
        "MPLBACKEND": "agg",
    }
    text = _SETUP.sub("", f"{text}\n").replace("make quickstart", quickstart)
    text = _WITH_SERVER.sub(r"\1 --no-prefect ", text.replace("\\\n", " "))
    done = subprocess.run(["bash", "-ec", text], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_python(text, names):
    """What a notebook shows below a cell: the value of the last expression."""
    *first, last = ast.parse(text).body
    if not isinstance(last, ast.Expr):
        exec(compile(text, "page", "exec"), names)
        return ""
    exec(compile(ast.Module(first, []), "page", "exec"), names)
    return str(eval(compile(ast.Expression(last.value), "page", "eval"), names))


def is_shown(expected, line):
    """Whether a printed line is one of the page, which may cut it with three dots, up to the last digits of numbers."""
    words, found = expected.removesuffix("...").split(), line.split()
    if not expected.endswith("...") and len(words) != len(found):
        return False
    return len(words) <= len(found) and all(map(is_same, words, found))


def is_same(word, found):
    """Whether two words are the same, or numbers that differ as processors do; a page shows short paths."""
    numbers = [_NUMBER.sub("#", one) for one in (word, found)]
    values = [[float(one.replace(",", "")) for one in _NUMBER.findall(text)] for text in (word, found)]
    same = numbers[0] == numbers[1] or (word.startswith("results/") and found.endswith(f"/{word}"))
    return same and values[0] == pytest.approx(values[1], rel=2e-3, abs=0.02)


def require_shown(text, printed):
    """Require that the lines of a page are printed, in their order; those that it leaves out are three dots."""
    left = iter(printed.splitlines())
    for line in text.splitlines():
        if line.strip() not in ("", "..."):
            assert any(is_shown(line.strip(), found.strip()) for found in left), f"{line!r} is not in\n{printed}"
