"""A small ocean: temperature and salinity on (time, depth, lat, lon), with land, in the formats of such data."""

from __future__ import annotations

import h5py
import numpy as np
import xarray as xr

PACKED = {"temp": {"dtype": "i2", "scale_factor": 0.001, "add_offset": 10.0, "_FillValue": -32768}}
CHUNKS = {"temp": (2, 2, 6, 10), "salt": (1, 5, 4, 20)}


def ocean(n_times=4, seed=0):
    """Two water masses, north and south of the equator, and land in the same places at all times."""
    rng = np.random.default_rng(seed)
    depth, lat, lon = (
        np.array([5.0, 10.0, 20.0, 50.0, 100.0]),
        np.linspace(-60.0, 60.0, 12),
        np.linspace(0.0, 359.0, 20),
    )
    shape = (n_times, len(depth), len(lat), len(lon))
    north = (lat > 0)[:, None]
    temp = 10.0 - 6.0 * north - np.log(depth)[:, None, None] + rng.normal(0, 0.5, shape)
    salt = 35.0 + 1.5 * north + rng.normal(0, 0.2, shape)
    land = rng.random(shape[2:]) < 0.3
    data = xr.Dataset(
        {
            "temp": (("time", "depth", "lat", "lon"), np.where(land, np.nan, temp), {"units": "degC"}),
            "salt": (("time", "depth", "lat", "lon"), np.where(land, np.nan, salt).astype("f4"), {"units": "1e-3"}),
            "area": (("lat", "lon"), np.cos(np.deg2rad(lat))[:, None] * np.ones(len(lon)), {"units": "1"}),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns") + 31 * np.arange(n_times) * np.timedelta64(1, "D"),
            "depth": ("depth", depth, {"units": "m"}),
            "lat": ("lat", lat, {"units": "degrees_north"}),
            "lon": ("lon", lon, {"units": "degrees_east"}),
            "cell_area": (("lat", "lon"), np.cos(np.deg2rad(lat))[:, None] * np.ones(len(lon)), {"units": "km2"}),
        },
    )
    return data


def write_zarr(data, path, zarr_format=3, chunks=CHUNKS):
    """Write it as xarray does, temperature packed; returns what xarray reads of it."""
    encoding = {name: {**PACKED.get(name, {}), "chunks": chunks[name]} for name in ("temp", "salt")}
    data.drop_encoding().to_zarr(path, zarr_format=zarr_format, consolidated=False, encoding=encoding)
    return xr.open_zarr(path, consolidated=False).load()


def write_netcdf(data, path, packed=PACKED, chunks=CHUNKS):
    """Write it as netCDF-4 files are: datasets of HDF5 with scales for their dimensions."""
    with h5py.File(path, "w") as file:
        for name in data.sizes:
            values, attributes = data[name].values, dict(data[name].attrs)
            if values.dtype.kind == "M":
                attributes["units"] = f"days since {np.datetime_as_string(values[0], unit='D')} 00:00:00"
                values = (values - values[0]) // np.timedelta64(1, "D")
            file[name] = values.astype("f8") if values.dtype.kind == "m" else values
            file[name].make_scale(name)
            file[name].attrs.update(attributes)
        for name, variable in {**data.data_vars, "cell_area": data["cell_area"]}.items():
            values, attributes = variable.values, {"coordinates": "cell_area", **variable.attrs}
            if name in packed:
                how = packed[name]
                numbers = np.rint((values - how["add_offset"]) / how["scale_factor"])
                values = np.where(np.isnan(numbers), how["_FillValue"], numbers).astype(how["dtype"])
                attributes |= {key: value for key, value in how.items() if key != "dtype"}
                attributes["_FillValue"] = values.dtype.type(how["_FillValue"])
            file.create_dataset(name, data=values, chunks=chunks.get(name) if len(data.time) > 1 else None)
            file[name].attrs.update(attributes)
            for axis, dim in enumerate(variable.dims):
                file[name].dims[axis].attach_scale(file[dim])


def stacked(data, names=("temp", "salt"), features=("depth",)):
    """Return the rows by xarray alone, (n_rows, n_columns), in C order of the other dimensions."""
    rows = [dim for dim in data[names[0]].dims if dim not in features]
    array = data[list(names)].to_stacked_array("column", sample_dims=rows)
    return array.stack(row=rows).transpose("row", "column").values
