"""How many results of a job are kept."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from gmm_dask.errors import UserError
from messages import names
from nightly import nightly_job
from pipeline import store
from pipeline.config.job import load_config
from pipeline.fit.job import run
from pipeline.fit.refresh import refresh
from pipeline.progress import Message
from pipeline.score.batch import score_batch
from pipeline.store.paths import dated_now
from prefects import write_rows

OLD = [f"out/night-2026-01-0{day}T020000" for day in range(1, 5)]


def copies(source, suffix=".zarr", paths=OLD):
    """Older results, which are copies of one."""
    for path in paths:
        shutil.copytree(source, f"{path}{suffix}", dirs_exist_ok=True)


def left(folder="out"):
    return sorted(path.name for path in Path(folder).iterdir() if not path.name.endswith(".lock"))


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.npy")

    def make(**sections):
        time.sleep(1.0 - time.time() % 1.0)  # the names of stores tell seconds
        return nightly_job(Path(), **sections)

    return make


def test_a_run_removes_older_stores_with_what_lies_beside_them(job):
    first = run(job(output={"report": True}))
    copies(first.store)
    copies(first.report, ".zarr-report")
    shutil.copytree(first.store, "out/night-2026-01-02T020000.zarr-rows")
    events = []
    newest = run(job(search={"tol": 0.1}, output={"keep": 2}), progress=events.append)
    kept = sorted([Path(newest.store).name, Path(first.store).name, Path(first.report).name])
    assert left() == kept
    removed = [Path(event.detail) for event in events if isinstance(event, Message) and event.name == "removed"]
    assert removed == [Path(f"{path}.zarr") for path in reversed(OLD)]


def test_null_keeps_all(job):
    first = run(job())
    copies(first.store)
    run(job())
    assert len(left()) == 6


def test_what_is_not_a_store_of_the_job_stays(job):
    first = run(job())
    copies(first.store)
    Path(f"{OLD[0]}.zarr/zarr.json").write_text("{}")  # anything else
    other = run(job(name="night-other", output={"store": "out/other-{started:%Y-%m-%dT%H%M%S}.zarr"}))
    shutil.move(other.store, "out/night-2025-12-31T020000.zarr")  # of another job, at a path of this one's
    Path("out/night-2025-12-30T020000.zarr").write_text("a file")
    newest = run(job(output={"keep": 1}))
    stay = ["night-2025-12-30T020000.zarr", "night-2025-12-31T020000.zarr", "night-2026-01-01T020000.zarr"]
    assert left() == sorted([*stay, Path(newest.store).name])


def test_a_store_that_a_run_works_on_stays(job):
    first = run(job())
    copies(first.store)
    with store.lock(f"{OLD[1]}.zarr"):
        run(job(output={"keep": 1}))
    assert f"{Path(OLD[1]).name}.zarr" in left()
    assert f"{Path(OLD[2]).name}.zarr" not in left()


def test_refresh_keeps_what_output_keep_says(job):
    first = run(job())
    copies(first.store)
    found = refresh(job(output={"keep": 3}, refresh={"keep": 1}))
    complete = [name for name in left() if "latest" not in name]
    assert sorted(map(Path, found.removed)) == [Path(f"{path}.zarr") for path in OLD[:3]]
    assert len(complete) == 3


@pytest.mark.parametrize("ending", ["zarr", "parquet"])
def test_scores_are_kept_in_the_same_number(job, ending):
    source = "rows.npy"
    if ending == "parquet":
        import pandas as pd

        source = "rows.parquet"
        pd.DataFrame(np.load("rows.npy"), columns=["x0", "x1"]).to_parquet(source)
    run(job())
    template = f"scores/night-{{started:%Y-%m-%dT%H%M%S}}.{ending}"
    config = job(score={"source": source, "out": template}, output={"keep": 2})
    first = score_batch(config)
    for day in range(1, 4):
        shutil.copytree(first.out, f"scores/night-2026-01-0{day}T020000.{ending}")
        Path(f"scores/night-2026-01-0{day}T020000.{ending}-report").mkdir()
    Path(f"scores/night-2026-01-09T020000.{ending}").mkdir()
    Path(f"scores/night-2026-01-09T020000.{ending}/mine.txt").write_text("mine")
    other = job(name="other", score={"source": source, "out": template}, output={"keep": 1})
    run(other)
    score_batch(other, now=np.datetime64("2026-02-01T00:00:00").item())
    score_batch(config, now=np.datetime64("2026-03-01T00:00:00").item())
    assert f"night-2026-02-01T000000.{ending}" in left("scores")
    assert f"night-2026-01-09T020000.{ending}" in left("scores")
    assert not list(Path("scores").glob("night-2026-01-0[1-3]*-report"))
    ours = [name for name in left("scores") if name[6:16] not in ("2026-01-09", "2026-02-01")]
    assert len(ours) == 2
    assert Path(first.out).name in ours


def test_a_number_to_keep_needs_dates(job, tmp_path):
    Path("job.yaml").write_text("data: {source: rows.npy}\noutput: {store: a.zarr, keep: 3}\n")
    with pytest.raises(UserError, match=names("job.yaml:2", "output.keep", "{started:")):
        load_config("job.yaml")


def test_the_number_to_keep_is_no_part_of_the_result(job):
    first = run(job(), fresh=True)
    again = job(output={"keep": 5, "store": first.store})
    assert run(again).reused
    assert dated_now(job(), job().output.store) != first.store
