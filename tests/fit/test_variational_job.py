"""Variational mixtures in a job: chosen by the evidence, stored with their posteriors, resumed, exported, reported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.mixture import BayesianGaussianMixture as Peer

import gmm_dask
from gmm_dask import BayesianGaussianMixture, UserError
from gmm_dask.em.loop import State
from gmm_dask.families import Parameters, Posterior
from gmm_dask.families.candidate import Candidate
from groups import NAMES, three_groups, write
from messages import names
from mixtures import random_parameters
from pipeline.config.job import JobConfig
from pipeline.export import Target, export, to_json, to_sklearn
from pipeline.fit.job import run
from pipeline.report import write_report
from pipeline.score.new_rows import score
from pipeline.store import open_result
from pipeline.store.dataclass_arrays import from_columns, to_columns
from runs import Stop, everything_in, stop_at

TYPES = ["full", "tied", "spherical"]


def job(path, source, store="r.zarr", cluster=None, scale="standard", **search):
    settings = {"inference": "variational", "n_components": [2, 6], "covariance_types": TYPES, "init_params": "kmeans"}
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "columns": NAMES, "chunk_rows": 50, "scale": scale},
            "search": settings | {"tol": 1e-5, "random_state": 1} | search,
            "output": {"store": str(path / store), "log_density": True, "report": False},
            "cluster": cluster or {},
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write("parquet", tmp_path_factory.mktemp("rows"), three_groups())


@pytest.fixture(scope="module")
def done(source, tmp_path_factory):
    return run(job(tmp_path_factory.mktemp("variational"), source))


def test_the_evidence_chooses_and_components_lose_their_weight(done):
    table = done.table
    assert table["elbo"].notna().all()
    assert table[["bic", "aic", "icl"]].isna().all(axis=None)
    assert done.row()["n_components"] == 6
    assert np.sum(np.array(done.weights) > 0.01) == 3
    assert (np.diff(done.weights) <= 0.0).all()


@pytest.mark.parametrize("name", ["full-k6", "tied-k6", "spherical-k6"])
def test_a_stored_model_is_that_of_the_fit(done, source, name):
    X = pd.DataFrame(three_groups(), columns=NAMES)
    loaded = gmm_dask.load(done.store, name)
    assert isinstance(loaded, BayesianGaussianMixture)
    row = open_result(done.store).row(name)
    assert loaded.score_samples(X).sum() == pytest.approx(row["log_likelihood"], rel=1e-10)
    assert loaded.lower_bound_ == pytest.approx(loaded.lower_bounds_[-1])
    exported = to_sklearn(open_result(done.store), open_result(done.store).model(name))
    assert isinstance(exported, Peer)
    np.testing.assert_allclose(exported.score_samples(X), loaded.score_samples(X), rtol=1e-10)
    if loaded.covariance_type == "diag":  # of scaled columns, the spherical one
        return
    # a step of scikit-learn from there goes nowhere: the posterior and its priors are those of these rows
    bound = exported.lower_bound_
    exported.set_params(warm_start=True, max_iter=1, reg_covar=0.0)
    with warnings.catch_warnings(action="ignore"):
        exported.fit(X)
    assert float(np.ravel(exported.lower_bound_)[0]) == pytest.approx(bound, abs=0.05)
    np.testing.assert_allclose(exported.means_, loaded.means_, atol=1e-2 * np.abs(loaded.means_).max())


def test_labels_and_scores_are_the_models(done, tmp_path):
    X = pd.DataFrame(three_groups(), columns=NAMES)
    loaded = gmm_dask.load(done.store)
    labels = zarr.open_array(f"{done.store}/rows/label", mode="r")[:]
    np.testing.assert_array_equal(labels, loaded.component_numbers_[loaded.predict(X)])
    new = write("parquet", tmp_path, three_groups()[:80])
    score(done.store, str(new), tmp_path / "scores.zarr")
    found = zarr.open_array(f"{tmp_path}/scores.zarr/rows/log_density", mode="r")[:]
    np.testing.assert_allclose(found, loaded.score_samples(X[:80]), rtol=1e-9)


def test_exports(done, tmp_path):
    result = open_result(done.store)
    model = result.model(done.best)
    found = json.loads(export(done.store, Target.JSON, tmp_path / "m.json").read_text())
    assert found == json.loads(to_json(result, model).model_dump_json())
    posterior = model.unscaled[1]
    assert found["variational"]["mean_precision"] == posterior.mean_precision.tolist()
    assert found["criteria"]["bic"] is None
    assert found["criteria"]["elbo"] == pytest.approx(result.row()["elbo"])
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        export(done.store, Target.ONNX, tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    label, _, log_density = session.run(None, {"X": three_groups()})
    loaded = gmm_dask.load(done.store)
    X = pd.DataFrame(three_groups(), columns=NAMES)
    np.testing.assert_allclose(log_density, loaded.score_samples(X), rtol=1e-9)
    np.testing.assert_array_equal(label, loaded.component_numbers_[loaded.predict(X)])


def test_the_report_tells_how_many_components_carry_weight(done):
    page = Path(write_report(done.store)).read_text()
    assert "of at most 6 components, 3 have more than 1% of the weight" in page
    assert "bound on the log evidence per row" in page


def test_a_resumed_run_ends_with_the_same_bits(done, source, tmp_path):
    config = job(tmp_path, source)
    for number in (2, 4):
        with pytest.raises(Stop):
            run(config, progress=stop_at(number), checkpoint_seconds=0.0)
    assert open_result(config.output.store, unfinished=True).table["elbo"].notna().all()
    run(config)
    assert everything_in(config.output.store) == everything_in(done.store)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_threads_and_workers(source, tmp_path, unheld, workers):
    one, other = (job(tmp_path, source, f"{name}.zarr") for name in "ab")
    with dask.config.set(num_workers=3):
        run(one)
    if workers > 1:
        cluster = {"kind": "local", "workers": workers, "threads_per_worker": 1}
        other = job(tmp_path, source, "b.zarr", cluster=cluster)
    with dask.config.set(num_workers=1):
        run(other)
    assert everything_in(one.output.store) == everything_in(other.output.store)


def test_a_checkpoint_keeps_posteriors_and_parameters_apart():
    plain = random_parameters("tied", 3, 2)
    posterior = Posterior(
        **vars(plain), weight_concentration=np.ones(3), mean_precision=np.full(3, 2.0), degrees_of_freedom=np.array(7.0)
    )
    for parameters in (plain, posterior, None):
        state = from_columns(State, to_columns(State(Candidate("tied", 3), 0, parameters)))
        assert type(state.parameters) is type(parameters)
        for name, values in vars(parameters).items() if parameters else ():
            np.testing.assert_array_equal(getattr(state.parameters, name), values)
    assert issubclass(Posterior, Parameters)


@pytest.mark.parametrize(
    ("search", "named"),
    [
        ({"criterion": "bic"}, ("elbo", "variational")),
        ({"criterion": "held_out", "held_out": 0.2}, ("elbo", "variational")),
        ({"accelerate": True}, ("accelerate", "variational")),
        ({"resamples": 5}, ("resamples", "variational")),
        ({"prior": "default"}, ("prior", "variational")),
        ({"inference": "em", "criterion": "elbo"}, ("bic", "search.inference is em")),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(tmp_path, source, search, named):
    with pytest.raises((ValueError, UserError), match=names(*named)):
        job(tmp_path, source, **search)
