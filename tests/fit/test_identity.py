"""Components that keep their numbers from night to night."""

import re
import shutil
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import zarr

from messages import names
from nightly import nightly_job
from pipeline import store
from pipeline.fit.job import run
from pipeline.fit.refresh import refresh
from pipeline.progress import Message
from pipeline.score.new_rows import score
from pipeline.store.attributes import RunStatus
from ten_nights import GROUPS, NIGHTS, KnownGroups, numbers_of, rows_of_night, shares


@pytest.fixture
def night(tmp_path, monkeypatch):
    """A function that runs a job as if in the night of a day, with rows of groups; returns result and groups."""
    dates = iter(range(1, 31))

    class Clock:
        @staticmethod
        def now(zone=None):
            return datetime(2026, 11, next(dates), 2, tzinfo=zone)

    monkeypatch.setattr("pipeline.store.paths.datetime", Clock)

    def work(of_groups, seed, how=run, **sections):
        rows, groups = rows_of_night(of_groups, seed)
        np.save(tmp_path / "rows.npy", rows)
        search = {"n_components": [3, 4, 5], "covariance_types": ["diag"], **sections.pop("search", {})}
        found = how(nightly_job(tmp_path, search=search, **sections))
        return getattr(found, "summary", found), groups

    return work


def equal_shares(names):
    return dict.fromkeys(names, 1.0 / len(names))


def test_after_a_search_components_keep_their_numbers_and_new_ones_get_new_ones(night):
    first, groups = night({"a": 0.5, "b": 0.3, "c": 0.2}, 0)
    assert numbers_of(first, groups) == {"a": 0, "b": 1, "c": 2}  # by weight
    assert first.identity == store.Identity(line=first.identity.line, next_number=3)
    second, groups = night({"a": 0.2, "c": 0.35, "e": 0.45}, 1)
    assert numbers_of(second, groups) == {"a": 0, "c": 2, "e": 3}
    model = second.best_model
    assert model.numbers == (0, 2, 3)
    np.testing.assert_allclose(model.in_units[1].means, [GROUPS[one] for one in "ace"], atol=0.3)
    np.testing.assert_allclose(second.weights, (0.2, 0.35, 0.45), atol=0.05)
    identity = second.identity
    assert (identity.line, identity.earlier, identity.next_number) == (first.identity.line, first.store, 4)
    assert [one.number for one in identity.continued] == [0, 2]
    assert max(one.distance for one in identity.continued) < 0.05
    assert (identity.new, identity.gone) == ((3,), (1,))
    assert identity.changed == pytest.approx(0.45, abs=0.05)
    third, groups = night({"b": 0.6, "c": 0.2, "e": 0.2}, 2)
    assert numbers_of(third, groups) == {"b": 4, "c": 2, "e": 3}  # 0 and 1 are not given again
    assert third.row_summary.labels == (2, 3, 4)
    assert dict(zip(third.row_summary.labels, third.row_summary.label_counts, strict=True)) == {
        number: int(np.count_nonzero(groups == one)) for number, one in ((2, "c"), (3, "e"), (4, "b"))
    }


def test_a_refit_keeps_the_numbers_whatever_the_weights_are(night):
    bounds = {"refresh": {"drift": 100.0}}
    first, groups = night({"a": 0.5, "b": 0.3, "c": 0.2}, 0, refresh, **bounds)
    second, others = night({"a": 0.2, "b": 0.3, "c": 0.5}, 1, refresh, **bounds)
    assert not second.refresh.searched
    assert numbers_of(second, others) == numbers_of(first, groups) == {"a": 0, "b": 1, "c": 2}
    assert [one.number for one in second.identity.continued] == [0, 1, 2]
    assert second.identity.changed < 0.01


def test_a_refit_that_moved_far_is_told(night):
    bounds = {"refresh": {"drift": 100.0}}
    night({"a": 0.5, "b": 0.3, "c": 0.2}, 0, refresh, **bounds)
    second, groups = night({"a": 0.5, "b": 0.3, "d": 0.2}, 1, refresh, **bounds)
    assert numbers_of(second, groups) == {"a": 0, "b": 1, "d": 2}
    assert "far" in second.identity.remark
    assert second.identity.remark.endswith("2")
    assert second.identity.note.endswith(second.identity.remark)


def test_a_run_tells_in_its_log_who_is_who(night, tmp_path):
    night(equal_shares("abc"), 0)
    events = []
    rows, _ = rows_of_night(equal_shares("abe"), 1)
    np.save(tmp_path / "rows.npy", rows)
    config = nightly_job(tmp_path, search={"n_components": [3], "covariance_types": ["diag"]})
    result = run(config, progress=events.append)
    (message,) = (event for event in events if isinstance(event, Message) and event.name == "components")
    assert message.detail == result.identity.note
    for part in ("2 of 3", result.identity.earlier, "new: 3", "gone: "):
        assert part in message.detail


def test_fresh_continues_the_store_that_it_replaces(tmp_path):
    store_path = {"store": str(tmp_path / "one.zarr")}
    config = nightly_job(tmp_path, search={"n_components": [3], "covariance_types": ["diag"]}, output=store_path)
    for seed, of_groups in enumerate(({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.2, "b": 0.3, "c": 0.5})):
        rows, groups = rows_of_night(of_groups, seed)
        np.save(tmp_path / "rows.npy", rows)
        assert numbers_of(run(config, fresh=True), groups) == {"a": 0, "b": 1, "c": 2}


def test_other_jobs_and_unfinished_stores_are_not_continued(night, tmp_path):
    of_groups = {"a": 0.5, "b": 0.3, "c": 0.2}
    other, _ = night(of_groups, 0, name="other")
    assert "night" not in other.store
    shutil.copytree(other.store, tmp_path / "night-2026-10-30.zarr")  # of the other job, at a path of this one
    first, _ = night(of_groups, 1)
    assert first.identity.earlier is None
    store.update_attributes(first.store, status=RunStatus.RUNNING)
    second, _ = night({"a": 0.2, "b": 0.3, "c": 0.5}, 2)
    assert second.identity.earlier is None
    assert second.weights == tuple(sorted(second.weights, reverse=True))


def test_other_columns_begin_new_numbers(tmp_path):
    rows, _ = rows_of_night(equal_shares("abc"), 0)
    output = {"store": str(tmp_path / "one.zarr")}
    search = {"n_components": [3], "covariance_types": ["diag"]}
    np.save(tmp_path / "rows.npy", rows)
    config = nightly_job(tmp_path, search=search, output=output)
    run(config)
    np.save(tmp_path / "rows.npy", np.column_stack([rows, rows[:, 0]]))
    found = run(config, fresh=True)
    assert found.best_model.numbers == (3, 4, 5)
    assert found.identity.new == (3, 4, 5)
    assert "x0, x1" in found.identity.note


@pytest.mark.parametrize("lost", ["model", "attributes"])
def test_fresh_replaces_a_damaged_store_and_says_what_became_of_the_numbers(tmp_path, lost):
    rows, _ = rows_of_night(equal_shares("abc"), 0)
    np.save(tmp_path / "rows.npy", rows)
    output = {"store": str(tmp_path / "one.zarr")}
    config = nightly_job(tmp_path, search={"n_components": [3], "covariance_types": ["diag"]}, output=output)
    path = run(config).store
    if lost == "model":
        shutil.rmtree(f"{path}/models/diag-k3/means")
    else:
        store.update_attributes(path, identity=None)
    events = []
    found = run(config, fresh=True, progress=events.append)
    assert found.best_model.numbers == ((3, 4, 5) if lost == "model" else (0, 1, 2))
    said = [event.detail for event in events if isinstance(event, Message)]
    assert any(re.search(names("components", path, "damaged"), detail) for detail in said)


def test_numbers_are_in_every_output(night, tmp_path):
    night(equal_shares("abc"), 0)
    output = {"responsibilities": True}
    second, groups = night({"a": 0.2, "c": 0.35, "e": 0.45}, 1, output=output)
    number = numbers_of(second, groups)
    group = zarr.open_group(second.store, mode="r")
    numbers = second.best_model.numbers
    np.testing.assert_array_equal(group["rows/component"][...], numbers)
    np.testing.assert_array_equal(group[f"models/{second.best}/component"][...], numbers)
    responsibility = group["rows/responsibility"][...]
    np.testing.assert_array_equal(np.array(numbers)[responsibility.argmax(axis=1)], group["rows/label"][...])
    np.testing.assert_array_equal(np.unique(group["sample/label"][...]), numbers)
    assert set(np.unique(second.sample.label)) == {0, 1, 2}  # positions in the model, for readers
    rows, of_rows = rows_of_night(equal_shares("ae"), 5)
    pd.DataFrame(rows, columns=["x0", "x1"]).to_parquet(tmp_path / "new.parquet")
    found = score(second.store, str(tmp_path / "new.parquet"), tmp_path / "scores.parquet")
    table = pd.read_parquet(tmp_path / "scores.parquet")
    for one in "ae":
        assert np.bincount(table["label"][of_rows == one]).argmax() == number[one]
    assert {f"responsibility_{n}" for n in numbers} < set(table.columns)
    assert tuple(one.number for one in found.components) == numbers
    (gone,) = (line for line in found.drift if f"component {number['c']}:" in line)
    assert "share" in gone


def test_a_resumed_run_gives_the_same_numbers(night, tmp_path, monkeypatch):
    night({"a": 0.5, "b": 0.3, "c": 0.2}, 0)
    of_groups = {"a": 0.2, "c": 0.35, "e": 0.45}

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.fit.job.write_row_outputs", fail)
        with pytest.raises(KeyboardInterrupt):
            night(of_groups, 1)
    resumed = run(nightly_job(tmp_path, search={"n_components": [3, 4, 5], "covariance_types": ["diag"]}))
    assert resumed.attempts == 2
    assert numbers_of(resumed, rows_of_night(of_groups, 1)[1]) == {"a": 0, "c": 2, "e": 3}
    assert resumed.identity.next_number == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", [run, refresh], ids=["search", "refresh"])
def test_ten_nights(night, how):
    known = KnownGroups()
    for n in range(NIGHTS):
        known.check(n, *night(shares(n), n, how))
    assert known.numbers["e"] == 4
    assert {known.numbers[name] for name in "abcd"} == {0, 1, 2, 3}
