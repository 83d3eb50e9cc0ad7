"""Names that come with the data command no terminal: control characters are shown as escapes."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows import artifacts, cli
from flows.markdown import as_code, as_text
from flows.progress import LiveLine, describe
from pipeline.config.job import load_config
from pipeline.fit.job import run
from pipeline.printable import printable
from pipeline.progress import Message

runner = CliRunner(env={"COLUMNS": "400"})
RED, TURNED = "\x1b[31mred", "\u202eturned"
SHOWN = ("\\x1b[31mred", "\\u202eturned")


@pytest.mark.parametrize("text", ["plain", "naïve café 漢字 1\xa0000", "two\nlines", ""])
def test_plain_text_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x9b", "\r", "\x7f", "\u202e", "\u2028", "\udc80", "\x00"])
def test_characters_that_command_a_terminal_are_escaped(character):
    assert printable(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job whose columns, name of the data and path of the store have control characters."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(60, 2))
    pd.DataFrame(rows, columns=[RED, TURNED]).assign(constant=1.0).to_parquet(f"{RED}.parquet")
    Path("job.yaml").write_text(
        'data: {source: "\\e[31mred.parquet"}\n'
        "search: {n_components: [1, 2], covariance_types: [diag], init_params: kmeans}\n"
        'output: {store: "\\e[31mred.zarr", report: false}\n'
    )
    return tmp_path


def assert_shown(text):
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_commands_show_escapes(job):
    for command in (
        ["validate", "job.yaml"],
        ["run", "job.yaml", "--no-prefect"],
        ["show", f"{RED}.zarr"],
        ["show", f"{RED}.no.zarr"],
        ["score", f"{RED}.zarr", f"{RED}.parquet", "-o", f"{RED}-scores.zarr"],
        ["score", f"{RED}.zarr", f"{RED}.parquet", "-o", "s.zarr", "--columns", f"{RED}.no,b,c"],
        ["run", "job.yaml", "--no-prefect", "--set", f"data.columns=['{TURNED}.no']"],
    ):
        result = runner.invoke(cli.app, command)
        assert_shown(result.stdout)
        assert_shown(result.stderr)
        assert any(shown in result.output for shown in SHOWN)


def test_the_report_shows_escapes(job):
    runner.invoke(cli.app, ["run", "job.yaml", "--no-prefect"])
    result = runner.invoke(cli.app, ["report", f"{RED}.zarr"])
    assert result.exit_code == 0
    page = Path(f"{RED}.zarr-report/index.html").read_text()
    assert_shown(page)
    assert all(shown in page for shown in SHOWN)


def test_events_are_shown_as_they_are():
    event = Message("open", f"{RED} [red]not a colour[/red]")
    assert_shown(describe(event))
    out = io.StringIO()
    with LiveLine(Console(file=out, force_terminal=True, color_system=None, markup=False, width=200)) as live:
        live(event)
    assert "[red]not a colour[/red]" in out.getvalue()
    assert RED not in out.getvalue()


# -- Prefect's pages, which are Markdown -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plain", "a`b", "``", "`", "<b>[x](javascript:1)</b>", RED, "two\nlines"])
def test_code_is_shown_as_it_is(text):
    found = as_code(text)
    fence = re.match("`+", found).group()
    inside = found.removeprefix(fence).removesuffix(fence)
    assert fence not in re.findall("`+", inside)
    assert inside.strip() == printable(text).replace("\n", "\\n")


def test_text_has_no_marks():
    assert as_text("a_b *c* [x](y) <img> ![z](q) `d`\n# e") == (
        r"a\_b \*c\* \[x\]\(y\) \<img\> \!\[z\]\(q\) \`d\`\\n\# e"
    )


def test_artifacts_show_escapes(job, monkeypatch):
    made = []
    for name in ("create_table_artifact", "create_markdown_artifact", "create_image_artifact"):
        monkeypatch.setattr(artifacts, name, lambda *values, **named: made.append(f"{values} {named}"))
    store = "`](x)" + RED
    config = load_config("job.yaml", [f"output.store={json.dumps(store)}", "output.report=true"])
    artifacts.publish_job("night", run(config))
    assert len(made) > 1
    for text in made:
        assert_shown(text.replace("\\\\", "\\"))
        assert "`](x)" not in text or "`` `](x)" in text
