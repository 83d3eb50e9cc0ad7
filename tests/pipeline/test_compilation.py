"""The first run on a machine: kernels are compiled before the rows are read, and beside the job."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaps import with_gaps
from gmm_dask.memory import IMPORTS_BYTES
from marks import slow
from pipeline import compilation
from pipeline.compilation import BEGUN_BYTES, kernels_of_job, kernels_of_scores
from pipeline.config.job import JobConfig
from pipeline.fit.plan import estimate_job
from pipeline.sources import open_source

# what a job calls, and its peak; getrusage would count what its parent held when it was started
CALLED = """
import json, re, sys
from flows.cli import app
try:
    app()
except SystemExit as end:
    assert not end.code, end.code
from gmm_dask import kernels
calls = [
    [name, str(signature)]
    for name in set(kernels._COMPILED)
    for signature in getattr(vars(kernels).get(name), "signatures", ())
]
found = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print(json.dumps({"calls": calls, "peak": 1024 * int(found.group(1)), "modules": sorted(sys.modules)}))
"""
ROWS = np.random.default_rng(0).normal(size=(9000, 4)) + np.repeat([[0.0], [4.0], [9.0]], 3000, axis=0)
JOBS = {
    "few rows": (ROWS[:300], {}),
    "single precision": (ROWS.astype(np.float32), {}),
    "fourteen models": (ROWS[:300], {"covariance_types": ["mclust"]}),
    "k-means": (ROWS, {"init_params": "kmeans"}),
    "noise": (ROWS, {"init_params": "kmeans", "noise": True, "prior": "default"}),
    "gaps": (with_gaps(ROWS[:300], 0.2), {}),
}


def config_of(folder, name, memory_limit="1GiB"):
    rows, search = JOBS[name]
    np.save(folder / "rows.npy", rows)
    values = {
        "data": {"source": str(folder / "rows.npy"), "missing": "likelihood" if name == "gaps" else "error"},
        "search": {
            "n_components": [2, 3],
            "max_iter": 20,
            **({} if "init_params" in search else {"start_effort": 0.1}),
            **search,
        },
        "cluster": {"memory_limit": memory_limit},
        "output": {"store": str(folder / "result.zarr"), "report": False, "imputed": name == "gaps"},
    }
    (folder / "job.yaml").write_text(json.dumps(values))
    return JobConfig.model_validate(values)


def run(folder, *command, **environment):
    """The messages of a command, and what it printed last."""
    ended = subprocess.run(
        [sys.executable, "-c", CALLED, *command],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )
    *_, last = ended.stdout.splitlines()
    return ended.stderr + ended.stdout, json.loads(last)


def called_by(printed):
    return {tuple(call) for call in printed["calls"]}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize(
    "name", ["few rows", *slow(["single precision", "fourteen models", "k-means", "noise", "gaps"])]
)
def test_a_job_calls_what_is_compiled_before_it(tmp_path, name):
    config = config_of(tmp_path, name)
    wanted = {(one.name, str(one.signature)) for one in kernels_of_job(config, open_source(config.data))}
    _, printed = run(tmp_path, "run", "job.yaml", "--no-prefect")
    assert called_by(printed) - wanted == set()
    _, printed = run(tmp_path, "score", "result.zarr", "rows.npy", "-o", "scores.zarr")
    wanted = {(one.name, str(one.signature)) for one in kernels_of_scores(config, open_source(config.data))}
    assert called_by(printed) - wanted == set()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("name", ["few rows", "single precision"])
def test_the_first_run_stays_under_its_projection(tmp_path, name):
    plan = estimate_job(config_of(tmp_path, name)).plan
    limit = plan.memory_bytes + (1 << 20)
    config_of(tmp_path, name, f"{limit >> 20}MiB")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    messages, printed = run(tmp_path, "run", "job.yaml", "--no-prefect", **cache)
    print(f"{name}: limit {limit >> 20} MiB, peak {printed['peak'] >> 20} MiB")
    assert printed["peak"] < limit
    # once, before the rows are read, and none by the job itself
    assert re.findall(r"^compile: .*", messages, re.MULTILINE) == [
        "compile: kernels for this processor, in a process, for up to half a minute (later runs load them)"
    ]
    assert messages.index("compile: ") < messages.index("seed: ")
    messages, _ = run(tmp_path, "run", "job.yaml", "--no-prefect", "--fresh", **cache)
    assert "compile: " not in messages


def test_processes_take_what_the_limit_leaves(monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    assert compilation._n_processes(IMPORTS_BYTES) == 1
    assert compilation._n_processes(BEGUN_BYTES + 600 * (1 << 20)) == 2
    assert compilation._n_processes(64 << 30) == 2
    monkeypatch.setattr("dask.system.CPU_COUNT", 1)
    assert compilation._n_processes(64 << 30) == 1
