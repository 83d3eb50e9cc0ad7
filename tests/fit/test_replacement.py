"""``--fresh``: a complete result stays as it is until the one that replaces it is complete, whatever happens."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gmm_dask import UserError
from messages import names
from pipeline.config.job import JobConfig, load_config
from pipeline.fit.job import run
from pipeline.report import has_report
from pipeline.store import is_locked, lock, open_result, replacement_of, rows_folder
from pipeline.store.paths import report_folder
from pipeline.store.retention import remove_store
from runs import JOB, Stop, everything_in, kill_after, stop_at


def job(k=2, **output):
    """A quick job in the current directory, its rows as Parquet files."""
    output = {"store": "r.zarr", "rows": "parquet", "key_columns": ["id"], "report": False, **output}
    values = {
        "name": "j",
        "data": {"source": "x.parquet", "columns": ["a", "b"]},
        "search": {"n_components": [k], "covariance_types": ["full"], "init_params": "kmeans", "tol": 1e-9},
        "output": output,
    }
    return JobConfig.model_validate(values)


def rows_of(path):
    return pd.read_parquet(rows_folder(path))


def beside(path):
    """What lies in the folder of a store, without the data and the lock."""
    return sorted(p.name for p in Path(path).parent.iterdir() if p.name not in ("x.parquet", "r.zarr.lock"))


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A folder with rows and a complete store of them."""
    folder, rng = tmp_path_factory.mktemp("complete"), np.random.default_rng(0)
    x = np.vstack([rng.normal(0, 1, (120, 2)), rng.normal(6, 1, (80, 2))])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pd.DataFrame(x, columns=["a", "b"]).assign(id=np.arange(200)).to_parquet("x.parquet")
        run(job())
    return folder


@pytest.fixture
def before(tmp_path, monkeypatch, complete):
    """A complete store in the current directory, and all that is in it."""
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return "r.zarr", everything_in("r.zarr"), rows_of("r.zarr")


def assert_untouched(before):
    path, contents, rows = before
    assert everything_in(path) == contents
    pd.testing.assert_frame_equal(rows_of(path), rows)


def test_rows_that_cannot_be_used_leave_the_result(tmp_path, before):
    frame = pd.read_parquet(tmp_path / "x.parquet")
    frame.loc[7, "a"] = np.nan
    frame.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=names("data.missing", "'a'")):
        run(job(), fresh=True)
    assert_untouched(before)


def test_a_stopped_run_leaves_the_result_and_is_resumed(before):
    path = before[0]
    with pytest.raises(Stop):
        run(job(3), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    assert_untouched(before)
    events = []
    summary = run(job(3), progress=events.append)
    assert replacement_of(path) in next(event.detail for event in events if getattr(event, "name", "") == "resume")
    assert (summary.store, summary.best, summary.reused) == (path, "full-k3", False)
    assert summary.config["output"]["store"] == path
    assert rows_of(path)["label"].nunique() == 3
    assert beside(path) == ["r.zarr", "r.zarr-rows"]
    assert run(job(3)).reused


@pytest.mark.slow
def test_a_killed_run_leaves_the_result_and_is_resumed(before):
    Path("job.json").write_text(job(3).model_dump_json())
    script = JOB.replace("checkpoint_seconds", "fresh=True, checkpoint_seconds")
    process = subprocess.Popen([sys.executable, "-c", script, "job.json", "search.tol=0.0", "search.max_iter=4000"])
    kill_after(process, Path("r.zarr.fresh"), 5, 0.0)
    assert_untouched(before)
    again = load_config("job.json", ["search.tol=0.0", "search.max_iter=4000"])
    with pytest.raises(Stop):  # it goes on where it was killed
        run(again, progress=stop_at(6), checkpoint_seconds=0.0)
    assert open_result("r.zarr.fresh", unfinished=True).attempts == 2
    assert_untouched(before)


def test_fresh_starts_over_a_stopped_run(before):
    with pytest.raises(Stop):
        run(job(3), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    summary = run(job(3), fresh=True)
    assert summary.attempts == 1
    assert beside(before[0]) == ["r.zarr", "r.zarr-rows"]


def test_a_stopped_run_of_another_job_is_not_resumed(before):
    with pytest.raises(Stop):
        run(job(3), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    assert run(job()).reused
    assert_untouched(before)


@pytest.mark.parametrize("moves", range(4))
def test_a_kill_while_the_result_is_replaced_is_made_good(before, monkeypatch, moves):
    """The process ends after so many of the moves: old rows, old store, new store, new rows."""
    path, left = before[0], [moves]

    def rename(self, target):
        if self.suffix == ".unfinished":  # the rows of the new store are written
            return move(self, target)
        if not left[0]:
            raise Stop
        left[0] -= 1
        return move(self, target)

    move = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr("shutil.move", rename)
        with pytest.raises(Stop):
            run(job(3), fresh=True)
    if moves < 2:  # with or without its rows, never with others
        assert everything_in(path) == before[1]
    summary = run(job(3))
    assert (summary.best, summary.reused) == ("full-k3", True)
    assert rows_of(path)["label"].nunique() == 3
    assert beside(path) == ["r.zarr", "r.zarr-rows"]


def test_the_report_of_the_old_result_goes_with_it(before):
    page = Path(report_folder(before[0])) / "index.html"
    page.parent.mkdir()
    page.write_text("old")
    (page.parent / "mine.txt").write_text("mine")
    with pytest.raises(Stop):
        run(job(3), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    assert page.read_text() == "old"
    run(job(3))
    assert not has_report(before[0])
    assert (page.parent / "mine.txt").exists()


def test_rows_that_are_arrays_now_leave_no_files(before):
    run(job(rows="zarr", key_columns=()), fresh=True)
    assert beside(before[0]) == ["r.zarr"]


def test_the_target_of_a_link_is_replaced(tmp_path, before):
    path = Path(before[0])
    (tmp_path / "disk").mkdir()
    path.rename(tmp_path / "disk/real.zarr")
    path.symlink_to("disk/real.zarr")
    with pytest.raises(Stop):
        run(job(3), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    assert (tmp_path / "disk/real.zarr.fresh").is_dir()
    run(job(3))
    assert path.is_symlink()
    assert open_result(tmp_path / "disk/real.zarr").best == "full-k3"
    assert rows_of(path)["label"].nunique() == 3
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["real.zarr", "real.zarr.lock"]


def test_a_dated_store_is_replaced_on_another_day(before):
    dated = "n-{started:%Y-%m-%dT%H%M%S}.zarr"
    path = run(job(store=dated)).store
    with pytest.raises(Stop):
        run(job(3, store=path), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    summary = run(job(3, store=dated))
    assert (summary.store, summary.best) == (path, "full-k3")


def test_a_link_to_the_store_is_one_to_the_new_result(before):
    Path("j-latest.zarr").symlink_to("r.zarr")
    run(job(3), fresh=True)
    assert open_result("j-latest.zarr").best == "full-k3"


def test_retention_removes_the_replacement_too(before):
    with pytest.raises(Stop):
        run(job(3), fresh=True, progress=stop_at(3), checkpoint_seconds=0.0)
    assert remove_store(before[0])
    assert not [name for name in beside(before[0]) if name.startswith("r.zarr")]


@pytest.mark.parametrize("place", ["r.zarr.fresh", "r.zarr-rows"])
def test_something_else_is_never_touched(tmp_path, before, place):
    thing = tmp_path / place / "mine.txt"
    thing.parent.mkdir(exist_ok=True)
    thing.write_text("mine")
    with pytest.raises(UserError, match=names(place)):
        run(job(3), fresh=True)
    assert thing.read_text() == "mine"
    assert everything_in(before[0]) == before[1]


def test_one_lock_holds_the_store_and_its_replacement(before):
    with lock(before[0]), pytest.raises(UserError, match=names("r.zarr.lock")):
        run(job(3), fresh=True)
    assert not is_locked(before[0])
