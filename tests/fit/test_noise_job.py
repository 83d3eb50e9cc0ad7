"""Noise in a job: chosen by BIC, resumed and stored to the bit, told apart in the rows, scored, refreshed, exported."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from typer.testing import CliRunner

import gmm_dask
from flows.cli import app
from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from messages import names
from nightly import nightly_job
from noisy import SCALE, f1_of_noise, noisy_groups
from pipeline import store
from pipeline.compare import compare_stores
from pipeline.config.job import JobConfig
from pipeline.export import Target, export
from pipeline.fit.initialization import seed
from pipeline.fit.job import prepare, run
from pipeline.fit.plan import estimate_job
from pipeline.fit.refresh import refresh
from pipeline.progress import silent
from pipeline.report import write_report
from pipeline.report.scores import render_scores
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store import open_result
from pipeline.store.arrays import put
from pipeline.store.integrity import write_manifest
from runs import Stop, everything_in, stop_at

COLUMNS = ["height", "width"]
# rows that are left out, between others
GAPS = [7, 8, 300]


def table_of(rows, gaps=()):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.loc[list(gaps), "width"] = np.nan
    return frame.assign(key=range(len(frame)))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    table_of(noisy_groups()[0], GAPS).to_parquet(file, row_group_size=150, index=False)
    return file


def job(path, source, name="r.zarr", search=None, output=None, cluster=None, **data):
    settings = {"n_components": [2, 3, 4], "covariance_types": ["full", "EVI"], "noise": [False, True]}
    settings |= {"init_params": "kmeans", "random_state": 1, "tol": 1e-6, **(search or {})}
    outputs = {"store": str(path / name), "log_density": True, "responsibilities": True, "report": False}
    given = {"source": str(source), "columns": COLUMNS, "scale": "standard", "missing": "drop", "chunk_rows": 150}
    return JobConfig.model_validate(
        {"data": given | data, "search": settings, "output": outputs | (output or {}), "cluster": cluster or {}}
    )


@pytest.fixture(scope="module")
def done(source, tmp_path_factory):
    return run(job(tmp_path_factory.mktemp("noise"), source))


def rows_of(path):
    """The stored outputs of rows, by name."""
    group = zarr.open_group(f"{path}/rows", mode="r")
    return {name: group[name][:] for name in ("label", "log_density", "responsibility", "component")}


# -- the choice ------------------------------------------------------------------------------------------------


def test_bic_chooses_three_groups_and_finds_the_noise(done):
    assert re.fullmatch(r"(full|EVI)-k3-noise", done.best)
    groups, labels = np.delete(noisy_groups()[1], GAPS), np.delete(rows_of(done.store)["label"], GAPS)
    assert f1_of_noise(labels, groups) > 0.8
    assert pd.crosstab(labels, groups).max().sum() > 0.97 * len(groups)


def test_the_table_is_that_of_a_search(done):
    X = np.delete(noisy_groups()[0], GAPS, axis=0)
    scale = X.std(axis=0)
    settings = {"noise": [False, True], "init_params": "kmeans", "random_state": 1, "tol": 1e-6}
    search = GaussianMixtureSearch([2, 3, 4], ["full", "EVI"], **settings).fit((X - X.mean(axis=0)) / scale)
    both = [table.set_index(["covariance_type", "n_components", "noise"]) for table in (done.table, search.results_)]
    assert both[0].index.tolist() == both[1].index.tolist()
    for criterion in ("bic", "aic", "icl"):
        of_scaled = both[1][criterion] + 2.0 * len(X) * np.log(scale).sum()
        np.testing.assert_allclose(both[0][criterion], of_scaled, rtol=1e-9)
    with_noise = done.table.query("noise")["n_parameters"].to_numpy()
    np.testing.assert_array_equal(with_noise, done.table.query("not noise")["n_parameters"].to_numpy() + 1)


def test_the_criteria_have_an_axis_of_noise(done, tmp_path):
    criteria = xr.open_zarr(done.store, group="criteria", consolidated=False)
    assert criteria["bic"].dims == ("n_components", "covariance_type", "noise")
    row = done.row(done.best)
    where = {name: row[name] for name in ("n_components", "covariance_type", "noise")}
    assert float(criteria["bic"].sel(where)) == row["bic"]
    np.save(tmp_path / "rows.npy", noisy_groups(200)[0])
    plain = run(nightly_job(tmp_path, output={"store": str(tmp_path / "plain.zarr")}))
    criteria = xr.open_zarr(plain.store, group="criteria", consolidated=False)
    assert criteria["bic"].dims == ("n_components", "covariance_type")


# -- the rows --------------------------------------------------------------------------------------------------


def test_rows_of_the_noise_and_rows_that_are_left_out_are_told_apart(done):
    found = rows_of(done.store)
    label, left_out = found["label"], np.isin(np.arange(len(found["label"])), GAPS)
    np.testing.assert_array_equal(label == -2, left_out)
    np.testing.assert_array_equal(np.isnan(found["log_density"]), left_out)
    np.testing.assert_array_equal(np.isnan(found["responsibility"]).all(axis=1), left_out)
    assert found["component"].tolist() == [0, 1, 2, -1]
    most = found["component"][found["responsibility"][~left_out].argmax(axis=1)]
    np.testing.assert_array_equal(label[~left_out], most)
    summary = done.row_summary
    assert (summary.noise, summary.unusable) == (np.sum(label == -1), len(GAPS))
    assert summary.noise + sum(summary.label_counts) == summary.usable
    assert sum(summary.label_shares) == pytest.approx(1.0)


def test_densities_are_those_of_the_formula(done):
    """In the user's units, by SciPy."""
    model = open_result(done.store).model()
    kind, parameters = model.in_units
    X, found = np.delete(noisy_groups()[0], GAPS, axis=0), rows_of(done.store)
    covariances = model.family.gaussians.full_covariances(parameters)
    logs = [multivariate_normal(m, c).logpdf(X) for m, c in zip(parameters.means, covariances, strict=True)]
    logs.append(np.full(len(X), -parameters.noise.log_volume))
    logs = np.array(logs).T + np.log(parameters.all_weights)
    np.testing.assert_allclose(np.delete(found["log_density"], GAPS), logsumexp(logs, axis=1), rtol=1e-10)
    resp = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    np.testing.assert_allclose(np.delete(found["responsibility"], GAPS, axis=0), resp, atol=1e-10)
    assert kind == model.covariance_type


def test_rows_in_parquet_files(source, tmp_path, done):
    output = {"rows": "parquet", "key_columns": ["key"], "clusters": "merged"}
    found = run(job(tmp_path, source, search={"noise": True, "n_components": 3}, output=output))
    table, rows = pd.read_parquet(f"{found.store}-rows"), rows_of(done.store)
    assert list(table)[-4:] == ["responsibility_0", "responsibility_1", "responsibility_2", "responsibility_noise"]
    np.testing.assert_array_equal(table["label"] == -2, np.isin(table["key"], GAPS))
    np.testing.assert_array_equal(table["cluster"] < 0, table["label"] < 0)
    assert np.mean((table["label"] == -1) == (rows["label"] == -1)) > 0.99
    with pytest.raises(UserError, match="responsibility_noise"):
        run(job(tmp_path, source, "k.zarr", output={**output, "key_columns": ["responsibility_noise"]}))


# -- bits ------------------------------------------------------------------------------------------------------


def test_a_resumed_run_ends_with_the_same_bits(done, source, tmp_path):
    config = job(tmp_path, source)
    for number in (4, 7):
        with pytest.raises(Stop):
            run(config, progress=stop_at(number), checkpoint_seconds=0.0)
    assert open_result(config.output.store, unfinished=True).table["bic"].notna().any()
    run(config)
    assert everything_in(config.output.store) == everything_in(done.store)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_threads_and_workers(source, tmp_path, unheld, workers):
    search = {
        "extend": True,
        "n_components": 2,
        "covariance_types": "EVI",
        "resamples": 2,
        "held_out": 0.1,
        "tol": 1e-3,
    }
    one, other = (job(tmp_path, source, f"{name}.zarr", search) for name in "ab")
    with dask.config.set(num_workers=3):
        first = run(one)
    assert set(first.table["n_components"]) >= {1, 2, 3}
    assert first.table.query("noise and n_components == 3")["stability"].min() > 0.8
    if workers > 1:
        cluster = {"kind": "local", "workers": workers, "threads_per_worker": 1}
        other = job(tmp_path, source, "b.zarr", search, cluster=cluster)
    with dask.config.set(num_workers=1):
        run(other)
    assert everything_in(one.output.store) == everything_in(other.output.store)


def test_waves_end_where_one_wave_does(done, source, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.fit.plan.plan_waves", lambda shape, machine, candidates, *more: (5, 4, 3))
    found = run(job(tmp_path, source))
    assert found.best == done.best
    np.testing.assert_allclose(found.table["bic"], done.table["bic"], rtol=1e-12)


# -- new rows --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(done, tmp_path_factory):
    """Scores of rows that are like those of the fit, and of rows far outside their box."""
    path, found = tmp_path_factory.mktemp("scores"), {}
    like = noisy_groups(600, seed=7)[0]
    far = np.array([[1e4, 1e6], [-1e30, 1e200], [1e200, 1e308]])
    for name, rows in {"like": like, "far": np.concatenate([like, np.repeat(far, 30, axis=0)])}.items():
        table_of(rows, [5]).to_parquet(path / f"{name}.parquet")
        settings = ScoreSettings.from_overrides(["output.anomaly_quantile=0.2", f"output.metrics={path}/{name}"])
        found[name] = score(done.store, str(path / f"{name}.parquet"), path / f"{name}.zarr", settings=settings)
    return path, found


def test_rows_outside_the_box_are_noise(scored):
    path, found = scored
    rows = rows_of(path / "far.zarr")
    np.testing.assert_array_equal(rows["label"][600:], -1)
    np.testing.assert_array_equal(rows["responsibility"][600:], [[0.0, 0.0, 0.0, 1.0]] * 90)
    assert (rows["log_density"][600:] == np.nanmin(rows["log_density"])).all()
    assert rows["label"][5] == -2
    assert found["far"].rows.noise == np.sum(rows["label"] == -1)


def test_drift_of_the_noise(scored):
    _, found = scored
    assert found["like"].drift == ()
    assert found["like"].noise.share == pytest.approx(found["like"].noise.fit_share, abs=0.03)
    far = found["far"]
    assert far.noise.moved == ("share",)
    assert not any(one.moved for one in far.components if "share" not in one.moved)
    assert any(re.match(r"noise: its share is 1\d\.\d\d% here", line) for line in far.drift)
    page = render_scores(far)
    assert page.count(">noise</th>") == 1
    metrics = (Path(far.out).parent / "far/gmm-dask-gmm-dask-score.prom").read_text()
    assert re.search(r"noise_share\S* 0\.1\d", metrics)


def test_many_rows_have_the_least_density(scored):
    """A quantile below which no row lies marks none; a larger one marks all of the noise."""
    path, _ = scored
    density = rows_of(path / "like.zarr")["log_density"]
    anomaly = zarr.open_array(path / "like.zarr/rows/anomaly", mode="r")[:]
    assert anomaly.sum() == pytest.approx(0.2 * 599, abs=15)
    assert anomaly[density == np.nanmin(density)].all()


# -- other programs --------------------------------------------------------------------------------------------


def test_a_loaded_mixture_is_that_of_the_store(done):
    X, found = np.delete(noisy_groups()[0], GAPS, axis=0), rows_of(done.store)
    for name in ("full-k3-noise", "EVI-k2-noise", "EVI-k2"):
        loaded, row = gmm_dask.load(done.store, name), done.row(name)
        frame = pd.DataFrame(X, columns=COLUMNS)
        assert loaded.bic(frame) == pytest.approx(row["bic"], rel=1e-10)
        assert loaded.noise is name.endswith("noise")
    loaded = gmm_dask.load(done.store)
    np.testing.assert_array_equal(loaded.predict(frame), np.delete(found["label"], GAPS))
    np.testing.assert_allclose(loaded.predict_proba(frame), np.delete(found["responsibility"], GAPS, axis=0), atol=1e-9)
    assert loaded.weights_.sum() + loaded.noise_weight_ == pytest.approx(1.0)
    box = np.linalg.det(loaded.noise_box_[1:])
    assert abs(box) == pytest.approx(loaded.noise_volume_, rel=1e-9)
    drawn, y = loaded.sample(5000)
    low, high = drawn[y == -1].min(axis=0), drawn[y == -1].max(axis=0)
    np.testing.assert_allclose([low, high], [X.min(axis=0), X.max(axis=0)], atol=0.2 * np.ptp(X, axis=0).max())


def test_exports(done, tmp_path):
    X = noisy_groups(500, seed=3)[0]
    loaded = gmm_dask.load(done.store)
    frame = pd.DataFrame(X, columns=COLUMNS)
    found = json.loads(export(done.store, Target.JSON, tmp_path / "m.json").read_text())
    assert found["noise"]["weight"] == loaded.noise_weight_
    assert np.exp(found["noise"]["log_volume"]) == pytest.approx(loaded.noise_volume_)
    np.testing.assert_array_equal(found["noise"]["box"], loaded.noise_box_)
    assert (
        json.loads(export(done.store, Target.JSON, tmp_path / "p.json", model="full-k3").read_text())["noise"] is None
    )
    with pytest.raises(UserError, match=names("full-k2-noise", "scikit-learn", "--model", "full-k2 ")):
        export(done.store, Target.SKLEARN, tmp_path / "m.joblib", model="full-k2-noise")
    assert export(done.store, Target.SKLEARN, tmp_path / "m.joblib", model="full-k2").exists()
    onnxruntime = pytest.importorskip("onnxruntime")
    file = export(done.store, Target.ONNX, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    label, probabilities, log_density = session.run(None, {"X": X})
    np.testing.assert_array_equal(label, loaded.predict(frame))
    np.testing.assert_allclose(probabilities, loaded.predict_proba(frame), atol=1e-10)
    np.testing.assert_allclose(log_density, loaded.score_samples(frame), rtol=1e-10)
    far = session.run(None, {"X": np.array([[1e9, -1e9]])})
    assert far[0].tolist() == [-1]


def test_the_report_shows_the_noise_as_such(done, tmp_path):
    page = Path(write_report(done.store)).read_text()
    assert "3 components with" in page
    assert "covariance and noise describe these data best" in page
    assert f"Noise: {done.noise_weight:.1%} of the weight" in page
    assert "Grey rows are those of the noise." in page
    assert ">noise</th>" in page
    assert ">noise</td>" in page  # among the least likely rows
    other = Path(write_report(done.store, "full-k2")).read_text()
    assert "Noise:" not in other


def test_commands_tell_of_the_noise(done):
    def printed(*arguments):
        result = CliRunner(env={"COLUMNS": "100"}).invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    assert f"3 components, noise ({done.best})" in printed("show", done.store)
    shown = json.loads(printed("show", done.store, "--json"))
    assert shown["noise_weight"] == pytest.approx(done.noise_weight)
    assert {one["name"]: one["noise"] for one in shown["candidates"]}["full-k2"] is False
    assert re.search(r"noise +noise +0\.0", printed("diff", done.store, done.store))
    compared = json.loads(printed("diff", done.store, done.store, "--json"))
    assert compared["b"]["noise_weight"] == shown["noise_weight"]
    assert compare_stores(done.store, done.store).agreement == 1.0


WRONG = {
    "no number": lambda values: values * np.nan,
    "negative": lambda values: -values,
    "no length": lambda values: 0.0 * values,
    "more of them": lambda values: np.append(values, values),
}


@pytest.mark.parametrize(
    ("array", "what"),
    [
        *[("models/{best}/noise_weight", what) for what in WRONG],
        *[("models/{best}/noise_log_volume", what) for what in ("no number", "more of them")],
        *[("noise/edges", what) for what in ("no number", "no length", "more of them")],
    ],
)
def test_stored_noise_that_is_none_is_refused(done, tmp_path, array, what):
    path = shutil.copytree(done.store, tmp_path / "r.zarr")
    folder, name = array.format(best=done.best).rsplit("/", 1)
    group = zarr.open_group(path / folder, mode="r+")
    wrong = np.asarray(WRONG[what](group[name][...]))
    del group[name]
    put(group, name, wrong, ("one", "other")[: wrong.ndim])
    store.update_attributes(path, manifest=write_manifest(path))
    with pytest.raises(store.DamagedError, match=names(folder)):
        gmm_dask.load(path)


# -- nights ----------------------------------------------------------------------------------------------------


def test_a_refresh_keeps_the_winner_and_its_numbers(tmp_path, monkeypatch):
    nights = []

    class Clock:
        @staticmethod
        def now(zone=None):
            return datetime(2026, 11, 1 + len(nights), 2, tzinfo=zone)

    monkeypatch.setattr("pipeline.store.paths.datetime", Clock)
    for night in range(3):
        np.save(tmp_path / "rows.npy", noisy_groups(1500, seed=night)[0])
        search = {"n_components": [3, 4], "covariance_types": ["full", "tied"], "noise": [False, True]}
        search["noise"] = search["noise"] if night < 2 else False
        config = nightly_job(
            tmp_path,
            data={"source": str(tmp_path / "rows.npy"), "scale": "standard"},
            search=search,
        )
        nights.append(refresh(config))
    first, second, third = nights
    assert first.summary.best.endswith("-k3-noise")
    assert not second.decision.searched
    assert second.summary.best == first.summary.best
    assert [one.number for one in second.summary.identity.continued] == [0, 1, 2]
    assert second.summary.identity.changed < 0.03
    # the box is that of the night's rows
    volumes = [gmm_dask.load(night.summary.store).noise_volume_ for night in (first, second)]
    assert volumes[0] != volumes[1] == pytest.approx(volumes[0], rel=0.1)
    assert third.decision.searched
    assert "no candidate any more" in third.decision.reason
    assert not third.summary.table["noise"].any()


# -- settings --------------------------------------------------------------------------------------------------


def test_a_volume_is_in_the_units_of_the_data(source, tmp_path):
    search = {"noise": 60_000.0, "n_components": 3, "covariance_types": "full", "max_iter": 500}
    found = run(job(tmp_path, source, search=search))
    loaded = gmm_dask.load(found.store)
    assert loaded.noise_volume_ == pytest.approx(60_000.0)
    assert loaded.noise == pytest.approx(60_000.0)
    X = np.delete(noisy_groups()[0], GAPS, axis=0)
    ours = GaussianMixture(3, noise=60_000.0, random_state=1, tol=1e-6, max_iter=500, reg_covar="auto").fit(X)
    assert found.row()["bic"] == pytest.approx(ours.bic(X), rel=1e-6)


def test_a_volume_that_is_too_small_is_named(source, tmp_path):
    config = job(tmp_path, source, search={"noise": 1e-6 * SCALE.prod(), "n_components": 2, "covariance_types": "full"})
    found = run(config)
    assert found.row()["status"] == "all_noise"
    page = Path(write_report(found.store)).read_text()
    assert "its volume is too small" in page
    assert "box around the rows" in page


def test_a_prior_goes_with_noise(source, tmp_path):
    search = {"prior": "default", "covariance_types": "full", "n_components": 3, "noise": True}
    assert run(job(tmp_path, source, search=search)).row()["status"] == "converged"


def test_a_search_for_starts_goes_with_noise(source, tmp_path):
    search = {"init_params": "auto", "start_effort": 0.02, "n_components": 3, "covariance_types": "full"}
    assert run(job(tmp_path, source, search=search)).best == "full-k3-noise"


@pytest.mark.parametrize(
    ("search", "named"),
    [
        ({"noise": True, "inference": "variational", "covariance_types": ["full"]}, ("noise", "variational")),
        ({"noise": [False, True], "inference": "variational", "covariance_types": ["full"]}, ("noise", "variational")),
        ({"noise": 0.0}, ("noise", "[false, true]", "volume")),
        ({"noise": [True, True]}, ("noise", "once")),
        ({"noise": [False, 3.0]}, ("noise", "[false, true]", "volume")),
        ({"noise": "yes"}, ("noise", "[false, true]", "volume")),
        ({"noise": []}, ("noise", "[false, true]", "volume")),
    ],
    ids=str,
)
def test_what_is_no_noise_is_refused(tmp_path, source, search, named):
    with pytest.raises(ValueError, match=names(*named)):
        job(tmp_path, source, search=search)


def test_noise_behind_transforms_is_uniform_in_the_features(source, tmp_path):
    X = np.delete(noisy_groups()[0], GAPS, axis=0)
    z = np.arcsinh(X / 50.0)
    z, log_slope = z / z.std(axis=0), -0.5 * np.log(X**2 + 2500.0).sum(axis=1) - np.log(z.std(axis=0)).sum()
    search = {"n_components": 3, "covariance_types": "full", "reg_covar": 1e-6}
    steps = [{"arcsinh": 50.0}, "scale", {"pca": {"whiten": True}}]
    for noise in (True, 40.0):  # of the whitened features
        config = job(tmp_path, source, f"{noise}.zarr", {**search, "noise": noise}, scale="none", transform=steps)
        found = run(config)
        centred = z - z.mean(axis=0)
        axes = np.linalg.eigh(np.cov(centred.T))[1].T[::-1]
        axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
        w = centred @ axes.T
        scale = w.std(axis=0, ddof=1)
        settings = {"init_params": "kmeans", "random_state": 1, "tol": 1e-6, "reg_covar": 1e-6}
        theirs = GaussianMixtureSearch([3], ["full"], noise=noise, **settings).fit(w / scale)
        jacobian = log_slope.sum() - len(X) * np.log(scale).sum()
        assert found.row()["bic"] == pytest.approx(theirs.bic(w / scale) - 2.0 * jacobian, rel=1e-9)
        stored, loaded = rows_of(found.store), gmm_dask.load(found.store)
        valued = stored["label"] != -2
        assert (~valued).sum() == len(GAPS)
        np.testing.assert_array_equal(
            loaded.predict(table_of(noisy_groups()[0])[COLUMNS])[valued], stored["label"][valued]
        )
        expected = theirs.score_samples(w / scale) + log_slope - np.log(scale).sum()
        np.testing.assert_allclose(stored["log_density"][valued], expected, rtol=1e-7)
        assert loaded[-1].noise_volume_ == pytest.approx(theirs.best_estimator_.noise_volume_, rel=1e-7)
    score(found.store, str(source), tmp_path / "scores.zarr")
    np.testing.assert_array_equal(rows_of(tmp_path / "scores.zarr")["label"], stored["label"])
    assert "in the features of the fit" in Path(write_report(found.store)).read_text()
    onnxruntime = pytest.importorskip("onnxruntime")
    file = export(found.store, Target.ONNX, tmp_path / "mixture.onnx")
    onnx = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    label, density = onnx.run(["label", "log_density"], {"X": X})
    np.testing.assert_array_equal(label, stored["label"][valued])
    np.testing.assert_allclose(density, stored["log_density"][valued], rtol=1e-7)


def test_a_refresh_keeps_noise_behind_principal_components(tmp_path):
    template = {"store": f"{tmp_path}/{{started:%Y-%m-%dT%H%M%S%f}}.zarr", "responsibilities": False}
    search = {"n_components": [2, 3], "covariance_types": "full", "noise": True}
    stores = []
    for night in range(2):
        rows = noisy_groups(seed=night)[0]
        wide = np.column_stack([rows, rows.sum(axis=1) + np.random.RandomState(night).normal(size=len(rows))])
        pd.DataFrame(wide, columns=[*COLUMNS, "sum"]).to_parquet(tmp_path / "rows.parquet")
        steps = ["scale", {"pca": 2}]
        config = job(
            tmp_path,
            tmp_path / "rows.parquet",
            search=search,
            output=template,
            scale="none",
            transform=steps,
            columns=None,
        )
        stores.append(refresh(config))
    assert not stores[1].decision.searched, stores[1].decision.reason
    assert stores[1].summary.best == stores[0].summary.best


def test_a_constant_column_has_no_box(tmp_path):
    np.save(tmp_path / "rows.npy", np.column_stack([noisy_groups(100)[0], np.full(100, 3.0)]))
    config = nightly_job(tmp_path, search={"noise": True}, output={"store": str(tmp_path / "r.zarr")})
    with pytest.raises(UserError, match=names("search.noise", "x2")):
        run(config)


def test_the_axes_take_a_pass(source, tmp_path, unheld):
    passes = []
    for noise in (False, True, 1e5):
        config = job(tmp_path, source, f"{noise}.zarr", search={"noise": noise})
        prepare(config, False, silent)
        seed(config, silent)
        passes.append(store.load_checkpoint(config.output.store).passes)
    assert passes == [1, 2, 1]


def test_the_plan_counts_the_noise(source, tmp_path):
    plain, noisy = (
        estimate_job(job(tmp_path, source, search={"noise": noise})).plan for noise in (False, [False, True])
    )
    assert len(noisy.candidates) == 2 * len(plain.candidates)
    assert noisy.needed_bytes > plain.needed_bytes
    assert noisy.shape.n_components == plain.shape.n_components + 1


def test_a_note_says_what_a_quantile_marks(source, tmp_path):
    marking = {"anomaly_quantile": 0.01}
    (note,) = job(tmp_path, source, output=marking).notes
    assert re.search(names("output.anomaly_quantile", "search.noise", "-1"), note)
    assert job(tmp_path, source, search={"noise": False}, output=marking).notes == ()
