"""Arrays on grids are read as xarray stacks them."""

import dask
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from gmm_dask.errors import UserError
from grids import PACKED, ocean, stacked, write_netcdf, write_zarr
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.grouping import require_groupable
from pipeline.config.job import JobConfig
from pipeline.sources import open_source
from pipeline.sources.grids.boxes import Grid, choose_box
from pipeline.sources.grids.dates import shown_values

ON_GRID = {"variables": ["temp", "salt"], "feature_dims": ["depth"]}
COLUMNS = tuple(f"{name}[depth={depth}]" for name in ("temp", "salt") for depth in (5.0, 10.0, 20.0, 50.0, 100.0))


def source(path, **options):
    return open_source(DataConfig(source=str(path), **options))


def rows_of(opened, rows=None):
    """The rows in C order of the grid, (n_rows, n_columns), read box by box."""
    rows = opened.array.compute(scheduler="sync") if rows is None else rows
    found, first = np.empty((*opened.grid.shape, rows.shape[1])), 0
    for box in opened.grid.boxes():
        place = tuple(slice(span.start, span.stop) for span in box.region)
        found[place] = rows[first : first + len(box)].reshape(*map(len, box.region), -1)
        first += len(box)
    assert first == len(rows)
    return found.reshape(-1, rows.shape[1])


@pytest.fixture(scope="module")
def data():
    return ocean()


# one box, whole storage chunks, parts of them
@pytest.mark.parametrize("chunk_rows", ["auto", 120, 7])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_is_read_as_xarray_stacks_it(here, data, zarr_format, chunk_rows):
    decoded = write_zarr(data, "o.zarr", zarr_format)
    opened = source("o.zarr", **ON_GRID, chunk_rows=chunk_rows)
    assert opened.columns == COLUMNS
    np.testing.assert_array_equal(rows_of(opened), stacked(decoded))
    assert opened.chunk_rows == max(opened.array.chunks[0])
    if chunk_rows != "auto":
        assert opened.chunk_rows <= chunk_rows


@pytest.mark.parametrize("chunk_rows", ["auto", 120, 7])
def test_netcdf_is_read_as_xarray_stacks_it(here, data, chunk_rows):
    write_netcdf(data, "o.nc")
    opened = source("o.nc", **ON_GRID, chunk_rows=chunk_rows)
    assert opened.columns == COLUMNS
    np.testing.assert_allclose(rows_of(opened), stacked(data), atol=0.0005, rtol=0)  # half a step of what is packed


def test_rows_are_in_c_order_where_a_chunk_has_room_for_the_last_dimensions(here, data):
    decoded = write_zarr(data, "o.zarr", chunks={"temp": (1, 5, 12, 20), "salt": (1, 5, 12, 20)})
    opened = source("o.zarr", **ON_GRID, chunk_rows=240)
    np.testing.assert_array_equal(opened.array.compute(), stacked(decoded))
    assert opened.decodes == 1


def test_files_are_joined_along_time_each_with_its_own_origin_and_packing(here, data):
    """Their names are not in the order of time."""
    for i in range(4):
        how = {"temp": {**PACKED["temp"], "scale_factor": 0.0005 * (1 + i), "add_offset": 5.0 * i}}
        write_netcdf(data.isel(time=[3 - i]), f"part-{i}.nc", how)
    opened = source("part-*.nc", **ON_GRID, chunk_rows=500)  # a box spans files
    assert len(opened.chunks.pieces) < 4
    np.testing.assert_allclose(rows_of(opened), stacked(data), atol=0.001, rtol=0)
    time = next(one for one in opened.grid.coordinates if one.name == "time")
    assert time.coordinate_values().tolist() == [0, 31, 62, 93]
    assert time.public_attributes["units"] == "days since 2020-01-01 00:00:00"


@pytest.mark.parametrize(("dim", "parts"), [("lat", (slice(6), slice(6, None))), ("time", (slice(3), slice(3, None)))])
def test_files_whose_coordinate_descends_are_joined_descending(here, data, dim, parts):
    down = data.isel({dim: slice(None, None, -1)})
    for i, part in enumerate(parts):
        write_netcdf(down.isel({dim: part}), f"part-{i}.nc")
    opened = source("part-*.nc", **ON_GRID, chunk_rows=500)
    np.testing.assert_allclose(rows_of(opened), stacked(down), atol=0.001, rtol=0)
    (coordinate,) = (one.coordinate_values() for one in opened.grid.coordinates if one.name == dim)
    assert (np.diff(coordinate) < 0).all()


def test_columns_weights_and_variables_that_lack_a_dimension(here, data):
    decoded = write_zarr(data, "o.zarr")
    chosen = ["salt[depth=20.0]", "area", "temp[depth=100.0]"]
    everything = {"variables": ["temp", "area", "salt"], "feature_dims": ["depth"], "columns": chosen}
    opened = source("o.zarr", **everything, weights="cell_area", chunk_rows=50)
    area = np.broadcast_to(decoded.area.values, (4, 12, 20)).ravel()
    every = stacked(decoded)
    expected = np.stack([every[:, COLUMNS.index(chosen[0])], area, every[:, COLUMNS.index(chosen[2])]], axis=1)
    rows, weights = dask.compute(opened.array, opened.weights, scheduler="sync")
    np.testing.assert_array_equal(rows_of(opened, rows), expected)
    np.testing.assert_array_equal(rows_of(opened, weights[:, None])[:, 0], area)


def test_several_feature_dimensions_or_none(here):
    values = np.arange(2.0 * 3 * 4).reshape(2, 3, 4)
    data = xr.Dataset({"v": (("band", "x", "step"), values)}, coords={"band": np.array(["red", "nir"], dtype=object)})
    data.to_zarr("o.zarr", consolidated=False)
    opened = source("o.zarr", variables=["v"], feature_dims=["step", "band"])
    assert opened.columns[:3] == ("v[step=0,band=red]", "v[step=0,band=nir]", "v[step=1,band=red]")
    np.testing.assert_array_equal(opened.array.compute(), values.transpose(1, 2, 0).reshape(3, 8))
    plain = source("o.zarr", variables=["v"])
    assert plain.columns == ("v",)
    np.testing.assert_array_equal(plain.array.compute()[:, 0], values.ravel())


def test_variables_of_one_dimension_are_columns(here):
    with h5py.File("t.nc", "w") as file:
        for name, values in {"obs": np.arange(6), "a": np.arange(6.0), "b": np.arange(6) * 2}.items():
            file[name] = values
        file["when"], file["note"] = np.arange(6), np.array([b"x"] * 6)
        file["when"].attrs["units"] = "days since 2000-01-01"
        file["obs"].make_scale("obs")
        for name in ("a", "b", "when", "note"):
            file[name].dims[0].attach_scale(file["obs"])
    opened = source("t.nc")
    assert (opened.columns, opened.grid) == (("a", "b"), None)
    np.testing.assert_array_equal(opened.array.compute(), np.stack([np.arange(6.0), 2 * np.arange(6.0)], axis=1))
    assert [word in " ".join(opened.notes) for word in ("obs", "when (days since", "note")] == [True] * 3
    assert source("t.nc", columns=["b"], weights="a").weights.compute().tolist() == list(range(6))
    with h5py.File("t.nc", "a") as file:
        file["c"] = np.arange(5.0)
    with pytest.raises(UserError, match=names("a(obs) 6", "c(row) 5", "data.columns")):
        source("t.nc")


def test_chunks_that_are_not_stored_are_refused_or_filled(here, data):
    """Zarr leaves out chunks of fill values, as those of land are."""
    decoded = write_zarr(data.where(data.lat > 0), "o.zarr")
    with pytest.raises(UserError, match=names("data.missing_chunks", "fill")):
        source("o.zarr", **ON_GRID).array.compute(scheduler="sync")
    np.testing.assert_array_equal(rows_of(source("o.zarr", **ON_GRID, missing_chunks="fill")), stacked(decoded))


# -- boxes ---------------------------------------------------------------------------------------------------

sizes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


@given(sizes=sizes, wanted=st.integers(1, 500), more=st.integers(0, 500))
def test_boxes_cover_the_grid_once_and_are_no_larger_than_allowed(sizes, wanted, more):
    shape, storage = zip(*sizes, strict=True)
    box = choose_box(shape, storage, wanted, wanted + more)
    assert np.prod(box) <= wanted + more
    seen = np.zeros(shape, dtype=int)
    for one in Grid((), shape, box).boxes():
        seen[tuple(slice(span.start, span.stop) for span in one.region)] += 1
    assert (seen == 1).all()
    if np.prod(np.minimum(shape, storage)) <= wanted:  # whole storage chunks, up to the ends of the grid
        assert all(size % step == 0 or size == end for size, step, end in zip(box, storage, shape, strict=True))


# -- errors --------------------------------------------------------------------------------------------------

REFUSED = {
    "no word of a grid": ({}, "o.zarr", ("data.variables", "salt(time, depth, lat, lon)", "data.feature_dims")),
    "no word of a grid, netCDF": ({}, "o.nc", ("data.variables", "temp(time, depth, lat, lon)", "data.feature_dims")),
    "no such variable": ({"variables": ["tmp"]}, "o.nc", ("data.variables", "'tmp'", "did you mean temp", "salt(")),
    "no such dimension": (
        {"variables": ["temp"], "feature_dims": ["dept"]},
        "o.zarr",
        ("data.feature_dims", "'dept'", "did you mean depth", "time, depth, lat, lon"),
    ),
    "no rows": ({"variables": ["area"], "feature_dims": ["lat", "lon"]}, "o.zarr", ("data.feature_dims", "lat, lon")),
    "dates": ({"variables": ["time"]}, "o.zarr", ("data.variables", "time(time)", "dates")),
    "weights of columns": ({**ON_GRID, "weights": "depth"}, "o.zarr", ("data.weights", "depth(depth)")),
    "an array": ({"variables": ["temp"]}, "o.zarr/temp", ("data.variables", "o.zarr/temp", "group")),
    "a dataset, too": ({**ON_GRID, "dataset": "temp"}, "o.nc", ("data.dataset", "data.variables")),
    "another format": (ON_GRID, "rows.npy", ("data.variables", "rows.npy", "Zarr, HDF5")),
    "files without variables": ({}, "part-*.nc", ("data.variables", "part-*.nc")),
    "files along columns": (
        {"variables": ["temp"], "feature_dims": ["time"]},
        "part-*.nc",
        ("data.feature_dims", "'time'"),
    ),
    "files of one time": (ON_GRID, "same-*.nc", ("same-*.nc", "no dimension")),
    "files that overlap": (ON_GRID, "over-*.nc", ("over-*.nc", "over-0.nc", "over-1.nc", "time", "1 that two files")),
    "files in two directions": (ON_GRID, "turn-*.nc", ("turn-*.nc", "lat", "turn-0.nc", "turn-1.nc", "sortby('lat')")),
    "a file of another grid": (ON_GRID, "other-*.nc", ("other-*.nc", "several dimensions (time, lat)")),
    "a file that lacks a variable": (ON_GRID, "short-*.nc", ("short-1.nc", "lacks it", "salt(")),
    "columns of no coordinate": ({**ON_GRID, "columns": ["temp[depth=7]"]}, "o.nc", ("data.columns", "temp[depth=7]")),
    "no names of dimensions": ({"variables": ["v"]}, "bare.zarr", ("data.variables", "names of its dimensions")),
    "no scales": ({"variables": ["v"]}, "bare.h5", ("data.variables", "names of its dimensions")),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("grids")
    write_zarr(data, folder / "o.zarr")
    write_netcdf(data, folder / "o.nc")
    np.save(folder / "rows.npy", np.zeros((3, 2)))
    for i in range(2):
        part = data.isel(time=[i])
        write_netcdf(part, folder / f"part-{i}.nc")
        write_netcdf(data, folder / f"same-{i}.nc")
        write_netcdf(data.isel(time=slice(i, 2 + i)), folder / f"over-{i}.nc")
        write_netcdf(data.isel(lat=slice(6) if i else slice(None, 5, -1)), folder / f"turn-{i}.nc")
        write_netcdf(part.assign_coords(lat=part.lat + i), folder / f"other-{i}.nc")
        write_netcdf(part.drop_vars("salt") if i else part, folder / f"short-{i}.nc")
    zarr.create_group(folder / "bare.zarr").create_array("v", data=np.zeros((3, 2)))
    with h5py.File(folder / "bare.h5", "w") as file:
        file["v"] = np.zeros((3, 2))
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_grid_is_refused(written, monkeypatch, case):
    monkeypatch.chdir(written)
    options, path, parts = REFUSED[case]
    with pytest.raises(UserError, match=names(*parts)):
        source(path, **options)


def test_feature_dims_need_variables():
    with pytest.raises(ValueError, match=names("feature_dims", "data.variables")):
        DataConfig(source="o.zarr", feature_dims=["depth"])


def test_a_search_for_each_group_is_refused():
    values = {"data": {"source": "o.zarr", **ON_GRID, "by": "lat"}, "output": {"store": "r.zarr"}}
    with pytest.raises(UserError, match=names("data.variables", "data.by")):
        require_groupable(JobConfig.model_validate(values))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_coordinate_that_is_all_fill_value_is_read_as_xarray_reads_it(here, data, zarr_format):
    """Of one time step, the number of days since itself is 0, which is not stored."""
    one = data.isel(time=[0])
    one.drop_encoding().to_zarr("o.zarr", zarr_format=zarr_format, consolidated=False)
    assert not [*here.glob("o.zarr/time/c/*"), *here.glob("o.zarr/time/0")]
    opened = source("o.zarr", **ON_GRID)
    (time,) = [one for one in opened.grid.coordinates if one.name == "time"]
    assert shown_values(time.coordinate_values(), time.attributes) == ["2020-01-01"]
    # where it is clustered on, it may be lost
    opened = source("o.zarr", variables=["temp", "lat"], feature_dims=["depth"])
    next(path for path in here.glob("o.zarr/lat/**/0") if path.is_file()).unlink()
    with pytest.raises(UserError, match=names("lat", "data.missing_chunks")):
        opened.array.compute(scheduler="sync")


def test_a_coordinate_that_cannot_be_read_is_told_when_the_data_are_opened(here, data):
    write_zarr(data, "o.zarr")
    (here / "o.zarr/lat/c/0").write_bytes(b"torn")
    with pytest.raises(UserError, match=names("lat")):
        source("o.zarr", **ON_GRID)
