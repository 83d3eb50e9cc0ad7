"""A search for each group of rows: as jobs of the rows of each."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr

import gmm_dask
from gmm_dask.errors import UserError
from messages import names
from pipeline.config.job import JobConfig, load_config
from pipeline.fit.groups.plan import plan_groups
from pipeline.fit.groups.search import GroupSearch
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job, grid_of
from pipeline.progress import GroupsDone
from pipeline.report.page import write_report
from pipeline.score.group_scores import score_groups
from pipeline.score.settings import ScoreSettings
from pipeline.sources import open_source
from pipeline.sources.group_keys import KeyColumn, open_group_keys
from pipeline.sources.partition import partition_rows
from pipeline.store import open_result, rows_folder
from pipeline.store.groups.values import GroupValues
from runs import Stop, everything_in

COLUMNS = ["a", "b"]


def rows_of_group(number, n_rows=160):
    rng = np.random.default_rng(number)
    centers = rng.normal(0.0, 6.0, (1 + number % 3, 2))
    return centers[rng.integers(len(centers), size=n_rows)] + rng.normal(0.0, rng.uniform(0.5, 1.5, 2), (n_rows, 2))


@pytest.fixture(scope="module")
def frame():
    """Six groups in mixed order, one row of a group of its own, and three rows of none."""
    parts = [pd.DataFrame(rows_of_group(i), columns=COLUMNS).assign(store=i + 3) for i in range(6)]
    parts.append(pd.DataFrame({"a": [0.0], "b": [0.0], "store": [90]}))
    mixed = pd.concat(parts).sample(frac=1.0, random_state=0)
    without = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]})
    found = pd.concat([mixed, without], ignore_index=True).assign(weight=np.linspace(0.5, 1.5, len(mixed) + 3))
    return found.astype({"store": "Int64"})


def job(folder, source, *, data=(), search=(), output=(), **sections):
    return JobConfig.model_validate(
        {
            "data": {"source": str(source), "by": "store", "columns": COLUMNS, "chunk_rows": 300, **dict(data)},
            "search": {
                "n_components": [1, 2, 3],
                "covariance_types": ["full", "diag"],
                "init_params": "kmeans",
                **dict(search),
            },
            "output": {"store": str(folder / "job.zarr"), "log_density": True, "report": False, **dict(output)},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory, frame):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    frame.to_parquet(path, index=False, row_group_size=300)
    return path


@pytest.fixture(scope="module")
def summary(tmp_path_factory, source):
    return run(job(tmp_path_factory.mktemp("job"), source, output={"responsibilities": True, "report": True}))


def stored_rows(result, name="rows"):
    return xr.open_zarr(result.store, group=name, consolidated=False)


def alone(tmp_path, rows, **settings):
    """The job of some rows alone, whose components continue none of an earlier one."""
    folder = tmp_path / f"alone-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    rows.to_parquet(folder / "rows.parquet", index=False)
    config = job(folder, folder / "rows.parquet", **settings)
    return run(config.model_copy(update={"data": config.data.model_copy(update={"by": None})}))


def require_same(view, single):
    """Require that a group's result is that of a job of its rows."""
    assert view.best == single.best
    numbers = single.table.select_dtypes(np.number).columns.difference(["slim_gain", "slim_price"])
    np.testing.assert_allclose(view.table[numbers], single.table[numbers], rtol=1e-9, atol=1e-9)
    assert view.table["status"].tolist() == single.table["status"].tolist()
    mixtures = [result.best_model.unscaled[1].arrays().values() for result in (view, single)]
    for mine, other in zip(*mixtures, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-12)
    assert view.n_rows == single.n_rows
    assert view.mean_log_likelihood == pytest.approx(single.mean_log_likelihood, rel=1e-9)


def test_groups_are_as_jobs_of_their_rows(tmp_path, frame, summary):
    assert summary.found.keys == ("3", "4", "5", "6", "7", "8", "90")
    labels, density = (stored_rows(summary)[name].to_numpy() for name in ("label", "log_density"))
    for store in (3, 5, 7):
        mine = (frame["store"] == store).fillna(value=False).to_numpy(bool)
        single = alone(tmp_path, frame[mine])
        require_same(summary.group(store), single)
        np.testing.assert_array_equal(labels[mine], stored_rows(single)["label"])
        np.testing.assert_allclose(density[mine], stored_rows(single)["log_density"], rtol=1e-9)
    none = frame["store"].isna().to_numpy() | (frame["store"] == 90).fillna(value=False).to_numpy(bool)
    assert set(labels[none]) == {-1}
    assert np.isnan(density[none]).all()
    assert summary.row_summary.unusable == none.sum() == 4


@pytest.mark.parametrize(
    ("data", "search"),
    [
        ({"weights": "weight"}, {"n_init": 2}),
        ({"scale": "standard"}, {"held_out": 0.3, "accelerate": True}),
        ({"missing": "drop"}, {"covariance_types": ["spherical", "VEE"]}),
        ({}, {"inference": "variational", "n_components": [3]}),
        ({}, {"init_params": "auto", "start_effort": 0.05}),
        ({"missing": "drop", "weights": "weight"}, {"held_out": 0.3}),
        ({"transform": [{"arcsinh": 2.0}, {"scale": "robust"}, "pca"]}, {"held_out": 0.3}),
        ({"transform": ["scale", {"pca": 0.6}], "weights": "weight"}, {"covariance_types": ["spherical", "full"]}),
        ({"transform": ["scale", {"clip": {"minimum": -1}}]}, {"inference": "variational", "n_components": [3]}),
        ({"transform": [{"log": {"columns": ["a"]}}], "missing": "drop"}, {"held_out": 0.3}),
        ({"scale": "standard", "missing": "drop"}, {"noise": True, "n_components": [1, 2]}),
        ({"transform": [{"arcsinh": 2.0}, "pca"]}, {"noise": [False, True], "n_components": [1, 2]}),
    ],
)
def test_settings_apply_to_each_group(tmp_path, frame, data, search):
    rows = frame[frame["store"].isin([4, 5])].reset_index(drop=True)
    if data.get("missing"):
        rows.loc[[0, 7, 30], "b"] = np.nan
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    found = run(job(tmp_path, tmp_path / "rows.parquet", data=data, search=search))
    labels = stored_rows(found)["label"].to_numpy()
    for store in (4, 5):
        mine = (rows["store"] == store).to_numpy(bool)
        single = alone(tmp_path, rows[mine], data=data, search=search)
        require_same(found.group(store), single)
        np.testing.assert_array_equal(labels[mine], stored_rows(single)["label"])
        assert found.group(store).held_out_rows == single.held_out_rows


def test_what_follows_knows_the_transform_of_each_group(tmp_path, frame):
    rows = frame[frame["store"].isin([4, 5])].reset_index(drop=True).assign(a=lambda table: np.exp(table["a"]))
    rows.loc[[3, 8], "a"] = -1.0
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    steps = [{"log": {"columns": ["a"]}}, "scale", {"pca": 0.7}]
    data = {"transform": steps, "missing": "drop"}
    found = run(job(tmp_path, tmp_path / "rows.parquet", data=data, output={"report": True}))
    stored = stored_rows(found).load()
    assert set(np.flatnonzero(stored.label.to_numpy() == -1)) == {3, 8}
    assert sum(found.overview["n_left_out"]) == 2
    score_groups(found.store, str(tmp_path / "rows.parquet"), tmp_path / "scores.zarr")
    scores = xr.open_zarr(tmp_path / "scores.zarr", group="rows", consolidated=False)
    np.testing.assert_allclose(scores.log_density, stored.log_density, rtol=1e-9, atol=1e-9)
    for store in (4, 5):
        mine = (rows["store"] == store).to_numpy(bool) & (rows["a"] > 0.0).to_numpy()
        view, loaded = found.group(store), gmm_dask.load(found.store, group=store)
        np.testing.assert_array_equal(loaded.predict(rows.loc[mine, COLUMNS]), stored.label[mine])
        assert view.transform_note.startswith("the features of the fit are pc1")
        page = write_report(found.store, group=str(store))
        assert "The components in the units of the data" in Path(page).read_text()
    told = ScoreSettings.from_overrides(["data.missing=error"])
    with pytest.raises(UserError, match=names("data.transform", "'a'", "log", "data.missing=drop")):
        score_groups(found.store, str(tmp_path / "rows.parquet"), tmp_path / "other.zarr", settings=told)


@pytest.mark.parametrize("noise", [True, 2000.0])
def test_noise_of_groups_is_told_apart(tmp_path, frame, noise):
    rows = frame[frame["store"].isin([4, 5])].reset_index(drop=True)
    rows.loc[::20, COLUMNS] = np.random.RandomState(0).uniform(-30.0, 30.0, (len(rows[::20]), 2))
    rows.loc[[3, 8], "a"] = np.nan
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    search, output = {"noise": noise, "n_components": [1, 2]}, {"responsibilities": True, "report": True}
    config = job(tmp_path, tmp_path / "rows.parquet", data={"missing": "drop"}, search=search, output=output)
    found = run(config)
    stored = stored_rows(found).load()
    assert set(np.flatnonzero(stored.label == -2)) == {3, 8}
    assert stored.component.to_numpy()[-1] == -1
    assert found.row_summary.noise == np.count_nonzero(stored.label == -1) > 10
    for store in (4, 5):
        mine = (rows["store"] == store).to_numpy(bool) & rows["a"].notna().to_numpy()
        loaded = gmm_dask.load(found.store, group=store)
        chosen = rows.loc[mine, COLUMNS]
        np.testing.assert_array_equal(loaded.predict(chosen), stored.label[mine])
        mixed = stored.responsibility[mine].to_numpy()
        k = loaded.n_components
        np.testing.assert_allclose(mixed[:, [*range(k), -1]], loaded.predict_proba(chosen), rtol=1e-9, atol=1e-12)
        assert not mixed[:, k:-1].any()
        if noise is not True:
            assert loaded.noise_volume_ == pytest.approx(noise)
        view = found.group(store)
        assert view.best.endswith("-noise")
    groups = stored_rows(found, "groups").load()
    assert (groups.noise_weight > 0.0).all()
    np.testing.assert_allclose(groups.weights.sum("component") + groups.noise_weight, 1.0)
    score_groups(found.store, str(tmp_path / "rows.parquet"), tmp_path / "scores.zarr")
    scores = xr.open_zarr(tmp_path / "scores.zarr", group="rows", consolidated=False)
    np.testing.assert_array_equal(scores.label, stored.label)


def test_a_group_whose_values_no_step_takes_has_no_model(tmp_path, frame):
    rows = frame[frame["store"].isin([4, 5])].assign(a=lambda table: np.where(table["store"] == 4, -1.0, 1.0))
    rows = rows.assign(a=lambda table: table["a"] * np.exp(table["b"]))
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    found = run(job(tmp_path, tmp_path / "rows.parquet", data={"transform": [{"log": {"columns": ["a"]}}]}))
    message = found.overview.set_index("group").loc["4", "message"]
    assert re.search(names("data.transform", "group 4", "160 in 'a'", "greater than 0"), message)


def write(kind, folder, frame):
    """The rows in a format, and the name that the column of groups has there."""
    path = folder / f"rows.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "npy":
        np.save(path, frame[[*COLUMNS, "store"]].astype(float).to_numpy())
        return path, {"by": "x2", "columns": None}
    elif kind == "texts":
        path = folder / "rows.parquet"
        frame.assign(store=[None if pd.isna(s) else f"no. {s}" for s in frame["store"]]).to_parquet(path, index=False)
    else:
        for store, rows in frame.groupby("store", dropna=False):
            part = folder / "hive" / f"store={'__HIVE_DEFAULT_PARTITION__' if pd.isna(store) else store}"
            part.mkdir(parents=True)
            rows.drop(columns="store").to_parquet(part / "a.parquet", index=False)
        return folder / "hive", {}
    return path, {}


@pytest.mark.parametrize("kind", ["csv", "npy", "texts", "hive"])
def test_columns_of_groups_in_formats(tmp_path, frame, summary, kind):
    path, data = write(kind, tmp_path, frame)
    config = job(tmp_path, path, data=data)
    assert estimate_job(config).n_groups == (7 if kind == "hive" else None)
    found = run(config)
    assert found.groups.n_without == 3
    keys = [f"no. {key}" if kind == "texts" else key for key in summary.found.keys]
    assert list(found.found.keys) == sorted(keys) if kind == "texts" else keys
    for key in summary.found.keys[:-1]:
        view = found.group(f"no. {key}" if kind == "texts" else key)
        if kind != "hive":  # whose rows are in another order
            np.testing.assert_array_equal(view.criteria["bic"], summary.group(key).criteria["bic"])
        assert view.best == summary.group(key).best
    if kind != "hive":
        np.testing.assert_array_equal(stored_rows(found)["label"], stored_rows(summary)["label"])


def test_a_stopped_run_goes_on_with_the_missing_groups(tmp_path, source, summary, monkeypatch):
    config, searched = job(tmp_path, source, output={"responsibilities": True}), []
    monkeypatch.setattr("pipeline.fit.groups.job.WAVE_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.fit.groups.job.LEAST_PER_THREAD", 1)

    def stop(event):
        if isinstance(event, GroupsDone):
            searched.append(event)
            raise Stop

    with dask.config.set(num_workers=1), pytest.raises(Stop):
        run(config, progress=stop)
    before = open_result(config.output.store, unfinished=True)
    assert (before.n_done, searched[0].timed) == (1, 0)  # which waited for the kernels
    with dask.config.set(num_workers=1):
        found = run(config, progress=searched.append)
    done = [event for event in searched[1:] if isinstance(event, GroupsDone)]
    assert [event.done for event in done] == [2, 3, 4, 5, 6, 7]
    assert done[-1].timed == 5
    # to the bits, on another number of threads
    assert everything_in(found.store)[0] == everything_in(summary.store)[0]
    again = run(config)
    assert again.reused


def test_rows_by_group_in_files(tmp_path, source, summary):
    config, seen = job(tmp_path, source, data={"cache": str(tmp_path / "fast")}), []

    def look(event):
        if isinstance(event, GroupsDone):
            seen.extend(path.name for path in (tmp_path / "fast/job.zarr-cache").glob("*.rows"))

    found = run(config, progress=look)
    assert set(seen) == {f"{i}.rows" for i in range(4)}
    assert not list((tmp_path / "fast").iterdir())
    for name in ("groups/candidates", "groups"):
        xr.testing.assert_identical(stored_rows(found, name).load(), stored_rows(summary, name).load())


def test_changed_rows_are_not_mixed(tmp_path, frame):
    path = tmp_path / "rows.csv"
    frame.to_csv(path, index=False)
    config = job(tmp_path, path)

    def stop(event):
        if isinstance(event, GroupsDone):
            raise Stop

    with pytest.raises(Stop):
        run(config, progress=stop)
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *lines[::-1], ""]))
    with pytest.raises(UserError, match=names("data.source", "groups", "--fresh")):
        run(config)
    assert run(config, fresh=True).groups.n_groups == 7


def test_large_groups_take_passes(tmp_path, source, frame):
    """In chunks, and in waves of fits, a group has the same result."""
    config = job(tmp_path, source)
    opened = open_source(config.data)
    partition = partition_rows(opened, open_group_keys(config.data, opened))
    search = GroupSearch(config.search, config.data, partition.keys, tuple(COLUMNS), tuple(grid_of(config)), 50)
    mine = partition.rows(1)[0]
    np.testing.assert_array_equal(mine, frame.loc[(frame["store"] == 4).fillna(value=False), COLUMNS])
    chunks = partition.chunks(1, 16 * 40)
    assert 1 < len(chunks.pieces) <= 4
    plain = search.in_memory(1, mine, None)
    passes = search.by_passes(1, chunks, partition.selection, lambda data_summary: (2, 4))
    assert passes.best == plain.best
    np.testing.assert_allclose(passes.numbers[:, :3], plain.numbers[:, :3], rtol=1e-9)
    np.testing.assert_allclose(
        passes.model.state.parameters.means, plain.model.state.parameters.means, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"search": {"extend": True}}, ("search.extend: expected false, got true", "data.by")),
        ({"search": {"resamples": 5}}, ("search.resamples: expected 0, got 5", "data.by")),
        ({"data": {"missing": "likelihood"}}, ("data.missing: expected", "got likelihood", "data.by")),
        ({"data": {"variables": ["temp"]}}, ("data.variables", "data.by")),
        ({"output": {"clusters": "merged"}}, ("output.clusters", "data.by")),
        ({"output": {"anomaly_quantile": 0.1}}, ("output.anomaly_quantile", "data.by")),
    ],
)
def test_what_does_not_go_with_groups_is_refused(tmp_path, source, sections, expected):
    config = job(tmp_path, source, **sections)
    for check in (run, estimate_job):
        with pytest.raises(UserError, match=names(*expected)):
            check(config)
    assert not (tmp_path / "job.zarr").exists()


def test_a_refresh_is_refused(tmp_path):
    (tmp_path / "job.yaml").write_text(
        "data: {source: rows.parquet, by: store}\noutput: {store: 'a-{started:%Y-%m-%d}.zarr'}\n"
        "schedule: {cron: '0 2 * * *', flow: refresh}\n"
    )
    with pytest.raises(UserError, match=names("schedule.flow", "data.by")):
        load_config(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"by": "stores"}, ("data.by", "stores", "store")),
        ({"by": "weight"}, ("data.by", "weight", "whole numbers")),
        ({"missing": "error", "broken": True}, ("data.missing", "'b'", "drop")),
    ],
)
def test_columns_that_are_of_no_use(tmp_path, frame, change, expected):
    rows = frame.copy()
    if change.pop("broken", False):
        rows.loc[5, "b"] = np.inf
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    config = job(tmp_path, tmp_path / "rows.parquet", data=change)
    with pytest.raises(UserError, match=names(*expected)):
        run(config)
    if "by" in change:  # and before anything is made
        assert not (tmp_path / "job.zarr").exists()
        with pytest.raises(UserError, match=names(*expected)):
            estimate_job(config)


def test_groups_without_a_model_and_unknown_groups(summary):
    table = summary.overview.set_index("group")
    assert table.loc["90", "status"] == "failed"
    assert "at least two" in table.loc["90", "message"]
    assert table.loc["90", "n_rows"] == 1
    assert summary.n_rows == summary.total_weight == table["n_rows"].sum() == 961
    assert summary.groups.failed == 1
    with pytest.raises(UserError, match=names("90", "at least two")):
        summary.group(90)
    with pytest.raises(UserError, match=names("'44'", "4")):
        gmm_dask.load(summary.store, group=44)
    with pytest.raises(UserError, match=names("store", "--group", "group=")):
        gmm_dask.load(summary.store)
    with pytest.raises(UserError, match=names("full-k9")):
        gmm_dask.load(summary.store, "full-k9", group=4)


def test_large_whole_numbers_are_groups(tmp_path, frame):
    rows = frame[frame["store"].isin([4, 5])].astype({"store": "uint64"})
    rows["store"] += np.uint64(2**63)
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    found = run(job(tmp_path, tmp_path / "rows.parquet", search={"n_components": [1], "covariance_types": ["diag"]}))
    keys = [2**63 + 4, 2**63 + 5]
    stored = stored_rows(found, "groups")["group"].to_numpy()
    assert (stored.dtype, stored.tolist()) == (np.uint64, keys)
    assert found.group(keys[1]).n_rows == 160


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (pa.timestamp("us"), ["2026-01-01", "2026-01-01 10:30:00", "2026-01-01 10:30:00.5"]),
        (pa.timestamp("ns", "UTC"), ["2026-01-01 00:00:00Z", "2026-01-01 10:30:00Z", "2026-01-01 10:30:00.5Z"]),
        (
            pa.timestamp("ms", "Asia/Tokyo"),
            [f"2026-01-01 {hour}+0900" for hour in ("09:00:00", "19:30:00", "19:30:00.5")],
        ),
        (pa.time64("us"), ["00:00:00", "10:30:00", "10:30:00.5"]),
        (pa.date64(), ["2026-01-01"] * 3),
        (pa.string(), ["2026-01-01 00:00:00.000", "2026-01-01 10:30:00.000", "2026-01-01 10:30:00.500"]),
    ],
    ids=str,
)
def test_dates_are_groups_without_zeros_that_say_nothing(kind, texts):
    moments = pa.array(np.array(["2026-01-01T00:00", "2026-01-01T10:30", "2026-01-01T10:30:00.5"], "M8[ms]"))
    found = KeyColumn("at", "rows", lambda number: moments.cast(kind))(0)
    assert [found.keys[code] for code in found.codes] == texts
    assert len(found.keys) == len(set(texts))


@pytest.mark.parametrize(
    ("groups", "known", "unknown"),
    [
        (("7", "-3"), (7.0, "7", "7.0", "-3.", " 7", np.int8(7)), ("7.5", "07", "9", "seven", True)),
        (("1.0", "2.0"), (1, "1", 2.0), (3, "1.5")),
        (("false", "true"), (True, "True", "FALSE", np.bool_(False), "1", 0), ("yes", 2)),
        (
            ("2026-01-01 00:00:00.000000", "2026-01-02 00:00:00.000000"),
            ("2026-01-01", pd.Timestamp("2026-01-02"), "2026-01-01T00:00:00", "2026-01-01 00:00"),
            ("2026-01-01 00:00:01", "2026-01-01 00:00:00Z", "2026-13-01", "2026"),
        ),
        (("2026-01-01 00:00:00Z",), ("2026-01-01T01:00:00+01:00",), ("2026-01-01",)),
        (("007", "7"), (7, "007"), ("7.0", "07")),
        (("a", "True"), ("a", "True"), ("true", "A", " a")),
    ],
)
def test_values_are_read_as_the_groups_are(groups, known, unknown):
    values = GroupValues.of(groups)
    assert None not in [values.position(value) for value in known]
    assert {values.position(value) for value in unknown} == {None}


def test_scores_of_another_format_are_the_same(tmp_path, frame, summary):
    frame.astype({"store": float}).to_csv(tmp_path / "rows.csv", index=False)
    assert ",4.0," in (tmp_path / "rows.csv").read_text()
    scores = score_groups(summary.store, str(tmp_path / "rows.csv"), tmp_path / "scores.zarr")
    assert (scores.n_groups, scores.unknown, scores.n_without, scores.warning) == (6, {"90": 1}, 3, "")
    labels = xr.open_zarr(scores.out, group="rows", consolidated=False)["label"]
    np.testing.assert_array_equal(labels, stored_rows(summary)["label"])


def test_a_group_is_loaded_as_an_estimator(summary, frame):
    mixture = gmm_dask.load(summary.store, group=4)
    mine = (frame["store"] == 4).fillna(value=False).to_numpy(bool)
    rows = stored_rows(summary)
    np.testing.assert_array_equal(mixture.predict(frame.loc[mine, COLUMNS]), rows["label"].to_numpy()[mine])
    found = mixture.predict_proba(frame.loc[mine, COLUMNS])
    stored = rows["responsibility"].to_numpy()[mine]
    np.testing.assert_allclose(stored[:, : found.shape[1]], found, atol=1e-6)
    assert not stored[:, found.shape[1] :].any()
    groups = stored_rows(summary, "groups").sel(group=4)
    np.testing.assert_allclose(groups["means"].to_numpy()[: mixture.n_components], mixture.means_)
    assert np.isnan(groups["weights"].to_numpy()[mixture.n_components :]).all()


def test_remarks_advise_what_groups_can_do(summary):
    remarks = [remark for key in summary.found.keys[:-1] for remark in summary.group(key).remarks]
    assert any("Widen n_components." in remark for remark in remarks)
    assert not any("extend" in remark for remark in remarks)


def test_rows_as_files_with_keys(tmp_path, source, summary):
    found = run(job(tmp_path, source, output={"rows": "parquet", "key_columns": ["store"]}))
    rows = pd.read_parquet(rows_folder(found.store))
    np.testing.assert_array_equal(rows["label"], stored_rows(summary)["label"])
    assert rows["store"].isna().sum() == 3


def test_memory_counts_the_results(tmp_path, source):
    config = job(tmp_path, source)
    opened = open_source(config.data)
    plan = plan_groups(config, opened)
    partition = partition_rows(opened, open_group_keys(config.data, opened))
    limit = plan.needed_bytes + plan.results_bytes(7, 100) // 2
    short = replace(plan, machine=replace(plan.machine, memory_limit=limit))
    with pytest.raises(UserError, match=names("cluster.memory_limit", "7 groups")):
        short.require_results(partition, 100)
    plan.require_results(partition, 100)


@pytest.mark.slow
def test_workers_search_the_same_groups(tmp_path, source, summary):
    cluster = {"kind": "local", "workers": 2, "threads_per_worker": 1}
    found = run(job(tmp_path, source, output={"responsibilities": True}, cluster=cluster))
    assert everything_in(found.store)[0] == everything_in(summary.store)[0]
