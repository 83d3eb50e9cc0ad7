"""Stores of earlier versions of the program, which did not have all of today's keys, and of later ones."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from gmm_dask import UserError, load
from messages import names
from nightly import nightly_job
from pipeline import store
from pipeline.compare import compare_stores
from pipeline.export import Target, export
from pipeline.fit.job import prepare, run, seed
from pipeline.fit.refresh import refresh
from pipeline.progress import Message, StageStarted, silent
from pipeline.report import write_report
from pipeline.score.new_rows import score
from pipeline.score.settings import ScoreSettings
from pipeline.store.integrity import write_manifest
from pipeline.store.lifecycle import read_attributes
from pipeline.store.listing import list_stores

# keys that were added after the format was fixed
NEW_KEYS = ("data.cache", "search.resamples", "output.clusters", "output.keep", "output.metrics")
ROWS = np.concatenate([np.random.default_rng(0).normal(centre, 1.0, (100, 2)) for centre in (0.0, 8.0)])


def without_new_keys(path):
    """Make a store as one of a version that had neither these keys, nor merged components, nor the evidence."""
    config = read_attributes(path).config
    for key in NEW_KEYS:
        section, name = key.split(".")
        del config[section][name]
    for name in ("clusters", "criteria/elbo", "criteria/start_elbo"):
        shutil.rmtree(path / name, ignore_errors=True)
    complete = read_attributes(path).is_complete
    store.update_attributes(path, config=config, **({"manifest": write_manifest(path)} if complete else {}))
    assert "resamples" not in zarr.open_group(path).attrs["config"]["search"]


def at(config, path):
    """The configuration with a store without a date."""
    return config.model_copy(update={"output": config.output.model_copy(update={"store": str(path)})})


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The configuration and the store of a job that ran years ago."""
    folder = tmp_path_factory.mktemp("earlier")
    np.save(folder / "rows.npy", ROWS)
    config = nightly_job(folder, output={"store": f"{folder}/night-{{started:%Y-%m-%d}}.zarr", "log_density": True})
    path = folder / "night-2020-01-01.zarr"
    run(at(config, path))
    without_new_keys(path)
    return config, path


def test_a_store_without_new_keys_has_their_defaults(earlier):
    _, path = earlier
    result = store.open_result(path)
    assert result.config["search"]["resamples"] == 0
    assert (result.clusters, result.clusters_note, result.best) == ((), "", "diag-k2")
    assert store.read_candidates(path).notes
    assert list_stores(str(path.parent))[0].status == "complete"


def test_a_store_without_new_keys_is_used(earlier, tmp_path):
    config, path = earlier
    shutil.copytree(path, tmp_path / "old.zarr")
    assert write_report(tmp_path / "old.zarr", "diag-k3").endswith("diag-k3/index.html")
    assert write_report(tmp_path / "old.zarr").endswith("index.html")
    assert export(path, Target.JSON, tmp_path / "model.json").exists()
    assert load(path).n_components == 2
    assert compare_stores(path, tmp_path / "old.zarr").agreement == 1.0
    assert score(path, config.data.source, tmp_path / "scores.zarr").drift == ()


def test_a_store_without_clusters_gives_none(earlier, tmp_path):
    config, path = earlier
    events = []
    settings = ScoreSettings.from_overrides(["output.clusters=merged"])
    score(path, config.data.source, tmp_path / "scores.zarr", settings=settings, progress=events.append)
    notes = [event.detail for event in events if isinstance(event, Message) and event.name == "note"]
    assert [note for note in notes if "merged no components" in note]


def test_a_job_goes_on_from_a_store_without_new_keys(earlier):
    config, path = earlier
    assert run(at(config, path)).reused
    found = refresh(config)
    assert not found.decision.searched
    assert found.decision.previous == str(path)
    assert len(found.summary.identity.continued) == 2


def test_a_run_of_an_earlier_version_is_resumed(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    config = nightly_job(tmp_path, output={"store": str(tmp_path / "night.zarr")})
    prepare(config, False, silent)
    seed(config, silent)
    without_new_keys(tmp_path / "night.zarr")
    events = []
    assert run(config, progress=events.append).attempts == 2
    assert "seed" not in [event.name for event in events if isinstance(event, StageStarted)]


@pytest.mark.parametrize("section", ["search", None])
def test_settings_of_a_later_version_are_refused_by_its_name(earlier, tmp_path, section):
    path = shutil.copytree(earlier[1], tmp_path / "later.zarr")
    attributes = read_attributes(path)
    inside = attributes.config if section is None else attributes.config[section]
    inside["horizon"] = 1
    software = {**attributes.software, "gmm-dask": "9.8"}
    store.update_attributes(path, config=attributes.config, software=software)
    for read in (store.open_result, store.read_candidates, load):
        with pytest.raises(UserError, match=names(path, "horizon", "9.8")) as caught:
            read(path)
        assert not isinstance(caught.value, store.DamagedError)
