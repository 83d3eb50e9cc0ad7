"""Data that change, between two runs or in the middle of one, are never taken for the data of before."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.exceptions import ConvergenceWarning

from gmm_dask import GaussianMixture, GaussianMixtureSearch, UserError
from gmm_dask.errors import ChangedRowsError
from gmm_dask.families import DEFAULT_TYPES
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.rows import as_rows, hold_out
from gmm_dask.passes.unchanged import check_rows
from messages import names
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.progress import PassDone
from pipeline.sources.formats import parquet


def rows(seed=0):
    rng = np.random.default_rng(seed)
    return np.vstack([rng.normal(0, 1, (200, 2)), rng.normal(4, 1, (100, 2))])


def write(folder, kind, x):
    """Write rows in place, as a program does that holds the file open or copies over it."""
    path, frame = folder / f"x.{kind}", pd.DataFrame(x, columns=["a", "b"])
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path, row_group_size=60)
    elif kind == "npy":
        np.save(path, x)
    elif kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=x, chunks=(60, 2))
    else:
        zarr.create_array(path, data=x, chunks=(60, 2), overwrite=True)
    return str(path)


KINDS = ["csv", "parquet", "npy", "h5", "zarr"]


def job(source, folder, **search):
    search = {"n_components": [2], "covariance_types": ["full"], "init_params": "kmeans", "tol": 1e-9, **search}
    return JobConfig.model_validate(
        {
            "data": {"source": source, "chunk_rows": 60, "cache": "none"},
            "search": search,
            "output": {"store": str(folder / "r.zarr"), "report": False},
        }
    )


def other_value(x):
    x[250, 1] = -x[250, 1]
    return x


def wild_value(x):
    x[250, 1] *= 1e300
    return x


def no_value(x):
    x[250, 1] = np.nan
    return x


def shorter(x):
    return x[:290]


def much_shorter(x):
    return x[:50]


CHANGES = [other_value, wild_value, no_value, shorter, much_shorter]
QUICK = [(kind, "pass", change) for kind in KINDS for change in (other_value, shorter)]
CASES = [
    pytest.param(kind, moment, change, marks=[] if (kind, moment, change) in QUICK else pytest.mark.slow)
    for kind in KINDS
    for moment in ("pass", "select", "write rows")
    for change in CHANGES
]


@pytest.mark.parametrize(("kind", "moment", "change"), CASES)
def test_a_change_in_the_middle_of_a_run_is_named(tmp_path, size, kind, moment, change):
    source = write(tmp_path, kind, rows())

    def meddle(event):
        now = "pass" if isinstance(event, PassDone) and event.number == 2 else getattr(event, "name", "")
        if now == moment:
            write(tmp_path, kind, change(rows()))

    with pytest.raises(UserError, match=names(source, "chang")):
        run(job(source, tmp_path), progress=meddle)


def test_a_file_that_is_gone_in_the_middle_of_a_run_is_named(tmp_path, unheld):
    source = write(tmp_path, "npy", rows())
    with pytest.raises(UserError, match=names(source, "chang")):
        run(job(source, tmp_path), progress=lambda event: isinstance(event, PassDone) and Path(source).unlink(True))


# -- between two runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
def test_a_file_that_an_older_one_replaces_is_seen(tmp_path, kind):
    """Its time is older than that of its neighbour, and its size is the same."""
    for name, seed in (("one", 0), ("two", 1)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, kind, rows(seed))
    source = f"{tmp_path}/*/x.parquet" if kind == "parquet" else f"{tmp_path}/one/x.zarr"
    first = run(job(source, tmp_path))
    assert run(job(source, tmp_path)).reused
    (tmp_path / "old").mkdir()
    old = Path(write(tmp_path / "old", kind, rows(2)))
    new = tmp_path / f"one/x.{kind}"
    parts = [old] if old.is_file() else [file for file in old.rglob("*") if file.is_file()]
    for file in parts:
        os.utime(file, (1e9, 1e9))
        os.replace(file, new if old.is_file() else new / file.relative_to(old))
    with pytest.raises(UserError, match=names("changed", "--fresh")):
        run(job(source, tmp_path))
    assert run(job(source, tmp_path), fresh=True).weights != first.weights


def test_a_parquet_file_of_the_same_size_and_time_is_seen(tmp_path):
    source = write(tmp_path, "parquet", rows())
    before, stat = run(job(source, tmp_path)), os.stat(source)
    x = rows()
    x[:, 0] = -x[:, 0]
    write(tmp_path, "parquet", x)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert os.stat(source).st_size == stat.st_size
    parquet._metadata.cache_clear()  # as in another process
    with pytest.raises(UserError, match=names("changed", "--fresh")):
        run(job(source, tmp_path))
    assert before.is_complete


def test_files_that_were_only_touched_are_the_same_data(tmp_path):
    source = write(tmp_path, "parquet", rows())
    run(job(source, tmp_path))
    os.utime(source)
    assert run(job(source, tmp_path)).reused


# -- the sums -------------------------------------------------------------------------------------------------------


def test_the_estimator_names_rows_that_change_between_passes():
    da = pytest.importorskip("dask.array")
    x, reads = rows(), []

    def read(block):
        reads.append(1)
        return block if len(reads) < 12 else -block

    changing = da.from_array(x, chunks=(60, 2), name=False).map_blocks(read, dtype=x.dtype)
    with pytest.raises(ChangedRowsError, match=names("changed", "column 0")):
        GaussianMixture(2, tol=0.0, max_iter=50, init_params="random_from_data", random_state=0).fit(changing)


@pytest.mark.parametrize("column", range(5))
def test_a_change_of_any_column_is_noticed_by_the_final_pass(column):
    da = pytest.importorskip("dask.array")
    x, reads = np.hstack([rows(), rows(1), rows(2)[:, :1]]), []

    def read(block):
        reads.append(1)
        return block if len(reads) <= 10 else np.where(np.arange(5) == column, -block, block)

    changing = da.from_array(x, chunks=(60, 5), name=False).map_blocks(read, dtype=x.dtype)
    search = GaussianMixtureSearch([1], max_iter=1, init_params="random_from_data", random_state=0)
    with pytest.raises(ChangedRowsError, match=names("changed", f"column {column}")):
        search.fit(changing)


@pytest.mark.parametrize(
    ("covariance_type", "dtype", "change"),
    [
        *((name, np.float64, lambda x: x + 1e-3) for name in DEFAULT_TYPES),
        ("full", np.float32, lambda x: x + 1e-3),
        ("full", np.float64, lambda x: x * np.nan),
        ("full", np.float64, lambda x: x * 1e300),
    ],
)
def test_the_last_pass_of_an_estimator_notices_a_change_of_any_column(covariance_type, dtype, change):
    da = pytest.importorskip("dask.array")
    x, reads = np.hstack([rows(), rows(1), rows(2)[:, :1]]).astype(dtype), []

    def read(block):
        reads.append(1)
        # Dask's look at the function, pass 0, and two iterations
        return block if len(reads) <= 16 else np.where(np.arange(5) == 4, change(block), block)

    changing = da.from_array(x, chunks=(60, 5), name=False).map_blocks(read, dtype=x.dtype)
    mixture = GaussianMixture(2, covariance_type=covariance_type, max_iter=3, tol=0.0, init_params="random_from_data")
    with pytest.raises(ChangedRowsError, match=names("changed", "column 4")):
        mixture.set_params(random_state=0).fit(changing)
    assert len(reads) > 16


@pytest.mark.parametrize("covariance_type", DEFAULT_TYPES)
def test_a_start_far_from_a_constant_column_is_no_change(covariance_type):
    da = pytest.importorskip("dask.array")
    x = np.hstack([rows(), np.zeros((300, 1))])
    mixture = GaussianMixture(1, covariance_type=covariance_type, means_init=[[5.3, 6.3, 5.3]], max_iter=2, tol=0.0)
    with pytest.warns(ConvergenceWarning):
        mixture.set_params(init_params="random_from_data", random_state=0).fit(da.from_array(x, chunks=(60, 3)))
    assert mixture.n_iter_ == 2


def test_the_rounding_of_a_constant_column_is_no_change():
    signs = set()
    for seed in range(20):
        x, w = np.hstack([rows(), np.full((300, 1), 0.1)]), np.random.default_rng(seed).random(300)
        summary = summarize_rows(as_rows(x, w), 0)
        signs.add(np.sign(summary.scatter[2, 2]))
        check_rows(as_rows(x, w), summary)
    assert -1.0 in signs


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_notice_a_row_a_weight_and_a_value(dtype, share, weighted):
    x = (1e3 + rows()).astype(dtype)
    w = np.random.default_rng(1).random(len(x)) if weighted else None
    whole = hold_out(as_rows(x, w), share, 0)
    summary = summarize_rows(whole, 0)
    check_rows(whole, summary)
    fitted = np.flatnonzero(~whole.holdout.is_held_out(0, len(x))) if share else np.arange(len(x))
    changed = x.copy()
    changed[fitted[7], 1] += 1.0
    for other in (changed, x[:-20], np.vstack([x, x[:20]])):
        weights = None if w is None else np.resize(w, len(other))
        with pytest.raises(ChangedRowsError):
            check_rows(hold_out(as_rows(other, weights), share, 0), summary)
    if weighted:
        with pytest.raises(ChangedRowsError, match=names("weights")):
            check_rows(hold_out(as_rows(x, 1.001 * w), share, 0), summary)
