"""Stores that no run wrote: each command that reads one answers, or says what is wrong with it (exit code 2).

The manifest and the hashes of these stores are right: nothing but the contents is wrong.
"""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from flows import cli
from grids import ocean, write_zarr
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.store.arrays import put
from pipeline.store.integrity import write_manifest
from pipeline.store.root import write_root
from runs import Stop, stop_at
from stores import small_store

runner = CliRunner(env={"COLUMNS": "400"})
BEST = "models/tied-k2"
WRONG = (None, "text", -7, 10**30, 1.5, [], {}, [[1]], True)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    config, path = small_store(tmp_path_factory.mktemp("made"), log_density=True)
    assert json.loads((path / "zarr.json").read_text())["attributes"]["best"] == Path(BEST).name
    return config, path


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """A thousand stores need not survive a loss of power."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def store(original, tmp_path):
    return Path(shutil.copytree(original[1], tmp_path / "night.zarr"))


def seal(store, **changes):
    """Make the hashes right."""
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    attributes.pop("sha256", None)
    if "manifest" in attributes:
        attributes["manifest"] = write_manifest(store)
    write_root(store, {**attributes, **changes})


def assert_answered_or_refused(*command):
    result = runner.invoke(cli.app, list(map(str, command)))
    assert result.exit_code in (0, 2), f"{command[0]}: {result.output}"
    assert result.exit_code == 0 or command[1].name in result.output.replace("\n", "")
    return result


def read_with_all(store, original, *, slow=False):
    """Exit codes of the commands that read a store."""
    found = [assert_answered_or_refused("show", store).exit_code]
    out = store.with_name("model.json")
    found.append(assert_answered_or_refused("export", store, "--to", "json", "-o", out).exit_code)
    out.unlink(missing_ok=True)
    if slow:
        out = store.with_name("scores.zarr")
        source = original[0].data.source
        found.append(assert_answered_or_refused("score", store, source, "-o", out, "--fresh").exit_code)
        found.append(assert_answered_or_refused("report", store).exit_code)
    return found


def test_commands_read_the_store_as_it_is(store, original):
    seal(store)
    assert read_with_all(store, original, slow=True) == [0] * 4


# -- attributes --------------------------------------------------------------------------------------------------


def paths_in(values, path=()):
    """The paths of all keys of nested mappings."""
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths_in(value, (*path, key))


def change(attributes, path, value):
    """Replace the value at a path; ``...`` removes it."""
    *above, last = path
    for key in above:
        attributes = attributes[key]
    if value is ...:
        del attributes[last]
    else:
        attributes[last] = value


def changed_attributes(store, group, step):
    """Change the attributes of a group in some of the ways, one at a time; yields what each change is."""
    file = store / group / "zarr.json"
    text = file.read_text()
    changes = [(path, value) for path in paths_in(json.loads(text)["attributes"]) for value in (..., *WRONG)]
    for path, value in changes[::step]:
        metadata = json.loads(text)
        change(metadata["attributes"], path, value)
        file.write_text(json.dumps(metadata))
        seal(store)
        yield f"{group} {'.'.join(path)} = {value!r}"
    file.write_text(text)
    seal(store)


def change_attributes_of(store, group, original, step, slow):
    """Read a store after each change of the attributes of a group."""
    for what in changed_attributes(store, group, step):
        try:
            read_with_all(store, original, slow=slow)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None


GROUPS = ["", BEST, "sample", "rows"]


@pytest.mark.parametrize("group", GROUPS)
def test_attributes_of_other_types(store, original, group):
    change_attributes_of(store, group, original, 97 if group == "" else 19, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_more_attributes_of_other_types(store, original, group):
    change_attributes_of(store, group, original, 7, slow=False)
    change_attributes_of(store, group, original, 89, slow=True)


# -- arrays ------------------------------------------------------------------------------------------------------


def replaced(values):
    """Write other values, made of those that are there."""

    def mutate(group, name):
        made = values(np.asarray(group[name][...]))
        del group[name]
        put(group, name, made, tuple(f"d{i}" for i in range(np.ndim(made))))

    return mutate


def edited(**changes):
    """Change the metadata of an array, and leave its chunk."""

    def mutate(group, name):
        file = Path(group.store.root, group.path, name, "zarr.json")
        metadata = json.loads(file.read_text())
        for key, value in changes.items():
            metadata[key] = value(metadata) if callable(value) else value
        file.write_text(json.dumps(metadata))

    return mutate


def huge(metadata):
    return [10**7] * len(metadata["shape"])


def one_huge_chunk(metadata):
    return {"name": "regular", "configuration": {"chunk_shape": huge(metadata)}}


def zeros(values):
    return np.full(values.shape, "", dtype=object) if values.dtype.kind == "T" else np.zeros_like(values)


def removed(group, name):
    shutil.rmtree(Path(group.store.root, group.path, name))


def a_group(group, name):
    removed(group, name)
    group.create_group(name)


def without_chunk(group, name):
    shutil.rmtree(Path(group.store.root, group.path, name, "c"), ignore_errors=True)


def garbage(group, name):
    for file in Path(group.store.root, group.path, name).rglob("c/**/0"):
        if file.is_file():
            file.write_bytes(b"garbage" * 9)


def nested(group, name):
    Path(group.store.root, group.path, name, "zarr.json").write_text("[" * 100_000)


MUTATIONS = {
    "removed": removed,
    "a group": a_group,
    "without its chunk": without_chunk,
    "garbage": garbage,
    "nested metadata": nested,
    "empty metadata": edited(shape=None),
    "huge": edited(shape=huge),
    "huge in one chunk": edited(shape=huge, chunk_grid=one_huge_chunk),
    "negative shape": edited(shape=lambda metadata: [-1] * len(metadata["shape"])),
    "another codec": edited(codecs=[{"name": "pickle"}]),
    "object dtype": edited(data_type="object"),
    "complex": replaced(lambda values: np.zeros(values.shape, dtype=complex)),
    "float32": replaced(lambda values: np.ones(values.shape, dtype=np.float32)),
    "text": replaced(lambda values: np.full(values.shape, "\x1b[31mred", dtype=object)),
    "no values": replaced(lambda values: zeros(values)[(slice(0, 0),) * values.ndim]),
    "one dimension more": replaced(lambda values: values[None]),
    "one more": replaced(lambda values: np.concatenate([values, values])),
    "NaN": replaced(lambda values: np.full(values.shape, np.nan)),
    "infinite": replaced(lambda values: np.full(values.shape, np.inf)),
    "negative": replaced(lambda values: -values if values.dtype.kind in "fi" else values),
    "zeros": replaced(zeros),
}


def mutate_arrays_of(store, name, original, mutation, step, slow):
    copy = store.with_name("mutated.zarr")
    arrays = sorted(zarr.open_group(store / name, mode="r").array_keys())
    first = list(MUTATIONS).index(mutation) % min(step, len(arrays))
    for array in arrays[first::step]:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        MUTATIONS[mutation](zarr.open_group(copy / name, mode="r+"), array)
        seal(copy)
        try:
            read_with_all(copy, original, slow=slow)
        except AssertionError as error:
            raise AssertionError(f"{name}/{array} {mutation}: {error}") from None


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_parameters_that_are_none(store, original, mutation):
    mutate_arrays_of(store, BEST, original, mutation, 9, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", [BEST, "criteria", "sample", "rows"])
def test_arrays_that_are_none(store, original, name, mutation):
    mutate_arrays_of(store, name, original, mutation, 4, slow=False)
    mutate_arrays_of(store, name, original, mutation, 50, slow=True)


@pytest.fixture(scope="module")
def original_on_a_grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ocean")
    write_zarr(ocean(n_times=2), folder / "ocean.zarr")
    config = JobConfig.model_validate(
        {
            "data": {
                "source": str(folder / "ocean.zarr"),
                "variables": ["temp"],
                "feature_dims": ["depth"],
                "missing": "drop",
            },
            "search": {"n_components": [2], "covariance_types": ["diag"], "init_params": "kmeans"},
            "output": {"store": str(folder / "night.zarr"), "report": False, "log_density": True},
        }
    )
    return config, Path(run(config).store)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [*MUTATIONS, "another component"])
def test_rows_on_a_grid_that_are_none(original_on_a_grid, tmp_path, mutation):
    _config, path = original_on_a_grid
    for array in ("label", "log_density", "time", "lat"):
        store = Path(shutil.copytree(path, tmp_path / array / path.name))
        mutate = MUTATIONS.get(mutation, replaced(lambda values: np.full(values.shape, 7, values.dtype)))
        mutate(zarr.open_group(store / "rows", mode="r+"), array)
        seal(store)
        assert_answered_or_refused("report", store)
        assert_answered_or_refused("show", store)


@pytest.mark.parametrize(("one", "other"), [("covariances", "precisions_cholesky"), ("weights", "scale")])
def test_swapped_arrays_are_refused(store, original, one, other):
    folder = store / BEST
    (folder / one).rename(folder / "kept")
    (folder / other).rename(folder / one)
    (folder / "kept").rename(folder / other)
    seal(store)
    assert 2 in read_with_all(store, original)


@pytest.mark.parametrize(
    ("name", "mutation"),
    [
        *product(["weights", "covariances", "precisions_cholesky"], ["NaN", "negative", "zeros", "without its chunk"]),
        *product(["means"], ["NaN", "infinite", "without its chunk"]),
    ],
)
def test_parameters_without_a_density_are_refused(store, original, name, mutation):
    MUTATIONS[mutation](zarr.open_group(store / BEST, mode="r+"), name)
    seal(store)
    assert read_with_all(store, original)[1] == 2


def test_a_model_that_is_not_in_the_table(store, original):
    (store / BEST).rename(store / "models/full-k7")
    for best in ("full-k7", "../../night", "", "tied-k2"):
        seal(store, best=best)
        assert read_with_all(store, original, slow=best == "full-k7")[1:3] in ([2], [2, 2])


def test_a_checkpoint_that_is_none(original, tmp_path):
    from pipeline.store.dataclass_arrays import digest

    output = original[0].output.model_copy(update={"store": str(tmp_path / "stopped.zarr")})
    config = original[0].model_copy(update={"output": output})
    with pytest.raises(Stop):
        run(config, progress=stop_at(2))
    (folder,) = (tmp_path / "stopped.zarr/checkpoint").glob("*/")
    group = zarr.open_group(folder, mode="r+")
    layout = group.attrs["layout"]
    for other in (
        {},
        {"a": ["float64", 3]},
        {**layout, "passes": ["float64", 1]},
        {**layout, "waves#": ["text", 9]},
        7,
    ):
        arrays = {name: np.asarray(group[name][...]) for name in group.array_keys()}
        group.attrs.update({"layout": other, "sha256": digest(arrays, other)})
        assert assert_answered_or_refused("show", tmp_path / "stopped.zarr").exit_code == 2


def test_scores_of_other_types(store, original):
    out, source = store.with_name("scores.zarr"), original[0].data.source
    score = ("score", store, source, "-o", out)
    assert assert_answered_or_refused(*score).exit_code == 0
    for group, step in ("", 53), ("rows", 31):
        for what in changed_attributes(out, group, step):
            result = runner.invoke(cli.app, list(map(str, score)))
            assert result.exit_code in (0, 2), f"{what}: {result.output}"
