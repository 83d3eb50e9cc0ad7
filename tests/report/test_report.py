"""The report: what it says, that it needs nothing else, and that it is whole or not there."""

import errno
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from typer.testing import CliRunner

from disks import files_of_at_most
from flows import cli
from gmm_dask.errors import FaultError, UserError
from gmm_dask.families import FAMILIES, get_family
from gmm_dask.families.full import Full
from gmm_dask.formatting import decimals, number
from gmm_dask.selection.criteria import KASS_RAFTERY
from messages import names
from mixtures import tilted_groups
from pages import Cells
from paths import ROOT
from pipeline.config.job import JobConfig
from pipeline.fit import job as stages
from pipeline.fit.plan import estimate_job
from pipeline.load import load
from pipeline.report import clear_report, figures, has_report, phrases, tables, write_report
from pipeline.report.contents import read_contents
from pipeline.store import RefreshDecision, open_result
from pipeline.store.contents.criteria import names_of
from pipeline.store.paths import report_folder
from reports import job, rows_of

UNREPORTED = {"report": False}  # the page is drawn by the test, or not at all
DRAWN = {"bic", "clusters"}  # of a model that the table of components holds, and that converged at once


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A complete store of three groups of rows in three features."""
    return stages.run(job(tmp_path_factory.mktemp("report"), rows_of())).store


@pytest.fixture(scope="module")
def report(store):
    return read_contents(store)


@pytest.fixture(scope="module")
def text(store):
    return (Path(report_folder(store)) / "index.html").read_text()


def told(report, **changes):
    """The report with other values in the table; ``changes`` are columns by candidate."""
    table = report.table.set_index("name", drop=False)
    for column, values in changes.items():
        for name, value in values.items():
            table.loc[name, column] = value
    table["delta"] = table[report.criterion] - table[report.criterion].min()
    return with_table(report, table.reset_index(drop=True))


def with_table(report, table):
    """The report of a store that would hold this table."""
    store = replace(report.store)
    vars(store)["table"] = table
    return replace(report, store=store, table=table)


def with_criterion(report, criterion):
    config = report.store.config
    store = replace(report.store, config={**config, "search": {**config["search"], "criterion": criterion}})
    return told(replace(report, store=store))


# -- the decision --------------------------------------------------------------------------------------------


def test_the_decision_is_a_sentence_with_its_strength(report, text):
    assert report.best == "spherical-k3"
    assert re.match(names("3 components", "spherical"), phrases.headline(report))
    delta = report.runner_up["delta"]
    lead, meaning = phrases.decision(report)
    assert re.match(names("16 candidates", "BIC", f"{report.winner['bic']:,.1f}"), lead)
    assert re.search(names(f"{delta:,.1f}", KASS_RAFTERY.level(delta).label, KASS_RAFTERY.source), lead)
    assert re.match(names("Spherical", get_family("spherical").description), meaning)
    assert f"<h1>{phrases.headline(report)}</h1>" in text


@pytest.mark.parametrize(
    ("delta", "label"), [(1.9, "bare mention"), (2.1, "positive"), (6.1, "strong"), (10.1, "very strong")]
)
def test_kass_and_raftery_are_quoted_by_delta(report, delta, label):
    value = report.winner["bic"]
    near = told(report, bic={name: value + 1000.0 for name in report.table["name"] if name != report.best})
    near = told(near, bic={"tied-k2": value + delta})
    lead = phrases.decision(near)[0]
    assert re.match(names("2 components", "tied", "BIC", delta), lead)
    assert re.findall("bare mention|positive|very strong|strong", lead) == [label]
    assert any("tied-k2" in caveat for caveat in phrases.caveats(near)) == (delta < 2.0)


def test_other_criteria_are_judged_by_their_own_conventions(report):
    by_aic = with_criterion(report, "aic")
    best = by_aic.table.loc[by_aic.table["aic"].idxmin(), "name"]
    by_aic = replace(by_aic, store=replace(by_aic.store, best=best))
    assert re.match(names("AIC", "Burnham and Anderson 2002", "BIC", KASS_RAFTERY.source), phrases.decision(by_aic)[0])
    by_icl = with_criterion(report, "icl")
    lead = phrases.decision(by_icl)[0]
    assert re.match(names("ICL", "no convention", "BIC", "this mixture", KASS_RAFTERY.source), lead)


def test_whether_the_other_criteria_agree_is_told(report):
    smallest = report.table[["bic", "aic", "icl"]].min().min() - 1.0
    same = told(report, aic={report.best: smallest}, icl={report.best: smallest})
    assert re.match(names("AIC", "ICL", "agree"), phrases.other_criteria(same))
    other = told(same, aic={"full-k4": smallest - 1.0})
    assert re.search(r"ICL agree.*AIC [^,.]*\bfull-k4\b", phrases.other_criteria(other))


def test_a_model_in_another_form_is_no_runner_up(report):
    best = report.winner["bic"]
    twin = told(report, bic={"tied-k1": best - 3.0, "full-k1": best - 2.0, "diag-k2": best - 1.5})
    twin = replace(twin, store=replace(twin.store, best="tied-k1"), name="tied-k1")
    assert [(row["name"], row["also"]) for row in twin.ranking[:2]] == [("tied-k1", ["full-k1"]), ("diag-k2", [])]
    lead = phrases.decision(twin)[0]
    assert re.search(names("full-k1", "same model", phrases.mixture_words(twin.runner_up)), lead)
    (caveat,) = (found for found in phrases.caveats(twin) if "About as good" in found)
    assert re.findall(r"\w+-k\d", caveat)[0] == "diag-k2"
    assert "full-k1" not in caveat


def test_models_that_are_about_as_good_are_named_once(report):
    best = report.winner["bic"]
    close = told(report, bic={"tied-k1": best + 1.0, "full-k1": best + 1.5})
    (caveat,) = (found for found in phrases.caveats(close) if "About as good" in found)
    assert "tied-k1 (also full-k1)" in caveat
    assert caveat.count("full-k1") == 1
    names_of_rows = [(row[0].text, row[0].below) for row in tables.closest_table(close).rows]
    assert names_of_rows[1] == ("tied-k1", "also full-k1")
    assert "full-k1" not in [name for name, _ in names_of_rows]


def test_one_model_is_one_cell_of_all_candidates(report):
    matrix = tables.matrix_table(report)
    assert matrix.head == ["K", "full", "tied", "diag", "spherical"]
    assert [cell.span for cell in matrix.rows[0]] == [1, 2, 1, 1]
    assert [cell.span for cell in matrix.rows[1]] == [1, 1, 1, 1, 1]
    assert re.search(names("one component, full and tied are the same model"), matrix.note)
    assert not matrix.groups  # of a few columns


def test_many_covariance_types_have_heads_of_groups(report, monkeypatch):
    for name in ("EEI", "VEV"):
        monkeypatch.setitem(FAMILIES, name, type(name, (Full,), {"name": name, "structure": name})())
    more = report.table[report.table["covariance_type"] == "diag"]
    more = pd.concat([more.assign(covariance_type=name, bic=more["bic"] + 50.0) for name in ("EEI", "VEV")])
    table = pd.concat([report.table, more], ignore_index=True)
    matrix = tables.matrix_table(told(with_table(report, table.assign(name=names_of(table)))))
    assert matrix.head == ["K", "full", "tied", "VEV", "diag", "EEI", "spherical"]
    assert matrix.groups == [("ellipsoidal", 3), ("diagonal", 2), ("spherical", 1)]
    assert [cell.span for cell in matrix.rows[0]] == [1, 3, 2, 1]  # one component: three models


def test_on_one_feature_columns_of_one_model_are_one(tmp_path):
    store = stages.run(job(tmp_path, rows_of(1), search={"n_components": [1, 2]}, output=UNREPORTED)).store
    report = read_contents(store)
    matrix = tables.matrix_table(report)
    assert matrix.head == ["K", "full = diag = spherical", "tied"]
    assert [[cell.span for cell in row] for row in matrix.rows] == [[1, 2], [1, 1, 1]]
    assert len(report.ranking) == 3
    # fits of one model differ by rounding, and the chosen one stands for it
    winner = report.ranking[0]
    assert winner["name"] == report.best
    assert not re.search(rf"{report.best}\b", phrases.decision(report)[0])
    (picture,) = figures.draw_choice(report)
    assert re.search(names("one feature, full, diag and spherical are the same model"), picture.caption)


def test_a_refresh_that_keeps_the_winner_says_why_it_did_not_search(report):
    table = report.table[report.table["name"] == report.best].reset_index(drop=True)
    kept = with_table(report, table)
    assert "only candidate" in phrases.decision(kept)[0]
    assert phrases.caveats(kept)
    vars(kept.store)["refresh"] = RefreshDecision(False, "it is no better")
    assert re.match(names("No search was made", "it is no better", "BIC"), phrases.decision(kept)[0])
    assert phrases.caveats(kept) == []


def test_the_only_candidate_has_no_runner_up(tmp_path):
    search = {"n_components": [2], "covariance_types": ["tied"]}
    config = job(tmp_path, rows_of(1), search=search, output=UNREPORTED)
    report = read_contents(stages.run(config).store)
    assert report.runner_up is None
    lead, _ = phrases.decision(report)
    assert re.match(names("only candidate", "BIC", number(report.winner["bic"], 1)), lead)
    assert KASS_RAFTERY.source not in lead
    assert Path(write_report(report.store.store)).is_file()


def test_numbers_in_words():
    assert [phrases.difference(d) for d in (0.04, 999.94, 1234.5, 123_456.0, 2.5e6)] == [
        "0.0",
        "999.9",
        "1,234",
        "123 k",
        "2.5 M",
    ]
    assert [phrases.duration(s) for s in (2.34, 59.6, 800.0, 18_120.0)] == ["2.3 s", "60 s", "13 min 20 s", "5 h 2 min"]
    assert number(-1234.5678, decimals(12.0)) == "\u22121,234.6"
    assert number(1.5e-12, decimals(1e-12)) == "1.5e\u221212"
    assert number(7.0, decimals(0.0)) == "7"


# -- the components in words ------------------------------------------------------------------------------------


def test_each_component_is_described_by_what_sets_it_apart(report, text):
    found = phrases.groups(report)
    assert [group.share for group in found] == [f"{weight:.1%}" for weight in report.components.weights]
    means, places = report.components.means, decimals(report.components.deviations[0])
    (of_second,) = [group for group in found if group.title == "1"]
    assert of_second.traits[0].feature == "x0"
    assert of_second.traits[0].before == "very high "
    assert re.search(names(number(means[1, 0], places), "others"), of_second.traits[0].after)
    assert f"very high <b>x0</b>{of_second.traits[0].after}" in text


def test_of_many_components_the_smaller_ones_are_folded_away(tmp_path):
    rows = np.concatenate([np.random.default_rng(k).normal(30.0 * k, 1.0, (40 + 10 * k, 2)) for k in range(10)])
    config = job(tmp_path, rows, search={"n_components": [10], "covariance_types": ["diag"]}, output=UNREPORTED)
    page = Path(write_report(stages.run(config).store)).read_text()
    folded = re.search(r"<summary>(\d+) smaller components</summary>.*?</details>", page, re.DOTALL)
    assert folded[1] == str(10 - phrases.MOST_GROUPS)
    assert folded[0].count("<li>") == 10 - phrases.MOST_GROUPS


def test_a_log_likelihood_that_falls_is_explained(report):
    def convergence(*bounds, **search):
        config = report.store.config
        store = replace(report.store, config={**config, "search": {**config["search"], **search}})
        vars(store).update(table=report.table, best_model=replace(report.model, lower_bounds=bounds))
        return phrases.convergence(replace(report, store=store))

    falling = (-3.0, -2.5, -2.5 - 3e-7)
    assert re.search(names("3 iterations", "3e-07", "tol", "reg_covar"), convergence(*falling))
    assert re.search(names("3e-07", "rounding"), convergence(*falling, reg_covar=0.0))
    assert re.search(names("3e-15", "rounding"), convergence(-3.0, -2.5, -2.5 - 3e-15))
    assert not re.search("fell|rounding", convergence(-3.0, -2.5, -2.4999))


def test_the_convergence_is_drawn_if_it_has_a_shape(report):
    def bounds_of(*bounds):
        store = replace(report.store)
        vars(store).update(table=report.table, best_model=replace(report.model, lower_bounds=bounds))
        return [picture.name for picture in figures.draw_bounds(replace(report, store=store))]

    assert bounds_of(-3.0, -2.0) == []
    assert bounds_of(-3.0, -2.0, -1.5, -1.4) == ["log-likelihood"]


# -- what is worth a look ------------------------------------------------------------------------------------


def test_a_winner_at_the_end_of_the_range_is_told(report):
    fewer = with_table(report, report.table[report.table["n_components"] <= 3].reset_index(drop=True))
    assert re.match(names("3 components", "more", "n_components"), phrases.caveats(fewer)[0])
    more = with_table(report, report.table[report.table["n_components"] >= 3].reset_index(drop=True))
    assert re.match(names("3 components", "fewer", "n_components"), phrases.caveats(more)[0])
    assert not phrases.caveats(report)
    assert not phrases.notices(report)


def test_small_and_collapsed_components_are_told(report):
    few = replace(report.components, weights=np.array([0.7, 0.295, 0.005]))
    (notice,) = phrases.notices(replace(report, components=few))
    assert re.search(r"\b2\b.*\b4 rows", notice)
    family, parameters = report.model.model
    covariances = family.full_covariances(parameters)
    covariances[1, :, 0] = covariances[1, 0, :] = [1.5e-6, 0.0, 0.0]
    fitted = get_family("full").parameters(parameters.weights, parameters.means, covariances)
    candidate = report.model.candidate._replace(covariance_type="full")
    store = replace(report.store)
    vars(store).update(table=report.table, best_model=replace(report.model, candidate=candidate, parameters=fitted))
    thin = replace(report, store=store)
    (notice,) = phrases.notices(thin)
    assert thin.held_open == {1: [0]}
    assert re.match(names("Components", "search.reg_covar", "auto", f"1 ({report.components.names[0]})"), notice)


@pytest.mark.parametrize(("gain", "said"), [(134.0, "pays"), (12.0, "chance")])
def test_the_verdict_on_a_slim_component_is_told(report, gain, said):
    is_winner = report.table["name"] == report.best
    of_winner = {"slim_component": 2, "slim_gain": gain, "slim_price": 65.0}
    table = report.table.assign(
        **{name: report.table[name].where(~is_winner, value) for name, value in of_winner.items()}
    )
    (notice,) = phrases.notices(replace(report, table=table))
    assert re.match(names("Component 2", f"{gain:.0f}", "65", said), notice)


def test_components_that_collapsed_are_told_whatever_the_units(tmp_path):
    """Equal values in a component, beside a feature of small variance and one that does not vary."""
    rows = rows_of()
    rows[400:650, 0] = 6.0
    rows = np.column_stack([rows * [1.0, 1e-3, 1e3], np.full(len(rows), 1e-3)])
    search = {"n_components": [3], "covariance_types": ["full"], "init_params": "auto", "reg_covar": "auto"}
    found = read_contents(stages.run(job(tmp_path, rows, search=search, output=UNREPORTED)).store)
    assert found.held_open == {int(np.abs(found.components.weights - 250 / 800).argmin()): [0]}
    assert any(re.match(names("search.reg_covar", "auto"), notice) for notice in phrases.notices(found))


def test_a_component_at_the_resolution_is_told_with_the_column_and_its_step(tmp_path):
    """Half of the rows are counts of zero, the others large ones."""
    rng = np.random.default_rng(0)
    counts = np.where(np.arange(600) < 300, 0.0, np.round(rng.normal(40.0, 5.0, 600)))
    rows = np.column_stack([rng.normal(size=600), counts])
    search = {"n_components": [2], "covariance_types": ["full"], "init_params": "kmeans"}
    found = read_contents(stages.run(job(tmp_path, rows, ["height", "count"], search=search, output=UNREPORTED)).store)
    assert list(found.held_open.values()) == [[1]]
    assert any(re.search(names("Components", "count", "rounded to 1"), notice) for notice in phrases.notices(found))


def test_the_size_of_a_component_is_its_weight(tmp_path):
    """A hundred rows of weight 9.1 are not 910 rows."""
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(900, 2)), rng.normal(size=(100, 2)) + 20.0])
    weighted = np.column_stack([rows, [0.1] * 900 + [9.1] * 100])
    data, search = {"weights": "w", "columns": ["a", "b"]}, {"n_components": [2], "covariance_types": ["full"]}
    config = job(tmp_path, weighted, ["a", "b", "w"], data=data, search=search, output=UNREPORTED)
    found = read_contents(stages.run(config).store)
    sizes = [row[1].below for row in tables.components_table(found).rows]
    assert all("weight" in size for size in sizes)
    assert [re.findall(r"\d+", size) for size in sizes] == [["910"], ["90"]]


def test_candidates_that_failed_are_told_with_a_remedy(tmp_path):
    rows = np.concatenate([rows_of(2), np.tile([[30.0, 30.0]], (50, 1))])
    search = {"reg_covar": 0.0, "max_iter": 2, "tol": 0.0, "covariance_types": ["full"], "init_params": "kmeans"}
    report = read_contents(stages.run(job(tmp_path, rows, search=search, output=UNREPORTED)).store)
    found = Path(write_report(report.store.store)).read_text()
    (table,) = [t for t in Cells(found).tables if t[0] == ["status", "candidates", "cause and remedy"]]
    assert {row[0][:8] for row in table[1:]} == {"singular", "max_iter"}
    (singular,) = [row for row in table if row[0].startswith("singular")]
    assert "full-k4" in singular[1]
    assert "reg_covar" in singular[2]
    notices = phrases.notices(report)
    assert any(
        re.match(names(f"{len(report.troubled['singular'])} candidate", "The fit"), notice) for notice in notices
    )
    assert any("max_iter" in notice for notice in notices)
    assert all(notice in html.unescape(found) for notice in notices)


def test_an_m_step_that_stopped_at_its_bound_is_told_everywhere(tmp_path):
    columns = list("abcde")
    search = {"n_components": [3], "covariance_types": ["VVE", "diag"], "reg_covar": 1e-6}
    config = job(tmp_path, tilted_groups(20), columns, search=search, output=UNREPORTED)
    found = stages.run(config).store
    report = read_contents(found)
    assert dict(zip(report.table.name, report.table.status, strict=True)) == {
        "VVE-k3": "inner_max_iter",
        "diag-k3": "converged",
    }
    assert load(found).status_ == "inner_max_iter"  # it may win
    assert any(re.match(names("winner", "M-step", "tol"), line) for line in phrases.notices(report))
    (row,) = tables.troubled_table(report).rows
    assert row[0].text == "inner_max_iter"
    assert "M-step" in tables.matrix_table(report).note
    shown = CliRunner().invoke(cli.app, ["show", str(found)])
    assert "1 inner_max_iter: " in shown.output
    document = json.loads(CliRunner().invoke(cli.app, ["show", str(found), "--json"]).stdout)
    assert [one["status"] for one in document["candidates"] if one["name"] == "VVE-k3"] == ["inner_max_iter"]


# -- another model -------------------------------------------------------------------------------------------


def test_the_report_of_another_model_says_that_it_is_not_the_winner(store, report):
    other = read_contents(store, "full-k2")
    assert re.match(names("2 components with full covariance", "not"), phrases.headline(other))
    lead = phrases.decision(other)[0]
    above = phrases.difference(other.row["bic"] - report.winner["bic"])
    assert re.match(names(report.best, "was chosen", "BIC", number(other.row["bic"], 1), above), lead)
    assert KASS_RAFTERY.source in lead
    assert other.model.candidate.name == "full-k2"
    assert set(other.sample.label) == {0, 1}
    labels = load(store, "full-k2").predict(other.sample.rows)
    np.testing.assert_array_equal(other.sample.label, labels)
    closest = tables.closest_table(other)
    (shown,) = [row[0] for row in closest.rows if row[0].below]
    assert shown.text == "full-k2"
    assert not phrases.notices(other)


def test_the_report_of_another_model_lies_beside_that_of_the_winner(tmp_path):
    config = job(tmp_path, rows_of(2), search={"n_components": [1, 2], "covariance_types": ["full"]}, output=UNREPORTED)
    store = stages.run(config).store
    result = CliRunner().invoke(cli.app, ["report", store, "--model", "full-k1"])
    page = Path(result.stdout.removeprefix("report: ").strip())
    assert page == Path(report_folder(store)) / "full-k1" / "index.html"
    assert not has_report(store)
    assert "1 component with full covariance: not the mixture that was chosen" in page.read_text()
    assert Path(write_report(store, "full-k2")) == Path(report_folder(store)) / "index.html"
    clear_report(store)
    assert not page.parent.exists()


def test_a_model_that_cannot_win_is_reported_with_the_cause(report):
    table = report.table.copy()
    table.loc[table["name"] == "full-k2", ["delta", "status"]] = [np.nan, "spurious"]
    lead = phrases.decision(replace(read_contents(report.store.store, "full-k2"), table=table))[0]
    assert re.match(names("cannot", "spurious", "reg_covar"), lead)


# -- the page ------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(text):
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_pictures_have_words_and_tables_heads(text, store):
    images = re.findall(r"<img [^>]*>", text)
    alts = [re.search(r'alt="([^"]+)"', image).group(1) for image in images]
    assert len(images) == len(DRAWN)
    assert all(len(alt) > 30 for alt in alts)
    assert len(set(alts)) == len(alts)
    assert text.count("<table") == text.count("<caption>") == text.count("<thead>")
    assert all("scope=" in head for head in re.findall(r"<th[ >][^>]*", text))
    names = {path.stem for path in Path(report_folder(store)).glob("*.png")}
    assert names == DRAWN


def test_tables_hold_what_the_store_holds(report, text):
    found = {table[0][0]: table for table in Cells(text).tables}
    components = found["component"]
    assert components[0] == ["component", "weight", "sure labels", "x0", "x1", "x2"]
    mean, deviation = report.components.means[0, 0], np.sqrt(report.components.variances[0, 0])
    assert components[1][0] == "0"
    sure = report.sample.uncertainty[report.sample.label == 0] <= phrases.SURE
    assert components[1][2] == f"{sure.mean():.0%}"
    assert components[1][3] == f"{mean:.2f}± {deviation:.2f}".replace("-", "\u2212")
    closest = found["candidate"]
    assert closest[1][:3] == ["spherical-k3", "0.0", ""]
    assert len(closest) == 1 + tables.MOST_CLOSEST
    matrix = found["K"]
    assert matrix[0] == ["K", "full", "tied", "diag", "spherical"]
    assert matrix[3][4] == "0.0"
    assert found["column"][1][0] == "x0"
    assert dict(found["package"][1:])["gmm-dask"] == report.store.software["gmm-dask"]


def test_the_same_store_gives_the_same_page(store, text):
    assert Path(write_report(store)).read_text() == text


def test_what_a_user_called_things_is_escaped(tmp_path):
    columns = ["<script>alert(1)</script>", '$x_{1}$ & "y"', "{{ 7 * 7 }}"]
    config = job(tmp_path, rows_of(), columns, search={"n_components": [3], "covariance_types": ["full"]})
    found = (Path(report_folder(stages.run(config).store)) / "index.html").read_text()
    assert "<script" not in found
    assert "&lt;script&gt;alert(1)" in found
    assert "{{ 7 * 7 }}" in found


def test_times_passes_and_bytes_are_told(report, text):
    assert report.store.seconds > 0.0
    assert re.search(r"<dt>passes</dt><dd>\d+ over the data</dd>", text)
    assert re.search(r"<dt>read</dt><dd>[\d.]+ [kM]iB</dd>", text)
    assert report.store.attempts == 1
    assert "one run" in text
    assert report.store.finished >= report.store.started
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", report.store.finished)


def test_starts_and_extrapolations_are_told(tmp_path):
    search = {"n_components": [2, 3], "covariance_types": ["diag"], "n_init": 3, "init_params": "auto"}
    search |= {"accelerate": True, "tol": 1e-7}
    text = Path(write_report(stages.run(job(tmp_path, rows_of(), search=search, output=UNREPORTED)).store)).read_text()
    assert '<th scope="col">starts agree</th>' in text
    assert re.search(r"\d of .*3 starts .*numbers? 0", text)
    assert "sample of 800 rows" in text
    assert re.search(r"6 fits.*[\d,]+ .*extrapolated", text)
    assert re.search(names("3 components", "extend: true"), text)


def test_very_many_components_of_a_hundred_features_are_cut_and_said(report):
    random = np.random.default_rng(0)
    weights = np.sort(random.dirichlet(np.full(126, 9.0)))[::-1]
    covariances = np.tile(np.eye(100), (126, 1, 1))
    features = tuple(f"marker_{i}" for i in range(100))
    many = replace(
        report.components,
        weights=weights,
        means=random.normal(size=(126, 100)) * 3.0,
        covariances=covariances,
        names=features,
        given_numbers=None,
    )
    table = tables.components_table(replace(report, components=many))
    assert (len(table.rows), len(table.head)) == (tables.MOST_COMPONENTS, 3 + tables.MOST_FEATURES)
    assert table.n_open == tables.MOST_ROWS
    assert re.match(names("100 features", f"the {tables.MOST_FEATURES}"), table.note)
    assert re.search(r"\b26 .*components.*\b\d\d?\.\d%", table.note)


# -- scaling, anomalies, missing values ----------------------------------------------------------------------


def test_means_are_in_the_units_of_the_data(tmp_path):
    rows = rows_of(2) * [1.0, 1000.0] + [0.0, 1e5]
    rows[7, 1] = np.nan
    data = {"scale": "standard", "missing": "drop"}
    config = job(tmp_path, rows, data=data, output={"anomaly_quantile": 0.02})
    store = stages.run(config).store
    report, usable = read_contents(store), np.delete(rows, 7, axis=0)
    np.testing.assert_allclose(report.components.center, usable.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(report.components.deviations, usable.std(axis=0), rtol=1e-3)
    sample = open_result(store).sample
    np.testing.assert_allclose(sample.rows, usable, rtol=1e-12)
    found = (Path(report_folder(store)) / "index.html").read_text()
    assert "1 of 800 rows" in found
    assert re.search(r"Anomalies: 1\d rows .*log density", found)


def test_the_sample_has_the_labels_of_the_stored_rows(store):
    sample = open_result(store).sample
    stored = np.asarray(zarr.open_group(store, mode="r")["rows/label"][...])
    np.testing.assert_array_equal(sample.label, stored)
    assert ((sample.uncertainty >= 0.0) & (sample.uncertainty < 1.0)).all()
    assert (sample.n_chunks, sample.chunk_rows) == (1, 800)


# -- when it is written --------------------------------------------------------------------------------------


def small(folder, **output):
    return job(folder, rows_of(2), search={"n_components": [2], "covariance_types": ["full"]}, output=output)


def test_a_report_is_written_where_it_is_wanted_and_missing_and_removed_by_a_new_run(tmp_path):
    without, wanted, events = small(tmp_path, report=False), small(tmp_path), []
    store = stages.run(without).store
    folder = Path(report_folder(store))
    assert not has_report(store)
    assert not folder.exists()
    assert stages.run(wanted, progress=events.append).reused
    assert [event.name for event in events] == ["draw"]
    assert has_report(store)
    (folder / "notes.txt").write_text("mine")
    stages.run(without, fresh=True)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_no_page(store, monkeypatch):
    write = Path.write_bytes

    def fill(path, data):
        if path.name.startswith("clusters"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    clear_report(store)
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(FaultError, match=names(report_folder(store), "No space left", "Free some space")):
        write_report(store)
    assert not has_report(store)
    assert open_result(store).is_complete
    monkeypatch.undo()
    assert Path(write_report(store)).is_file()


def test_a_full_disk_leaves_the_earlier_report(store):
    write_report(store)
    folder = Path(report_folder(store))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    with files_of_at_most(20_000), pytest.raises(FaultError, match=names(folder, "Free some space")):
        write_report(store)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_an_unfinished_store_has_no_report(tmp_path):
    config = small(tmp_path)
    stages.prepare(config, False, lambda event: None)
    stages.seed(config, lambda event: None)
    with pytest.raises(UserError, match=names(config.output.store, "'running'")):
        write_report(config.output.store)


def test_the_command_writes_the_report_and_says_where(store, tmp_path):
    clear_report(store)
    result = CliRunner().invoke(cli.app, ["report", store])
    assert (result.exit_code, result.stdout) == (0, f"report: {store}-report/index.html\n")
    assert has_report(store)
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path / "absent.zarr")])
    assert result.exit_code == 2
    assert re.match(names("no result store", tmp_path / "absent.zarr", "gmm-dask run"), result.stderr)


def test_pictures_are_drawn_without_pyplot(report, monkeypatch):
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert figures.draw_choice(report)[0].svg.startswith(b"<?xml")
    assert dict(matplotlib.rcParams) == before


def test_validate_and_the_report_count_the_same_chunks(tmp_path):
    """Rows in memory are cut into other chunks than the stored ones."""
    config = job(
        tmp_path, rows_of(2), data={"chunk_rows": 100}, search={"n_components": [1], "covariance_types": ["diag"]}
    )
    n_chunks = estimate_job(config).plan.shape.n_chunks
    sample = open_result(stages.run(config).store).sample
    assert (sample.n_chunks, sample.chunk_rows) == (n_chunks, 100)


def test_clusters_of_components_are_shown(tmp_path):
    rows = ROOT / "tests/data/baudry.csv"
    search = {"n_components": [6], "covariance_types": ["full"], "n_init": 3, "init_params": "kmeans"}
    config = {"data": {"source": str(rows)}, "search": search, "output": {"store": str(tmp_path / "crosses.zarr")}}
    summary = stages.run(JobConfig.model_validate(config))
    page = Path(summary.page).read_text(encoding="utf-8")
    assert "That makes 4 clusters of 6 components." in page
    assert (Path(summary.report) / "cluster-tree.png").exists()
    assert (Path(summary.report) / "cluster-entropy.png").exists()
