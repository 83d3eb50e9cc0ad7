"""The time limit of a stage."""

import pytest

from messages import names
from nightly import nightly_job as job
from pipeline import store
from pipeline.config.templates import dated_paths
from pipeline.fit.job import run
from pipeline.progress import silent
from pipeline.stages import StageTimeoutError, limited
from prefects import write_rows


def test_a_stage_that_times_out_ends_after_a_pass_that_is_stored(tmp_path):
    write_rows(tmp_path / "rows.npy")
    config = job(tmp_path, search={"tol": 0.0, "max_iter": 6})
    passes = []

    def run_in_time():
        return run(config, as_task=lambda stage: limited(stage, 1e-9))

    for _ in range(5):
        with pytest.raises(StageTimeoutError, match=names("fit_wave", "tasks.timeout_seconds", "1e-09 s")):
            run_in_time()
        (path,) = [path for _, path in dated_paths(config.output.store)]
        passes.append(store.open_result(path, unfinished=True).passes)
    assert passes == [2, 3, 4, 5, 6]
    in_steps = run_in_time()
    whole = run(config.model_copy(update={"output": config.output.model_copy(update={"store": f"{tmp_path}/b.zarr"})}))
    assert in_steps.table.equals(whole.table)


def test_without_a_limit_a_stage_is_unchanged():
    assert limited(silent, None) is silent


def test_a_stage_without_a_listener_has_no_limit():
    def merge(config, best):
        return config, best

    assert limited(merge, 1e-9)("job", "full-k2") == ("job", "full-k2")
