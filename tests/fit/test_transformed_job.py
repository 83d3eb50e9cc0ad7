"""Jobs that transform columns, beside the same done by hand; what the result says, and what is made of it."""

from __future__ import annotations

import json
import math

import joblib
import jsonschema
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import gmm_dask
import pipeline.sources.rows
from flows.cli import app
from flows.documents import document_schema
from flows.terminal.estimates import show_estimate
from gmm_dask import GaussianMixtureSearch, UserError
from gmm_dask.passes.holdout import Holdout
from messages import names
from pipeline.compare import compare_stores
from pipeline.config.job import JobConfig
from pipeline.config.transforms import TransformStep
from pipeline.export import Target, export, to_json
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.fit.refresh import refresh
from pipeline.progress import StageStarted
from pipeline.report.anomalies import read_anomalies
from pipeline.report.contents import read_contents
from pipeline.report.page import render
from pipeline.report.tables import undone_table
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store import open_result
from pipeline.transforms.fitting import first_steps
from runs import Stop, everything_in, stop_at

N, SEED = 600, 1
COLUMNS = ["income", "share", "marker", "age"]
LOGS = [{"log": {"columns": ["income"]}}, {"logit": {"columns": ["share"]}}, {"arcsinh": {"cofactor": {"marker": 5}}}]
REDUCED = [*LOGS, "scale", {"pca": {"n_components": 2, "whiten": True}}]


def rows_of(seed=0, n_rows=N):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_rows, 4)) @ np.array([[1, 0.5, 0, 0], [0, 0.7, 0.2, 0], [0, 0, 0.5, 0.4], [0, 0, 0, 0.6]])
    z[: n_rows // 3] += [2.5, -2.0, 2.0, 1.0]
    table = [np.exp(z[:, 0]), 1.0 / (1.0 + np.exp(-z[:, 1])), 5.0 * np.sinh(z[:, 2]), 40.0 + 10.0 * z[:, 3]]
    return pd.DataFrame(np.column_stack(table), columns=COLUMNS)


def by_hand(frame):
    """Logarithm, logit and arcsinh of the columns, and the logarithm of the derivatives' product."""
    income, share, marker, age = frame.to_numpy().T
    z = np.column_stack([np.log(income), np.log(share / (1.0 - share)), np.arcsinh(marker / 5.0), age])
    return z, -np.log(income) - np.log(share * (1.0 - share)) - 0.5 * np.log(marker**2 + 25.0)


def job(folder, transform, store="r.zarr", frame=None, search=None, output=None, cluster=None, **data):
    source = folder / "rows.parquet"
    if frame is not None or not source.exists():
        (rows_of() if frame is None else frame).to_parquet(source)
    settings = {"n_components": 2, "covariance_types": "full", "init_params": "kmeans", "random_state": SEED}
    settings |= {"tol": 1e-8, "max_iter": 500, "reg_covar": 1e-6, "accelerate": False, **(search or {})}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "transform": transform, **data},
            "search": settings,
            "cluster": cluster or {},
            "output": {"store": str(folder / store), "log_density": True, "responsibilities": True, "report": False}
            | (output or {}),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("transformed")


@pytest.fixture(scope="module")
def logs(folder):
    return run(job(folder, LOGS, "logs.zarr")).store


@pytest.fixture(scope="module")
def reduced(folder):
    return run(job(folder, REDUCED, "reduced.zarr")).store


def stored_rows(store):
    return xr.open_zarr(store, group="rows", consolidated=False).load()


def peer():
    return SklearnMixture(2, tol=1e-8, max_iter=500, random_state=SEED)


# -- beside the same by hand --------------------------------------------------------------------------------------


def test_standardised_principal_components_are_those_of_a_pipeline(tmp_path):
    frame = rows_of()
    store = run(job(tmp_path, ["scale", {"pca": 3}], frame=frame)).store
    theirs = make_pipeline(StandardScaler(), PCA(3), peer()).fit(frame.to_numpy())
    result, rows = open_result(store), stored_rows(store)
    mixture, x = theirs[-1], theirs[:-1].transform(frame.to_numpy())
    model = result.best_model
    order = [mixture.means_[:, 0].argsort(), model.parameters.means[:, 0].argsort()]
    np.testing.assert_allclose(model.parameters.means[order[1]], mixture.means_[order[0]], rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        model.parameters.covariances[order[1]], mixture.covariances_[order[0]], rtol=0, atol=1e-8
    )
    responsibility = theirs.predict_proba(frame.to_numpy())[:, order[0]]
    np.testing.assert_allclose(rows.responsibility.values[:, order[1]], responsibility, rtol=0, atol=1e-8)
    # dimensions are dropped: densities and criteria are of the coordinates
    assert result.row()["bic"] == pytest.approx(mixture.bic(x), rel=1e-9)
    np.testing.assert_allclose(rows.log_density, mixture.score_samples(x), rtol=1e-9)
    assert model.columns == ("pc1", "pc2", "pc3")


def test_criteria_are_those_of_transformed_rows_and_the_jacobian(logs):
    z, slopes = by_hand(rows_of())
    mixture = peer().fit(z)
    result, rows = open_result(logs), stored_rows(logs)
    for name in ("bic", "aic"):
        assert result.row()[name] == pytest.approx(getattr(mixture, name)(z) - 2.0 * slopes.sum(), rel=1e-9)
    np.testing.assert_allclose(rows.log_density, mixture.score_samples(z) + slopes, rtol=1e-7)
    last = result.best_model.lower_bounds[-1]
    assert last == pytest.approx(mixture.lower_bound_ + slopes.mean(), rel=1e-9)


def test_densities_are_those_of_the_columns_as_they_are_stored(logs):
    """Of a log-normal column the density integrates to one over the stored values."""
    model = open_result(logs).best_model
    weights, parameters = model.parameters.weights, model.parameters
    grid = np.exp(np.linspace(-8.0, 12.0, 4001))
    sd = np.sqrt(parameters.covariances[:, 0, 0])
    marginal = sum(w * np.exp(-0.5 * ((np.log(grid) - m) / s) ** 2) / (s * grid * np.sqrt(2 * np.pi))
                   for w, m, s in zip(weights, parameters.means[:, 0], sd, strict=True))  # fmt: skip
    assert np.trapezoid(marginal, grid) == pytest.approx(1.0, abs=1e-5)


def test_scale_is_short_for_a_step(tmp_path):
    stores = [run(job(tmp_path, [], "a.zarr", scale="standard")).store, run(job(tmp_path, ["scale"], "b.zarr")).store]
    (a, first), (b, second) = map(everything_in, stores)
    assert a == b
    assert first == second
    with pytest.raises(ValueError, match=names("data.scale", "data.transform")):
        job(tmp_path, ["log"], scale="standard")


def test_whitening_changes_no_criterion(tmp_path, reduced):
    """Of a full covariance; whitened coordinates have the density that they had before."""
    plain = open_result(run(job(tmp_path, [*REDUCED[:-1], {"pca": 2}], search={"reg_covar": 1e-12})).store)
    assert plain.row()["log_likelihood"] == pytest.approx(open_result(reduced).row()["log_likelihood"], rel=1e-5)


def test_rows_held_out_have_their_own_jacobian(tmp_path):
    result = open_result(run(job(tmp_path, LOGS, search={"held_out": 0.25, "criterion": "held_out"})).store)
    out = Holdout(0.25, SEED, (0,)).is_held_out(0, N)
    density = stored_rows(result.store).log_density.values
    assert result.held_out_log_likelihood == pytest.approx(density[out].mean(), rel=1e-9)
    assert result.mean_log_likelihood == pytest.approx(density[~out].mean(), rel=1e-9)
    z, _ = by_hand(rows_of()[~out])
    np.testing.assert_allclose(result.transform.rows(rows_of()[~out].to_numpy()), z, rtol=1e-12)


def test_weights_count_in_every_step(tmp_path):
    frame, weights = rows_of(), np.random.default_rng(2).integers(0, 3, N)
    weighted = run(job(tmp_path, [*LOGS, "scale", {"pca": 2}], "w.zarr", frame.assign(w=weights.astype(float)),
                       weights="w", search={"init_params": "k-means++", "n_components": 1}))  # fmt: skip
    z, _ = by_hand(frame.loc[np.repeat(frame.index, weights)])
    x = PCA(2).fit_transform(StandardScaler().fit_transform(z))
    mixture = SklearnMixture(1, reg_covar=1e-6).fit(x)
    assert weighted.row()["log_likelihood"] == pytest.approx(mixture.score(x) * len(x), rel=1e-9)


# -- values that cannot be transformed ----------------------------------------------------------------------------


@pytest.fixture
def holes():
    frame = rows_of()
    frame.loc[[3, 7, 9], "income"] = [0.0, -1.0, -2.0]
    frame.loc[11, "share"] = 1.0
    frame.loc[20, "age"] = np.nan
    return frame


def test_values_outside_a_domain_are_an_error_with_their_number(tmp_path, holes):
    with pytest.raises(UserError, match=names("3 in 'income'", "greater than 0", "1 in 'share'", "missing: drop")):
        run(job(tmp_path, LOGS, frame=holes))


def test_they_are_dropped_and_counted_like_missing_ones(tmp_path, holes):
    events = []
    out = run(job(tmp_path, LOGS, frame=holes, missing="drop"), progress=events.append)
    assert out.data["missing"] == {"rows": 5, "columns": {"income": 3, "share": 1, "age": 1}}
    notes = [event.detail for event in events if isinstance(event, StageStarted) and event.name == "note"]
    assert any("'income' has 3 values" in note for note in notes)
    rows = stored_rows(out.store)
    assert np.flatnonzero(rows.label == -1).tolist() == [3, 7, 9, 11, 20]
    clean = holes.drop(index=[3, 7, 9, 11, 20])
    z, slopes = by_hand(clean)
    mixture = peer().fit(z)
    assert out.row()["bic"] == pytest.approx(mixture.bic(z) - 2.0 * slopes.sum(), rel=1e-9)
    assert out.n_rows == N - 5


# -- new rows, exports, reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logs", "reduced"])
def test_new_rows_are_transformed_as_those_of_the_fit(tmp_path, request, name):
    store = request.getfixturevalue(name)
    rows_of().iloc[:, ::-1].to_parquet(tmp_path / "new.parquet")  # found by name
    found = score(store, str(tmp_path / "new.parquet"), str(tmp_path / "s.zarr"))
    assert not found.drift
    there, here = stored_rows(store), stored_rows(tmp_path / "s.zarr")
    for output in ("label", "log_density", "responsibility"):
        np.testing.assert_array_equal(here[output], there[output])
    moved = rows_of(5)
    moved["income"] *= 4.0
    moved.to_parquet(tmp_path / "moved.parquet")
    assert score(store, str(tmp_path / "moved.parquet"), str(tmp_path / "m.zarr")).drift


def test_new_rows_outside_a_domain(tmp_path, logs, holes):
    holes.loc[20, "age"] = 40.0
    holes.to_parquet(tmp_path / "new.parquet")
    with pytest.raises(UserError, match=names("3 in 'income'", "greater than 0", "data.missing=drop")):
        score(logs, str(tmp_path / "new.parquet"), str(tmp_path / "s.zarr"))
    settings = ScoreSettings.from_overrides(["data.missing=drop"])
    score(logs, str(tmp_path / "new.parquet"), str(tmp_path / "s.zarr"), settings=settings)
    label = stored_rows(tmp_path / "s.zarr").label
    assert np.flatnonzero(label == -1).tolist() == [3, 7, 9, 11]


@pytest.mark.parametrize("name", ["logs", "reduced"])
def test_exports_and_loaded_models_take_the_rows_as_they_are(tmp_path, request, name):
    store = request.getfixturevalue(name)
    frame, rows, result = rows_of(), stored_rows(store), open_result(store)
    model = result.best_model
    slopes = model.transform.log_slopes(frame.to_numpy())
    for mixture in (joblib.load(export(store, Target.SKLEARN, tmp_path / "m.joblib")), gmm_dask.load(store)):
        np.testing.assert_array_equal(mixture.component_numbers_[mixture.predict(frame)], rows.label)
        np.testing.assert_allclose(mixture.predict_proba(frame), rows.responsibility, atol=1e-9)
        np.testing.assert_allclose(mixture.score_samples(frame) + slopes, rows.log_density, rtol=1e-9, atol=1e-9)
    graph = onnx.load(export(store, Target.ONNX, tmp_path / "m.onnx")).graph
    assert {one.name for one in graph.initializer} <= {name for node in graph.node for name in node.input}
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    label, probabilities, density = session.run(None, {"X": frame.to_numpy()})
    np.testing.assert_array_equal(label, rows.label)
    np.testing.assert_allclose(probabilities, rows.responsibility, atol=1e-9)
    np.testing.assert_allclose(density, rows.log_density, rtol=1e-9, atol=1e-9)
    exported = to_json(result, model)
    assert exported.format_version == 2
    assert exported.transform.columns == COLUMNS
    assert [step["kind"] for step in exported.transform.steps] == [step.kind for step in model.transform.steps]
    x = model.transform.rows(frame.to_numpy())
    logs = [
        np.log(weight) + multivariate_normal(mean, covariance).logpdf(x)
        for weight, mean, covariance in zip(exported.weights, exported.means, exported.covariances, strict=True)
    ]
    np.testing.assert_allclose(logsumexp(logs, axis=0) + slopes, rows.log_density, rtol=1e-9, atol=1e-9)


def test_a_search_is_a_step_of_a_pipeline():
    frame = rows_of()
    search = GaussianMixtureSearch([1, 2], ["full", "diag"], random_state=0)
    pipeline = make_pipeline(StandardScaler(), PCA(2), search).fit(frame)
    assert search.best_params_["n_components"] == 2
    assert pipeline.predict(frame).shape == (N,)


def test_stores_of_other_scales_and_axes_are_compared(tmp_path, reduced):
    rows_of(3).to_parquet(tmp_path / "rows.parquet")
    other = run(job(tmp_path, REDUCED)).store
    found = compare_stores(reduced, other)
    assert found.agreement > 0.95
    assert all(one.distance < 0.1 for one in found.components)


def test_stores_of_other_dimensions_are_compared_by_their_labels_in_both_orders(tmp_path, logs, reduced):
    label, other = (stored_rows(one).label.values for one in (logs, reduced))
    found, back = compare_stores(logs, reduced), compare_stores(reduced, logs)
    assert {(one.b, one.a, one.overlap) for one in back.components} == {
        (one.a, one.b, one.overlap) for one in found.components
    }
    for one in found.components:
        assert one.distance is None
        assert one.overlap == pytest.approx(
            np.sum((label == one.a) & (other == one.b)) / np.sum((label == one.a) | (other == one.b))
        )
    same = np.mean([(a, b) in {(one.a, one.b) for one in found.components} for a, b in zip(label, other, strict=True)])
    assert found.agreement == back.agreement == pytest.approx(same)
    assert found.same_rows
    assert found.same_densities is back.same_densities is False
    for pair in ((logs, reduced), (reduced, logs)):
        shown = CliRunner().invoke(app, ["diff", *pair])
        assert "says nothing of A against B" in " ".join(shown.output.split())
        printed = json.loads(CliRunner().invoke(app, ["diff", *pair, "--json"]).stdout)
        jsonschema.validate(printed, document_schema("diff"))
        assert printed["same_densities"] is False
    rows_of(3).to_parquet(tmp_path / "rows.parquet")
    apart = run(job(tmp_path, LOGS)).store
    for pair in ((apart, reduced), (reduced, apart)):
        found = compare_stores(*pair)
        assert (found.matched_by, len(found.components)) == (None, 4)
        assert math.isnan(found.agreement)
        assert "are not paired" in " ".join(CliRunner().invoke(app, ["diff", *pair]).output.split())
    assert compare_stores(apart, logs).same_densities


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([{"log": {"columns": ["a"]}}], [], True),
        ([{"clip": {"minimum": 0}}, {"log1p": {}}], [{"clip": {"minimum": 0}}], True),
        ([{"clip": {"minimum": 0}}], [{"clip": {"minimum": 1}}], False),
        ([{"clip": {"minimum": 0}}], [], False),
    ],
)
def test_densities_are_of_the_columns_unless_a_step_clips(one, other, same):
    chains = [first_steps([TransformStep.model_validate(step) for step in steps], ["a"]) for steps in (one, other)]
    assert chains[0].has_densities_of(chains[1]) is chains[1].has_densities_of(chains[0]) is same


def test_rows_that_no_fit_can_take_are_told_with_their_transform(tmp_path):
    frame = rows_of(n_rows=50)
    frame["debt"] = -frame["income"]
    found = job(tmp_path, [{"log": {"columns": ["debt"]}}], frame=frame, missing="drop")
    with pytest.raises(UserError, match=names("data.transform", "50 in 'debt'", "log", "greater than 0", "no rows")):
        run(found)
    frame["debt"] = np.where(frame.index == 7, 1e308, frame["debt"])
    found = job(tmp_path, [{"arcsinh": {"columns": ["debt"]}}], frame=frame)
    with pytest.raises(UserError, match=names("'debt'", "1e+308", "data.filter", "COLUMN < 1e+150")):
        run(found)
    found = job(tmp_path, [{"arcsinh": {"columns": ["debt"]}}], frame=frame, filter="debt < 1e+150")
    assert run(found).n_rows == 49


def test_a_constant_column_is_told_with_the_key_that_was_set(tmp_path):
    frame = rows_of(n_rows=50).assign(age=40.0)
    for settings, key in (
        ({"scale": "standard"}, "^data.scale: .*set data.scale: none"),
        ({}, "^data.transform: scale"),
    ):
        with pytest.raises(UserError, match=key):
            run(job(tmp_path, [] if settings else ["scale"], frame=frame, **settings))


# -- the plan, checkpoints, clusters -------------------------------------------------------------------------------


def test_the_estimate_tells_the_steps_and_the_reads(folder, logs, capsys):
    estimate = estimate_job(job(folder, REDUCED))
    assert estimate.transform_reads == 1
    assert estimate.plan.shape.n_features == 2
    assert estimate.plan.shape.n_columns == 4
    show_estimate(estimate)
    shown = " ".join(capsys.readouterr().out.split())
    assert "log of income, logit of share, arcsinh of marker / 5, scale, pca (n_components: 2, whiten: true)" in shown
    assert "1 read of the data" in shown
    with pytest.raises(UserError, match=names("data.transform", "'incme'")):
        estimate_job(job(folder, [{"log": {"columns": ["incme"]}}]))


def test_a_read_of_chunks_and_a_resumed_run_find_the_same(tmp_path, monkeypatch, reduced):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    whole = run(job(tmp_path, REDUCED, "whole.zarr", chunk_rows=100))
    with pytest.raises(Stop):
        run(job(tmp_path, REDUCED, "stopped.zarr", chunk_rows=100), progress=stop_at(8), checkpoint_seconds=0.0)
    resumed = run(job(tmp_path, REDUCED, "stopped.zarr", chunk_rows=100))
    assert everything_in(resumed.store) == everything_in(whole.store)
    assert whole.row()["log_likelihood"] == pytest.approx(open_result(reduced).row()["log_likelihood"], rel=1e-9)
    # pass 0 and that after the principal components are counted
    assert whole.passes == whole.row()["n_iter"] + 4


@pytest.mark.slow
def test_a_cluster_finds_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
    found = [
        everything_in(run(job(tmp_path, REDUCED, f"{i}.zarr", chunk_rows=100, cluster=cluster)).store)
        for i, cluster in enumerate([{"kind": "local", "workers": 1}, {"kind": "local", "workers": 2}])
    ]
    assert found[0] == found[1]


def test_the_report_tells_components_in_the_units_of_the_data(tmp_path, logs):
    contents = read_contents(logs)
    page = render(contents, {name: [] for name in ("choice", "clusters", "means", "merges", "bounds", "map")})
    assert "log of income, logit of share" in page
    assert "refer to the columns as they are stored" in page
    table = undone_table(contents)
    assert table.head == ["component", *COLUMNS]
    label, frame = stored_rows(logs).label.values, rows_of()
    for row, k in zip(table.rows, np.argsort(-contents.components.weights), strict=True):
        middle = frame[label == contents.components.numbers[k]].median()
        np.testing.assert_allclose(
            [float(cell.text.replace(",", "").replace("\N{MINUS SIGN}", "-")) for cell in row[1:]],
            middle,
            rtol=0.05,
            atol=0.05,
        )
    assert read_anomalies(contents).least.rows


def test_linear_transforms_give_means_and_covariances_in_the_units_of_the_data(tmp_path):
    store = run(job(tmp_path, ["scale", "pca"])).store
    model = open_result(store).best_model
    frame = rows_of()
    plain = peer().fit(StandardScaler().fit_transform(frame))
    stored = xr.open_zarr(store, group=f"models/{model.candidate.name}", consolidated=False).load()
    order = [plain.means_[:, 0].argsort(), stored.means_unscaled.values[:, 0].argsort()]
    scale = frame.std(ddof=0).to_numpy()
    # reg_covar is added to each variance, whatever the axes
    np.testing.assert_allclose(
        stored.means_unscaled.values[order[1]], plain.means_[order[0]] * scale + frame.mean().to_numpy(), rtol=1e-4
    )
    np.testing.assert_allclose(
        stored.covariances_unscaled.values[order[1]],
        plain.covariances_[order[0]] * np.outer(scale, scale),
        rtol=1e-3,
        atol=1e-3,
    )
    table = undone_table(read_contents(store))
    heaviest = int(np.argmax(model.parameters.weights))
    mean = float(stored.means_unscaled.values[heaviest, COLUMNS.index("age")])
    assert float(table.rows[0][1 + table.head[1:].index("age")].text) == pytest.approx(mean, rel=0.01)


def test_components_keep_their_numbers_through_nights_of_other_axes(tmp_path):
    def night(day, seed, transform=REDUCED, **changes):
        values = job(tmp_path, transform, f"night-{day}.zarr", rows_of(seed)).model_dump()
        values["output"]["store"] = f"{tmp_path}/{{name}}-{{started:%Y-%m-%dT%H%M%S}}.zarr"
        return refresh(JobConfig.model_validate(values))

    first, second = night(1, 0), night(2, 4)
    assert not second.decision.searched
    assert second.summary.identity.changed < 0.05
    assert [one.number for one in second.summary.identity.continued] == [0, 1]
    assert not second.summary.best_model.transform.same_as(first.summary.best_model.transform)
    third = night(3, 4, LOGS)
    assert third.decision.searched
    assert "data.transform" in third.decision.reason
