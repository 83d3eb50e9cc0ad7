"""Projections of memory, and the waves that follow from them."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from gmm_dask import UserError
from gmm_dask.families import DEFAULT_TYPES
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.noise import MOST_ROWS
from gmm_dask.memory import (
    Machine,
    Shape,
    affordable_threads,
    copies_of_sums,
    model_bytes,
    noise_bytes,
    plan_waves,
    projected_bytes,
    reads_ahead,
    resting_bytes,
    saving_bytes,
    starting_bytes,
    thread_bytes,
    working_bytes,
)
from gmm_dask.passes.data_summary import sample_limit
from messages import names
from peaks import peak_of
from pipeline.config.job import JobConfig
from pipeline.fit.plan import FitPlan, estimate_job
from pipeline.synth import Plan, draw_chunks, draw_truth, write_synthetic

SHAPE = Shape(n_features=64, n_chunks=100, chunk_rows=20)
CANDIDATES = [Candidate(name, k) for name, k in itertools.product(DEFAULT_TYPES, range(1, 11))]
MIB = 1 << 20


def test_the_bytes_of_a_model_are_those_of_its_sums():
    assert model_bytes(Candidate("spherical", 3), 8) == 8 * 3 * 10
    assert model_bytes(Candidate("tied", 3), 8) == 8 * 3 * 9
    assert model_bytes(Candidate("diag", 3), 8) == 8 * 3 * 17
    assert model_bytes(Candidate("full", 3), 8) == 8 * 3 * 45
    assert model_bytes(Candidate("tied", 3, noise=True), 8) == 8 * 4 * 45


def test_the_log_densities_of_a_block_count_for_each_thread():
    few, many = (
        resting_bytes(replace(SHAPE, n_components=k), Machine(2, 0), [Candidate("spherical", k)], 1) for k in (1, 1000)
    )
    states = 2 * 8 * 999 * (2 + 64 + 1) + 9 * 8 * 999  # twice, and a step
    assert many - few - states >= 2 * 240 * 1000 * 8


def test_one_wave_where_there_is_memory():
    assert plan_waves(SHAPE, Machine(2, 8192 * MIB), CANDIDATES, 3) == (120,)


def machine_with(mib):
    """A machine with so many MiB for sums."""
    return Machine(2, resting_bytes(SHAPE, Machine(2, 0), CANDIDATES, 3) + mib * MIB)


@pytest.mark.parametrize("mib", [36, 60, 200])
def test_waves_hold_every_fit_and_stay_under_the_limit(mib):
    machine = machine_with(mib)
    waves = plan_waves(SHAPE, machine, CANDIDATES, 3)
    assert sum(waves) == 120
    assert all(length > 0 for length in waves)
    assert projected_bytes(SHAPE, machine, CANDIDATES, 3, waves) <= machine.memory_limit


def test_less_memory_means_more_waves():
    counts = [len(plan_waves(SHAPE, machine_with(mib), CANDIDATES, 3)) for mib in (36, 60, 200)]
    assert counts[0] > counts[1] > counts[2]


def test_a_limit_that_one_fit_or_chunk_does_not_fit_is_refused_with_the_terms():
    resting = resting_bytes(SHAPE, Machine(2, 0), CANDIDATES, 3)
    largest = max(model_bytes(c, 64) for c in CANDIDATES) * copies_of_sums(SHAPE, Machine(2, 0))
    starting, saving = starting_bytes(SHAPE, Machine(2, 0), CANDIDATES, 3), saving_bytes(SHAPE, CANDIDATES, 3)
    least = max(resting + largest, starting, saving)
    assert sum(plan_waves(SHAPE, Machine(2, least), CANDIDATES, 3)) == 120
    with pytest.raises(UserError, match=names(f"{(least - 1) / 2**20:,.0f} MiB", "memory_limit", "data.chunk_rows")):
        plan_waves(SHAPE, Machine(2, least - 1), CANDIDATES, 3)


@pytest.mark.parametrize(
    ("machine", "needed", "expected"),
    [
        (Machine(2, 8192 * MIB, runs=True), 600 * MIB, True),
        (Machine(2, 8192 * MIB), 600 * MIB, False),  # a task of one chunk has none to read ahead
        (Machine(2, 1000 * MIB, runs=True), 790 * MIB, False),
    ],
    ids=["a worker with room", "threads", "a worker without room"],
)
def test_a_worker_reads_ahead_where_it_has_room_for_two_chunks(machine, needed, expected):
    shape = replace(SHAPE, chunk_rows=20_000)
    assert reads_ahead(shape, machine, needed) == expected


def test_the_chunks_that_are_read_ahead_count():
    plan = FitPlan(SHAPE, Machine(3, 8192 * MIB, runs=True), (Candidate("full", 2),), 1, (1,))
    assert plan.reads_ahead
    assert plan.memory_bytes == plan.needed_bytes + 3 * SHAPE.chunk_bytes
    full = replace(plan, machine=replace(plan.machine, memory_limit=plan.needed_bytes))
    assert full.memory_bytes == full.needed_bytes


def test_threads_without_a_chunk_hold_nothing():
    one, two = (replace(SHAPE, n_chunks=n, chunk_rows=100_000) for n in (1, 2))
    few, many = (working_bytes(shape, Machine(8, 0)) for shape in (one, two))
    assert few == thread_bytes(one)
    assert many == 2 * few
    plans = [
        FitPlan(shape, Machine(8, 8192 * MIB, runs=True), (Candidate("full", 2),), 1, (1,)) for shape in (one, two)
    ]
    assert [(plan.memory_bytes - plan.needed_bytes) / one.chunk_bytes for plan in plans] == [1, 2]


def test_components_take_threads():
    few, many = (affordable_threads(replace(SHAPE, n_components=k), 1024 * MIB, 64) for k in (10, 8000))
    assert many < few


def test_starts_beside_noise_count():
    shape, machine = replace(SHAPE, n_features=200), Machine(2, 4096 * MIB)
    candidates = [Candidate("full", 3), Candidate("full", 3, noise=True)]
    plain, noisy = (starting_bytes(shape, machine, some, 1) for some in (candidates[:1], candidates))
    assert noise_bytes(shape, machine, candidates[:1], 1) == 0
    rows = 8 * min(MOST_ROWS, sample_limit(200), shape.n_chunks * shape.chunk_rows) * shape.n_features
    assert noise_bytes(shape, machine, candidates, 1) >= 4 * rows + model_bytes(candidates[1], 200)
    assert noisy > plain


def test_a_limit_that_is_too_small_is_told_with_the_blocks_of_many_components():
    shape = replace(SHAPE, n_components=5000)
    with pytest.raises(UserError) as told:
        plan_waves(shape, Machine(1, 100 * MIB), [Candidate("diag", 5000)], 1)
    expected = f"{thread_bytes(shape) / MIB:,.0f} for 1 thread(s)"
    assert expected in str(told.value)
    assert f"{thread_bytes(SHAPE) / MIB:,.0f} for 1 thread(s)" != expected


def write_csv(path, plan):
    rows = np.concatenate(list(draw_chunks(draw_truth(plan), plan)))
    pd.DataFrame(rows, columns=[f"x{i}" for i in range(plan.n_features)]).to_csv(path, index=False)


def write_hdf5(path, plan):
    with h5py.File(path, "w") as file:
        shape = plan.n_rows, plan.n_features
        rows = file.create_dataset("x", shape=shape, dtype="f8", chunks=(50_000, plan.n_features), compression="lzf")
        start = 0
        for part in draw_chunks(draw_truth(plan), plan):
            rows[start : start + len(part)] = part
            start += len(part)


WRITERS = {"csv": write_csv, "h5": write_hdf5}
CASES = {
    "zarr": (Plan(4_000_000, 8, 3), {"n_components": [2, 6]}, {}),
    "npy": (Plan(3_000_000, 8, 3), {"n_components": [2, 6]}, {}),
    "csv": (Plan(1_300_000, 6, 3), {"n_components": [2, 3]}, {}),
    "h5": (Plan(400_000, 8, 3), {"n_components": [2, 6]}, {}),
    "parquet": (Plan(400_000, 8, 3), {"n_components": [2, 6]}, {}),
    "columns-of-wide.npy": (Plan(20_000, 2500, 2), {"n_components": [2]}, {}, ["x0", "x1"]),
    "2000-columns.npy": (Plan(1000, 2000, 1), {"n_components": [1], "covariance_types": ["full"]}, {}),
    "wide.npy": (Plan(3000, 500, 2), {"n_components": [1, 2], "covariance_types": ["full"], "init_params": "auto"}, {}),
    "resampled.npy": (Plan(300_000, 8, 3), {"n_components": [2, 3], "resamples": 20}, {}),
    "answers.npy": (
        Plan(1_500_000, 8, 3),
        {"n_components": [30], "covariance_types": ["diag"]},
        {"responsibilities": True},
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
@pytest.mark.parametrize("case", CASES)
def test_a_job_stays_under_its_projection(tmp_path, case):
    plan, search, output, *columns = CASES[case]
    source, store = tmp_path / f"data.{case}", str(tmp_path / "result.zarr")
    WRITERS.get(case, write_synthetic)(source, plan)
    job = {
        "data": {"source": str(source), "columns": columns[0] if columns else None},
        "search": {"init_params": "kmeans", "max_iter": 4, **search},
        "cluster": {"memory_limit": "2GiB"},
        "output": {"store": store, **output},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    plan = estimate_job(JobConfig.model_validate(job)).plan
    peak = peak_of("run", str(tmp_path / "job.yaml"), "--no-prefect")
    print(f"{case}: projected {plan.memory_bytes >> 20} MiB, peak {peak >> 20} MiB")
    assert 0.5 * plan.memory_bytes < peak < plan.memory_bytes < plan.machine.memory_limit
    if case in ("h5", "parquet"):
        assert peak_of("score", store, str(source), "-o", str(tmp_path / "scores.zarr")) < plan.memory_bytes
