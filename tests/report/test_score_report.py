"""The report of scores: new rows beside those of the fit."""

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows import cli
from gmm_dask.formatting import decimals, number
from messages import names
from pages import Cells
from pipeline.fit import job as stages
from pipeline.report import write_score_report
from pipeline.report.scores import changes_table, headline, render_scores, typeset
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store.paths import report_folder
from reports import job, rows_of

COLUMNS = ["x0", "x1", "<b>x2</b>"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    search = {"n_components": [3], "covariance_types": ["full"]}
    config = job(tmp_path_factory.mktemp("fit"), rows_of(), COLUMNS, search=search, output={"anomaly_quantile": 0.01})
    return stages.run(config).store


def scores_of(store, folder, rows, **values):
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(folder / "new.parquet")
    return score(store, str(folder / "new.parquet"), folder / "scores.zarr", settings=ScoreSettings(values))


def moved_rows():
    """The second of the groups has moved in its second feature, and has grown."""
    rows = rows_of(seed=1)
    rows[400:650, 1] += 2.0
    return np.concatenate([rows, rows[400:650]])


def test_drift_is_shown_component_by_component(store, tmp_path):
    scores = scores_of(store, tmp_path, moved_rows())
    page = Path(write_score_report(scores))
    assert page == Path(report_folder(scores.out)) / "index.html"
    assert scores.page == str(page)
    text = page.read_text()
    assert "drifted" in headline(scores)
    assert any(" -> " in line for line in scores.drift)
    assert all(typeset(line) in html.unescape(text) for line in scores.drift)
    (table,) = Cells(text).tables
    assert table[0] == ["component", "share here", "in the fit", "moved", *COLUMNS]
    (grown,) = [one for one in scores.components if one.share > one.fit_share + 0.1]
    (row,) = [row for row in table if row[0] == str(grown.number)]
    assert row[1:3] == [f"{grown.share:.2%}", f"{grown.fit_share:.2%}"]
    assert {"share", "mean"} <= set(row[3].split(", "))
    places = decimals(grown.fit_deviation[1])
    here, fit = (
        f"{number(mean, places)} ± {number(deviation, places)}"
        for mean, deviation in ((grown.mean[1], grown.deviation[1]), (grown.fit_mean[1], grown.fit_deviation[1]))
    )
    assert row[5] == here + fit


def test_lines_of_the_log_are_typeset():
    assert typeset("x-1 -0.49 -> -1e-3, by -5") == "x-1 \N{MINUS SIGN}0.49 → \N{MINUS SIGN}1e-3, by \N{MINUS SIGN}5"


def test_rows_like_those_of_the_fit_are_said_to_be(store, tmp_path):
    scores = scores_of(store, tmp_path, rows_of())
    assert not scores.drift
    assert re.match(names("like", "fit"), headline(scores))
    text = render_scores(scores)
    assert "fit the model again" not in text
    assert re.search(names("800", "anomalies", "expected"), text)


def test_the_page_needs_nothing_else_and_escapes_names(store, tmp_path):
    text = render_scores(scores_of(store, tmp_path, rows_of()))
    assert "<b>x2</b>" not in text
    assert not re.findall(r"<script|@import|url\(|(?:src|href)=\"(?!data:|#)", text)


def test_a_component_without_rows_has_no_mean(store, tmp_path):
    scores = scores_of(store, tmp_path, rows_of()[400:650])
    shares = {one.number: one.share for one in scores.components}
    table = changes_table(scores)
    gone = min(shares, key=shares.get)
    (row,) = [row for row in table.rows if row[0].text == str(gone)]
    assert row[1].text == f"{shares[gone]:.2%}"
    assert "share" in row[3].text


def test_there_is_no_report_where_none_is_wanted(store, tmp_path):
    scores = scores_of(store, tmp_path, rows_of(), **{"output.report": False})
    assert write_score_report(scores) is None
    assert scores.page is None
    assert not Path(report_folder(scores.out)).exists()


def test_the_command_writes_it_and_says_where(store, tmp_path):
    pd.DataFrame(rows_of(), columns=COLUMNS).to_parquet(tmp_path / "new.parquet")
    out = tmp_path / "scores.parquet"
    result = CliRunner(env={"COLUMNS": "300"}).invoke(
        cli.app, ["score", store, str(tmp_path / "new.parquet"), "-o", str(out)]
    )
    assert result.exit_code == 0, result.output
    page = Path(f"{out}-report") / "index.html"
    assert f"report: {page}" in result.stdout
    assert page.is_file()
