"""The nightly job: the last winner goes on, until the data are others; and the rows that are labelled with it."""

import os
import re
import shutil
from datetime import datetime
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import zarr

from gmm_dask import UserError
from marks import slow
from messages import names
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.fit.refresh import refresh
from pipeline.progress import ChunksDone, Message, PassDone
from pipeline.score.batch import score_batch
from pipeline.score.new_rows import score
from prefects import write_rows
from runs import Stop, stop_at


@pytest.fixture
def night(tmp_path, monkeypatch):
    """A function that refreshes as if in the night of a day, with rows that are written for it."""
    dates = iter(range(1, 31))

    def refresh_with(seed, shift=0.0, progress=lambda event: None, tell=lambda *news: None, **sections):
        write_rows(tmp_path / "rows.npy", seed, shift, n_rows=3000)
        return again(progress, tell, **sections)

    def again(progress=lambda event: None, tell=lambda *news: None, **sections):
        # a template of one day each stands for nights, which do not pass here
        return refresh(job(tmp_path, **sections), progress=progress, tell=tell)

    class Clock:
        @staticmethod
        def now(zone=None):
            return datetime(2026, 11, next(dates), 2, tzinfo=zone)

    monkeypatch.setattr("pipeline.store.paths.datetime", Clock)
    refresh_with.again = again
    return refresh_with


def job(folder, **sections):
    values = {
        "name": "night",
        "data": {"source": str(folder / "rows.npy")},
        "search": {"n_components": [2, 3], "covariance_types": ["diag", "spherical"], "init_params": "kmeans"},
        "output": {"store": f"{folder}/{{name}}-{{started:%Y-%m-%d}}.zarr", "report": False},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return JobConfig.model_validate(values)


@pytest.mark.parametrize("scale", ["standard", *slow(["none"])])
def test_the_winner_goes_on_until_the_data_have_drifted(night, tmp_path, scale):
    data = {"source": str(tmp_path / "rows.npy"), "scale": scale}
    first = night(0, data=data)
    assert first.decision.searched
    assert len(first.summary.table) == 4
    second = night(1, data=data)
    assert not second.decision.searched
    assert abs(second.decision.gain) < 0.05
    word = "worse" if second.decision.gain < 0 else "better"
    assert f"{word} by {abs(second.decision.gain):.4f}" in second.decision.reason
    assert second.decision.previous == first.summary.store
    assert (second.summary.best, len(second.summary.table)) == (first.summary.best, 1)
    assert second.summary.remarks == []  # the other numbers of components were tried by the search
    third = night(2, shift=3.0, data=data)
    assert third.decision.searched
    assert third.decision.gain > 0.05
    assert re.search(names("over", "0.05", "refresh.drift"), third.decision.reason)
    assert len(third.summary.table) == 4


@pytest.mark.parametrize("search", [{"inference": "variational"}, {"prior": "default"}], ids=str)
def test_winners_with_priors_go_on_too(night, search, tmp_path):
    first = night(0, search=search)
    second = night(1, search=search)
    assert not second.decision.searched
    assert abs(second.decision.gain) < 0.05
    assert second.summary.best == first.summary.best
    assert (second.summary.model().priors is None) == ("prior" in search)
    night.again(search=search)  # the same rows: a fit to half of a sample has the prior of the fit to all
    assert abs(night.again(search=search).decision.gain) < 0.01
    scored = score(second.summary.store, str(tmp_path / "rows.npy"), tmp_path / "scores.zarr")
    assert (scored.drift, scored.gain) == ((), None)  # a step without the prior would gain
    assert night(2, shift=3.0, search=search).decision.searched


def test_a_decision_that_a_killed_run_could_not_tell_is_told_by_the_next_and_once(night, tmp_path):
    night(0)
    told = []

    def killed(path, decision):
        assert decision.drifted
        raise Stop

    with pytest.raises(Stop):
        night(1, shift=4.0, tell=killed)
    with pytest.raises(Stop):
        night.again(stop_at(3), tell=lambda *news: told.append(news))
    result = night.again(tell=lambda *news: told.append(news))
    assert result.summary.attempts == 2
    assert told == [(result.summary.store, result.decision)]


def test_slow_drift_adds_up_until_the_search_is_made_again(night):
    first, second, third, fourth = (night(n, shift=0.09 * n).decision for n in range(4))
    assert first.searched
    assert not second.searched
    assert second.gained == second.gain
    assert max(second.gain, third.gain) < 0.05 < second.gain + third.gain
    assert third.searched
    assert third.gained == pytest.approx(second.gain + third.gain)
    assert f"the gains since the last search sum to {third.gained:.4f}" in third.reason
    assert re.search(names(f"{third.gained:.4f}", "over", "0.05", "refresh.drift"), third.reason)
    assert not fourth.searched  # the sum begins anew
    assert fourth.gained == fourth.gain


@pytest.mark.slow
def test_losses_do_not_make_up_for_drift_to_come(night):
    decisions = [night(n, refresh={"drift": 10.0}).decision for n in range(6)]
    assert min(decision.gain for decision in decisions[1:]) < 0.0
    sums = [0.0]
    for decision in decisions[1:]:
        sums.append(max(0.0, sums[-1] + decision.gain))
        assert decision.gained == pytest.approx(sums[-1])


def test_a_run_says_that_the_flow_of_the_schedule_is_another(night, tmp_path):
    events, scheduled = [], {"schedule": {"cron": "0 2 * * *", "flow": "refresh"}}
    night(0, progress=events.append, **scheduled)
    assert not any("schedule.flow" in event.detail for event in events if isinstance(event, Message))
    run(job(tmp_path, **scheduled), progress=events.append)
    (note,) = [event.detail for event in events if isinstance(event, Message) and "schedule.flow" in event.detail]
    assert re.search(names("serve", "refresh", "bic-sweep", "all candidates"), note)


def test_rows_are_held_out_of_a_refresh_too(night):
    search = {"n_components": [2, 3], "held_out": 0.2, "criterion": "held_out"}
    first, second = night(0, search=search), night(1, search=search)
    assert not second.decision.searched
    assert second.summary.best == first.summary.best
    for refreshed in (first, second):
        assert 480 < refreshed.summary.held_out_rows < 720
        assert refreshed.summary.table["held_out"].notna().all()


def test_the_refit_is_the_fit_that_a_search_for_it_alone_finds(night, tmp_path):
    night(0)
    refreshed = night(1).summary
    kind, k = refreshed.best.split("-k")
    alone = run(
        job(tmp_path, search={"n_components": [int(k)], "covariance_types": [kind]}, output={"store": "{name}"})
    )
    (ours,), (theirs,) = refreshed.table["log_likelihood"], alone.table["log_likelihood"]
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_winner_beyond_the_grid_that_was_asked_for_is_kept_as_any(night):
    search = {"n_components": [1], "covariance_types": ["spherical"], "extend": True, "n_init": 3}
    first = night(0, search=search).summary
    assert len(first.table) > 1
    assert first.best != "spherical-k1"
    second = night(1, search=search)
    assert not second.decision.searched
    assert (second.summary.best, len(second.summary.table)) == (first.best, 1)
    assert second.summary.remarks == []  # none about the edge of a grid that it did not fit


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_link_is_the_newest_store_and_old_ones_are_removed(night, tmp_path):
    stores = [night(seed, refresh={"keep": 2}).summary.store for seed in range(4)]
    link = tmp_path / "night-latest.zarr"
    assert link.resolve() == Path(stores[-1]).resolve()
    assert store.open_result(link).best
    assert [Path(path).exists() for path in stores] == [False, False, True, True]
    left = {path.name.split(".")[0] for path in tmp_path.iterdir()} - {"rows", "night-latest"}
    assert left == {Path(path).name.split(".")[0] for path in stores[2:]}


def test_a_run_that_ends_after_a_newer_one_leaves_the_link_there(night, tmp_path):
    newer = tmp_path / "night-2026-11-30.zarr"
    shutil.copytree(night(0).summary.store, newer)
    assert night(1).summary.store < str(newer)
    assert (tmp_path / "night-latest.zarr").resolve() == newer


def test_a_store_that_is_at_work_is_not_removed(night):
    first = night(0, refresh={"keep": 1}).summary.store
    with store.lock(first):
        assert night(1, refresh={"keep": 1}).removed == ()
    assert Path(first).exists()
    assert first in night(2, refresh={"keep": 1}).removed


def test_something_else_in_the_links_place_is_left_alone(night, tmp_path):
    (tmp_path / "night-latest.zarr").mkdir()
    with pytest.raises(UserError, match=names("night-latest.zarr", "something else")):
        night(0)


def test_a_stopped_refresh_goes_on_with_what_it_decided(night):
    before = night(0)

    def stop(event):
        if isinstance(event, PassDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        night(1, progress=stop, search={"tol": 1e-9})
    stages = []
    done = night.again(lambda event: stages.append(getattr(event, "name", "")), search={"tol": 1e-9})
    assert "seed" not in stages
    assert not done.decision.searched
    assert done.decision.previous == before.summary.store
    assert done.summary.store.endswith("night-2026-11-02.zarr")


def test_other_columns_or_candidates_are_searched_again(night, tmp_path):
    best = night(0).summary.best
    other = night(1, search={"n_components": [2], "covariance_types": ["tied"]})
    assert other.decision.searched
    assert re.search(names(best, "no candidate"), other.decision.reason)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(500, 3)))
    columns = night.again(search={"n_components": [2], "covariance_types": ["tied"]})
    assert re.search(names("columns", "x0, x1, x2"), columns.decision.reason)


def test_jobs_of_one_template_keep_to_their_own_stores(night, tmp_path):
    output = {"store": f"{tmp_path}/{{started:%Y-%m-%d}}.zarr"}
    other = night(0, name="a", output=output).summary.store
    first = night(1, name="b", output=output, refresh={"keep": 1})
    assert first.decision.previous is None
    assert first.removed == ()
    second = night(2, name="b", output=output, refresh={"keep": 1})
    assert second.decision.previous == first.summary.store
    assert second.removed == (first.summary.store,)
    assert Path(other).exists()
    with pytest.raises(UserError, match=names("no complete result store", "job c")):
        score_batch(job(tmp_path, name="c", output=output, score={"source": "rows.npy"}))


def test_another_jobs_store_is_not_published(night, tmp_path):
    output = {"store": f"{tmp_path}/{{started:%Y-%m-%d}}.zarr"}
    night(0, name="a", output=output)
    os.rename(tmp_path / "2026-11-01.zarr", tmp_path / "2026-11-02.zarr")
    with pytest.raises(UserError, match=names("02.zarr", "job a", "{name}")):
        night.again(name="b", output=output)


def test_a_date_may_be_the_name_of_folders(night, tmp_path):
    output = {"store": f"{tmp_path}/out/{{started:%Y/%m/%d}}/night.zarr"}
    stores = [night(seed, output=output, refresh={"keep": 1}).summary.store for seed in range(2)]
    assert stores[1] == f"{tmp_path}/out/2026/11/02/night.zarr"
    assert (tmp_path / "out/latest/night.zarr").resolve() == Path(stores[1])
    assert not Path(stores[0]).exists()


def test_without_a_date_there_is_no_refresh(tmp_path):
    with pytest.raises(UserError, match=names("output.store", "a.zarr", "{started:%Y-%m-%d}")):
        refresh(job(tmp_path, output={"store": "a.zarr"}))


# -- other rows --------------------------------------------------------------------------------------------------


def test_other_rows_are_labelled_with_the_newest_model(night, tmp_path):
    night(0)
    newest = night(1)
    write_rows(tmp_path / "new.npy", seed=9)
    score = {"source": str(tmp_path / "new.npy"), "out": f"{tmp_path}/scores-{{started:%Y-%m-%d}}.zarr"}
    config = job(tmp_path, score=score, output={"log_density": True})
    summary = score_batch(config, now=NOW)
    assert (summary.model, summary.rows.n_rows) == (newest.summary.best, 300)
    assert arrays_of(summary) == {"label", "log_density"}
    root = zarr.open_group(summary.out, mode="r")
    assert Path(root.attrs["model"]["store"]) == Path(newest.summary.store).resolve()
    assert score_batch(config, now=NOW).reused
    assert np.isclose(summary.rows.label_shares, 1 / 3, atol=0.02).all()


def test_other_rows_are_labelled_with_the_model_that_is_named(night, tmp_path):
    found = night(0).summary
    other = next(name for name in found.models if name != found.best)
    score = {"source": str(tmp_path / "rows.npy"), "out": f"{tmp_path}/other.zarr", "model": other}
    assert score_batch(job(tmp_path, score=score)).model == other
    with pytest.raises(UserError, match=names("'tied-k9'", *found.models)):
        score_batch(job(tmp_path, score={**score, "model": "tied-k9"}))


NOW = datetime(2026, 11, 3, 5)


def arrays_of(summary):
    """The arrays of the rows, but those that say which file a row comes from."""
    return {"file", "first_row"} ^ set(zarr.open_group(summary.out, mode="r")["rows"].array_keys())


def test_what_the_configuration_sets_holds_for_other_rows_and_the_rest_is_as_in_the_store(night, tmp_path):
    night(0, output={"responsibilities": True}, data={"source": str(tmp_path / "rows.npy"), "missing": "drop"})
    write_rows(tmp_path / "new.npy", seed=9)
    rows = np.load(tmp_path / "new.npy")
    rows[7] = np.nan
    np.save(tmp_path / "new.npy", rows)

    def label(out, data=None, **output):
        score = {"source": str(tmp_path / "new.npy"), "out": str(tmp_path / out)}
        data = {"source": str(tmp_path / "rows.npy"), **(data or {})}
        return score_batch(job(tmp_path, score=score, output=output, data=data))

    same = label("same.zarr")
    assert (same.rows.unusable, arrays_of(same)) == (1, {"label", "responsibility", "component"})
    more = label("more.zarr", log_density=True, anomaly_quantile=0.1, data={"chunk_rows": 50})
    assert arrays_of(more) == {"label", "responsibility", "log_density", "anomaly", "component"}
    root = zarr.open_group(more.out, mode="r")
    assert np.isfinite(root["rows/log_density"][:7]).all()
    assert root["rows/anomaly"][:].sum() == more.rows.anomalies > 0
    assert root.attrs["config"]["data"]["chunk_rows"] == 50
    fewer = label("fewer.zarr", log_density=True, labels=False, responsibilities=False)
    assert arrays_of(fewer) == {"log_density"}
    with pytest.raises(UserError, match=names("NaN or infinity", "1 of")):
        label("strict.zarr", data={"missing": "error"})
    with pytest.raises(UserError, match=names("row output", "output.labels=true")):
        label("nothing.zarr", labels=False, responsibilities=False)


def test_keys_of_another_kind_of_file_are_left_to_the_fit(night, tmp_path):
    night(0)
    frame = pd.DataFrame(np.load(tmp_path / "rows.npy"), columns=["x0", "x1"]).assign(id=range(3000))
    frame.to_parquet(tmp_path / "new.parquet")
    output = {"rows": "parquet", "key_columns": ["id"]}
    for out, columns in (("a.zarr", None), ("a.parquet", ["id", "label"])):
        score = {"source": str(tmp_path / "new.parquet"), "out": str(tmp_path / out)}
        data = {"source": str(tmp_path / "rows.npy"), "dataset": "of/hdf5"}
        summary = score_batch(job(tmp_path, score=score, output=output, data=data))
        assert summary.rows.n_rows == 3000
        if columns:
            assert pd.read_parquet(summary.out).columns.tolist() == columns


@pytest.mark.parametrize("ending", ["zarr", "parquet"])
def test_labels_that_were_not_finished_are_gone_on_with_at_another_moment(night, tmp_path, monkeypatch, ending):
    night(0)
    monkeypatch.setattr("pipeline.sources.rows.IN_MEMORY_BYTES", 0)

    def write_new(seed):
        rows = np.random.default_rng(seed).normal(size=(300, 2))
        pd.DataFrame(rows, columns=["x0", "x1"]).to_parquet(tmp_path / "new.parquet", row_group_size=50)

    def label(hour, progress=lambda event: None):
        score = {"source": str(tmp_path / "new.parquet"), "out": f"{tmp_path}/s-{{started:%Y-%m-%dT%H}}.{ending}"}
        data = {"source": str(tmp_path / "rows.npy"), "chunk_rows": 50}
        config = job(tmp_path, score=score, data=data)
        return score_batch(config, progress=progress, now=datetime(2026, 11, 3, hour))

    def stop(event):
        if isinstance(event, ChunksDone) and event.done >= 3:
            raise KeyboardInterrupt

    write_new(1)
    with dask.config.set(num_workers=1), pytest.raises(KeyboardInterrupt):
        label(5, stop)
    events = []
    done = label(6, events.append)
    assert (done.out, done.rows.n_rows, done.reused) == (f"{tmp_path}/s-2026-11-03T05.{ending}", 300, False)
    assert " of 6 chunks" in " ".join(getattr(event, "detail", "") for event in events)
    assert label(7).out.endswith(f"T07.{ending}")  # what is complete is not gone on with
    with dask.config.set(num_workers=1), pytest.raises(KeyboardInterrupt):
        label(8, stop)
    write_new(2)
    assert label(9).out.endswith(f"T09.{ending}")  # other rows
    with pytest.raises(UserError, match=names("score.out", "date")):
        label(7)


def test_rows_are_not_labelled_without_a_model(tmp_path):
    write_rows(tmp_path / "rows.npy")
    with pytest.raises(UserError, match=names("job night", "rows.npy", "gmm-dask run")):
        score_batch(job(tmp_path, score={"source": "rows.npy"}))
    with pytest.raises(UserError, match=names("score: {source:")):
        score_batch(job(tmp_path))
    assert os.listdir(tmp_path) == ["rows.npy"]
