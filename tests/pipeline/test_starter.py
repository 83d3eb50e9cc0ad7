"""The first configuration that ``gmm-dask init`` writes."""

import h5py
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from flows.cli import app
from gmm_dask.errors import UserError
from grids import ocean, write_netcdf, write_zarr
from messages import names
from pipeline.config.job import load_config
from pipeline.fit.plan import estimate_job
from pipeline.starter import starter, write_starter


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(50, 2)), columns=["depth", "yes"])
    frame.assign(station_id=range(50), where="here", humid=1.5).to_parquet("my data (1).parquet", index=False)
    return tmp_path


def test_the_file_is_a_valid_job_of_the_data(data):
    file = write_starter("my data (1).parquet", None)
    assert file.name == "my-data-1.yaml"
    job = load_config(file)
    assert job.name == "my-data-1"
    assert job.data.columns == ("depth", "yes", "humid")
    assert job.output.store == "results/my-data-1.zarr"
    assert estimate_job(job).source.n_rows == 50


def test_what_is_written_is_the_default_but_for_the_columns(data):
    job = load_config(write_starter("my data (1).parquet", None))
    assert job.search == type(job.search)()
    assert job.data == type(job.data)(source="my data (1).parquet", columns=job.data.columns)
    assert job.output == type(job.output)(store="results/my-data-1.zarr")


def test_comments_name_what_was_left_out(data):
    text = starter("my data (1).parquet", "job.yaml")
    assert any(line.startswith("  # ") and "station_id" in line for line in text.splitlines())
    assert "50 rows, 4 numeric columns" in text


def test_a_file_that_exists_is_left_as_it_is(data):
    (data / "job.yaml").write_text("mine")
    with pytest.raises(UserError, match=names("job.yaml", "-o")):
        write_starter("my data (1).parquet", data / "job.yaml")
    assert (data / "job.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "is_left_out"),
    [("id", True), ("ID", True), ("passengerId", True), ("row_id", True), ("Unnamed: 0", True), ("humid", False)],
)
def test_identifiers_are_known_by_their_names(data, name, is_left_out):
    pd.DataFrame({name: [1.0, 2.0, 3.0], "x": [1.0, 2.0, 4.0]}).to_csv("a.csv", index=False)
    (data / "job.yaml").write_text(starter("a.csv", "job.yaml"))
    assert load_config("job.yaml").data.columns == (("x",) if is_left_out else (name, "x"))


def test_the_command(data):
    def invoke(*arguments):
        return CliRunner().invoke(app, ["init", *arguments])

    printed = invoke("my data (1).parquet", "-o", "-")
    assert printed.stdout == starter("my data (1).parquet", "my-data-1.yaml")
    assert not list(data.glob("*.yaml"))
    written = invoke("my data (1).parquet", "-o", "job.yaml")
    assert "gmm-dask validate job.yaml" in written.stdout
    assert invoke("my data (1).parquet", "-o", "job.yaml").exit_code == 2
    missing = invoke("nowhere.csv")
    assert missing.exit_code == 2
    assert "nowhere.csv" in missing.stderr


@pytest.mark.parametrize(
    ("dim", "attributes", "is_feature"),
    [
        ("depth", {}, True),
        ("level depth", {}, True),
        ("N_LEVELS", {}, True),
        ("q", {"axis": "Z"}, True),
        ("q", {"axis": np.bytes_("Z")}, True),
        ("q", {"positive": "down"}, True),
        ("q", {"units": "dbar"}, True),
        ("q", {"standard_name": "ocean_sigma_coordinate"}, True),
        ("q", {"units": "m", "standard_name": "projection_x_coordinate"}, False),
        ("height", {"axis": "Y"}, False),
        ("station", {}, False),
    ],
)
def test_vertical_dimensions_are_proposed_as_columns(data, dim, attributes, is_feature):
    with h5py.File("some.nc", "w") as file:
        for name, size in (("time", 6), (dim, 4)):
            file[name] = np.arange(float(size))
            file[name].make_scale(name)
        file[dim].attrs.update(attributes)
        file["temp"] = np.random.default_rng(0).normal(size=(6, 4))
        for axis, name in enumerate(("time", dim)):
            file["temp"].dims[axis].attach_scale(file[name])
    assert load_config(write_starter("some.nc", None)).data.feature_dims == ((dim,) if is_feature else ())


@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_of_a_grid_it_names_variables_and_the_dimensions_that_are_columns(data, kind):
    (write_zarr if kind == "zarr" else write_netcdf)(ocean(), f"sea.{kind}")
    file = write_starter(f"sea.{kind}", None, ["data.missing=drop"])
    job = load_config(file)
    assert (set(job.data.variables), job.data.feature_dims, job.data.columns) == ({"temp", "salt"}, ("depth",), None)
    assert estimate_job(job).source.n_rows == 4 * 12 * 20
    assert "left out, as their dimensions are others: area(lat, lon)" in file.read_text()
    assert "cell_area" not in file.read_text()
