"""A complete store that has lost something, or is not as it was written, is refused by the name of what is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from flows import cli
from gmm_dask.errors import UserError
from messages import names
from pipeline.config.job import JobConfig
from pipeline.export import to_json
from pipeline.fit.job import read_summary, run
from pipeline.score.new_rows import score
from pipeline.score.reference import read_reference
from pipeline.store import (
    DamagedError,
    RowPlan,
    StoreStatus,
    Totals,
    ZarrRows,
    find_store,
    load_checkpoint,
    lock,
    open_result,
    prepare_store,
    read_candidates,
    read_scores,
    save_checkpoint,
)
from pipeline.store.lifecycle import read_attributes
from pipeline.store.places import local
from power import Power
from stores import small_store

runner = CliRunner(env={"COLUMNS": "400"})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def store(made, tmp_path):
    """A copy that may be damaged."""
    return Path(shutil.copytree(made[1], tmp_path / "night.zarr"))


def show(store):
    return read_candidates(store).table.to_json()


def answers(store):
    """What export, score and report take."""
    result = open_result(store)
    model = result.best_model
    reference = read_reference(result, model)
    return to_json(result, model).model_dump_json(), reference.mean, reference.shares, result.sample.rows, result.notes


READERS = (show, answers)


def files_of(store):
    return sorted(file.relative_to(store).as_posix() for file in store.rglob("*") if file.is_file())


def answer_or_refusal(reader, store):
    try:
        return str(reader(store))
    except DamagedError as error:
        return f"refused: {error}"


def named(file):
    """What a refusal names of a file: chunks of rows are counted by array."""
    parts = Path(file).parts
    return "/".join(parts[:3]) if parts[0] == "rows" and "c" in parts else file


def test_a_whole_store_is_read(store):
    for reader in READERS:
        reader(store)
    assert len(files_of(store)) > 100


def _remove(file):
    file.unlink()


def _empty(file):
    file.write_bytes(b"")


def _cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def _flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


EVERY = [(_remove, 1), (_empty, 2), (_cut, 3), (_flip, 3)]
SOME = [(damage, 30 * step + 1) for damage, step in EVERY]


@pytest.mark.parametrize(("damage", "step"), [*SOME, *(pytest.param(*each, marks=pytest.mark.slow) for each in EVERY)])
def test_each_file_that_is_lost_or_damaged_is_named_or_has_no_part_in_the_answer(store, damage, step):
    expected = {reader: str(reader(store)) for reader in READERS}
    for name in files_of(store)[::step]:
        file = store / name
        data = file.read_bytes()
        damage(file)
        for reader in READERS:
            found = answer_or_refusal(reader, store)
            assert found == expected[reader] or named(name) in found, f"{reader.__name__} without {name}: {found}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    assert str(show(store)) == expected[show]


@pytest.mark.parametrize(
    "part", ["criteria", "models", "clusters", "sample", "rows", "manifest", "rows/label/c/0", "zarr.json"]
)
def test_show_names_a_part_that_is_lost(store, part):
    path = store / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = runner.invoke(cli.app, ["show", str(store)])
    assert result.exit_code == 2
    assert all(word in result.stderr for word in (str(store), part.removesuffix("/0"), "--fresh"))


def test_a_run_of_a_complete_store_that_lost_rows_does_not_call_it_complete(made, store):
    config = made[0]
    there = config.model_copy(update={"output": config.output.model_copy(update={"store": str(store)})})
    assert run(there).reused
    shutil.rmtree(store / "rows/responsibility/c/1")
    with pytest.raises(DamagedError, match=names(store, "rows/responsibility/c", "--fresh")):
        run(there)
    assert not run(there, fresh=True).reused
    assert run(there).reused


def test_a_chunk_of_rows_that_is_damaged_is_an_error_in_xarray(store):
    _flip(store / "rows/label/c/1")
    with pytest.raises(RuntimeError, match="checksum"):
        xr.open_zarr(store, group="rows", consolidated=False).label.load()


def test_scores_that_lost_a_chunk_are_not_called_complete(made, tmp_path):
    config, store = made
    out = tmp_path / "out.zarr"
    score(store, config.data.source, out)
    assert score(store, config.data.source, out).reused
    (out / "rows/label/c/0").unlink()
    for reading in (lambda: score(store, config.data.source, out), lambda: read_scores(out)):
        with pytest.raises(DamagedError, match=names(out, "rows/label/c", "--fresh")):
            reading()
    assert not score(store, config.data.source, out, fresh=True).reused
    _empty(out / "zarr.json")
    with pytest.raises(DamagedError, match=names(out, "zarr.json", "--fresh")):
        score(store, config.data.source, out)
    assert not score(store, config.data.source, out, fresh=True).reused


def test_parquet_rows_that_are_lost(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(np.load(small_store(tmp_path)[0].data.source), columns=["x", "y"])
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=20)
    config = JobConfig.model_validate(
        {
            "data": {"source": str(tmp_path / "rows.parquet")},
            "search": {"n_components": [1], "covariance_types": ["diag"], "init_params": "kmeans"},
            "output": {"store": str(tmp_path / "p.zarr"), "report": False, "rows": "parquet"},
        }
    )
    run(config)
    assert run(config).reused
    next((tmp_path / "p.zarr-rows").glob("part-*")).unlink()
    with pytest.raises(DamagedError, match=names("p.zarr-rows", "--fresh")):
        run(config)
    assert run(config, fresh=True).row_summary.parquet.files > 1
    assert run(config).reused


# -- a root that is lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [_remove, _empty, _cut, lambda file: file.write_bytes(b"\0" * 900)])
def test_fresh_replaces_a_store_that_lost_its_root(made, store, damage):
    config = made[0].model_dump(mode="json")
    damage(store / "zarr.json")
    for reading in (lambda: open_result(store), lambda: find_store(store), lambda: prepare_store(store, config, {})):
        with pytest.raises(DamagedError, match=names(store, "zarr.json", "--fresh")):
            reading()
    assert prepare_store(store, config, {}, fresh=True) is StoreStatus.NEW
    assert files_of(store) == ["zarr.json"]


def test_a_new_store_that_lost_its_root_is_known_by_its_lock(tmp_path):
    path = tmp_path / "r.zarr"
    path.mkdir()
    (path / "zarr.json").touch()
    with pytest.raises(UserError, match=names(path, "not a result store")):
        prepare_store(path, {}, {}, fresh=True)
    with lock(path):
        assert prepare_store(path, {}, {}, fresh=True) is StoreStatus.NEW


@pytest.mark.parametrize("other", ["thesis.tex", "data/zarr.json"])
def test_what_is_not_ours_is_left_also_beside_our_groups(store, other):
    (store / other).parent.mkdir(exist_ok=True)
    (store / other).write_text("{}")
    (store / "zarr.json").unlink()
    before = files_of(store)
    with pytest.raises(UserError, match=names(store, "not a result store")):
        prepare_store(store, {}, {}, fresh=True)
    assert files_of(store) == before


def test_attributes_that_were_edited_are_refused(store):
    file = store / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["best"] = "diag-k1"
    file.write_text(json.dumps(metadata))
    with pytest.raises(DamagedError, match=names(store, "zarr.json", "attributes")):
        open_result(store)


# -- a loss of power ---------------------------------------------------------------------------------------------


def test_power_loss_leaves_this_checkpoint_or_the_one_before(made, tmp_path, monkeypatch):
    power, copies = Power(monkeypatch), []
    config = made[0].model_copy(
        update={"output": made[0].output.model_copy(update={"store": str(tmp_path / "night.zarr")})}
    )
    replace = Path.replace

    def watching(self, target):
        replace(self, target)
        if Path(target).name == "zarr.json" and Path(target).parent.name == "night.zarr":
            copies.append(power.lost(tmp_path / "night.zarr", tmp_path / f"{len(copies)}.zarr"))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", watching)
        run(config, checkpoint_seconds=0.0)
    found = [open_result(copy, unfinished=True) for copy in copies]
    assert found[-1].is_complete
    assert len({result.checkpoint for result in found}) > 4
    for result in found:
        if result.checkpoint is not None:
            load_checkpoint(result.store)


def test_a_job_reads_each_file_of_its_result_twice_at_most_to_check_it(tmp_path, monkeypatch):
    read, hashed = local._sha256, Counter()
    monkeypatch.setattr(local, "_sha256", lambda file: hashed.update([file]) or read(file))
    _, store = small_store(tmp_path, report=True)
    assert max(hashed.values()) <= 2
    hashed.clear()
    assert open_result(store).loaded().best_model.columns
    assert set(hashed.values()) == {1}


def test_power_loss_after_the_end_leaves_a_whole_store(tmp_path, monkeypatch):
    power = Power(monkeypatch)
    _, store = small_store(tmp_path, anomaly_quantile=0.1)
    copy = power.lost(store, tmp_path / "copy.zarr")
    assert read_summary(str(copy), 0.0, True).best == open_result(store).best
    whole, after = (xr.open_zarr(path, group="rows", consolidated=False).load() for path in (store, copy))
    assert whole.identical(after)


@pytest.mark.parametrize("lengths", [(4, 4, 4), (3, 5, 4)])
def test_power_loss_keeps_what_counts_as_finished(tmp_path, monkeypatch, lengths):
    monkeypatch.setattr("pipeline.store.rows.zarr._zarr_rows", lambda _: 4)
    power, path = Power(monkeypatch), tmp_path / "r.zarr"
    prepare_store(path, {}, {})
    plan = RowPlan(lengths, (0, 1), ("label", "responsibility"), "token")
    rows = ZarrRows(path, plan)
    rows.begin()
    for number in (0, 1):
        values = {"label": np.ones(lengths[number]), "responsibility": np.full((lengths[number], 2), 0.5)}
        rows.write(number, values, Totals(lengths[number], 0.0, 0.0, np.zeros(2, np.int64)))
    for file in path.rglob("rows/unfinished/totals/c/*/*"):  # written last: whether it arrives is chance
        os.fsync(os.open(file, os.O_RDONLY))
    copy = ZarrRows(power.lost(path, tmp_path / "copy.zarr"), plan)
    assert not copy.begin()
    assert [found is not None for found in copy.finished()] == [True, True, False]
    rest = {"label": np.ones(4), "responsibility": np.full((4, 2), 0.5)}
    copy.write(2, rest, Totals(4, 0.0, 0.0, np.zeros(2, np.int64)))
    copy.join()
    copy.finish({})
    assert xr.open_zarr(tmp_path / "copy.zarr", group="rows", consolidated=False).label.values.tolist() == [1] * 12


def test_a_lost_edge_of_rows_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.store.rows.zarr._zarr_rows", lambda _: 4)
    path = tmp_path / "r.zarr"
    prepare_store(path, {}, {})
    rows = ZarrRows(path, RowPlan((3, 5), (0, 1), ("label",), "token"))
    rows.begin()
    for number, n_rows in enumerate((3, 5)):
        rows.write(number, {"label": np.ones(n_rows)}, Totals(n_rows, 0.0, 0.0, np.zeros(2, np.int64)))
    (path / "rows/unfinished/label/c/1/0").unlink()
    with pytest.raises(DamagedError, match=names(path, "unfinished/label/c/1/0")):
        rows.join()


def test_the_checkpoint_before_stays_until_the_next_one_is_current(made, tmp_path, monkeypatch):
    """A disk that fails while the new checkpoint is synchronized leaves the old one."""
    path = tmp_path / "r.zarr"
    prepare_store(path, made[0].model_dump(mode="json"), {})
    run_until_checkpoint(made[0], tmp_path)
    checkpoint = load_checkpoint(tmp_path / "stopped.zarr")
    save_checkpoint(path, checkpoint)

    def failing(*folders):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(local, "sync_tree", failing)
    with pytest.raises(OSError, match="Input/output"):
        save_checkpoint(path, checkpoint)
    assert read_attributes(path).checkpoint == 1
    load_checkpoint(path)


def run_until_checkpoint(config, folder):
    from runs import Stop, stop_at

    stopped = config.model_copy(
        update={"output": config.output.model_copy(update={"store": str(folder / "stopped.zarr")})}
    )
    with pytest.raises(Stop):
        run(stopped, progress=stop_at(2))
