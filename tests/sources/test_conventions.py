"""Stored numbers are decoded by the attributes of netCDF, by each route to them, as xarray decodes them."""

from __future__ import annotations

import base64
import re
import struct
import warnings

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray
import zarr

from gmm_dask import GaussianMixture, UserError
from gmm_dask.conventions import read_encoding
from gmm_dask.inputs import read_input
from messages import names
from pipeline.config.data import DataConfig
from pipeline.sources import open_source

I2 = np.array([[-9999, 1250], [300, -300], [7, 8], [0, 1]], dtype="i2")
F4 = np.array([[-99.9, 1.5], [0.1, 1e20], [2.5, np.nan]], dtype="f4")
BYTES = np.array([[-1, 5], [-128, 127], [100, 3]], dtype="i1")
TEXT_OF_BITS = base64.standard_b64encode(struct.pack("<d", float(np.float32(-99.9)))).decode()

# stored numbers, their attributes as JSON has them, and what xarray makes of them
AS_XARRAY = {
    "plain": (I2, {}),
    "other attributes": (I2, {"units": "m", "long_name": "depth", "standard_name": "depth"}),
    "scale": (I2, {"scale_factor": 0.01}),
    "offset": (I2, {"add_offset": 273.15}),
    "scale and offset": (I2, {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -9999}),
    "negative scale": (I2, {"scale_factor": -0.5, "add_offset": 1.0}),
    "fill value": (I2, {"_FillValue": -9999}),
    "fill value as a list": (I2, {"_FillValue": [-9999]}),
    "fill value as a float": (I2, {"_FillValue": -9999.0}),
    "missing value": (I2, {"missing_value": -9999}),
    "missing values": (I2, {"missing_value": [-9999, 7]}),
    "fill and missing value": (I2, {"_FillValue": 8, "missing_value": -9999}),
    "float32": (F4, {"_FillValue": float(np.float32(-99.9))}),
    "NaN": (F4, {"_FillValue": float("nan")}),
    "unsigned": (BYTES, {"_Unsigned": "true", "_FillValue": -1}),
    "unsigned and packed": (BYTES, {"_Unsigned": "true", "scale_factor": 0.5}),
    "signed": (BYTES.view("u1"), {"_Unsigned": "false"}),
    "64 bits": (np.array([[2**63 - 1, 2**53], [1, 2]]), {"_FillValue": 2**63 - 1}),
    "another byte order": (I2.astype(">i2"), {"scale_factor": 0.01, "_FillValue": -9999}),
}
# and where xarray reads no such attributes, or not written so
NAN = np.nan
OTHERS = {
    "fill value as digits": (I2, {"_FillValue": "-9999"}, [[NAN, 1250], [300, -300], [7, 8], [0, 1]]),
    "fill value as bits in text": (F4, {"_FillValue": TEXT_OF_BITS}, [[NAN, F4[0, 1]], *F4[1:]]),
    "float32 with fewer digits": (F4, {"_FillValue": [-99.9, 1e20]}, [[NAN, 1.5], [F4[1, 0], NAN], [2.5, NAN]]),
    "missing values as text": (I2, {"missing_value": ["-9999", "7"]}, [[NAN, 1250], [300, -300], [NAN, 8], [0, 1]]),
    "scale as text": (I2, {"scale_factor": "10"}, I2 * 10.0),
    "fill value of unsigned": (BYTES, {"_Unsigned": "true", "_FillValue": 255}, [[NAN, 5], [128, 127], [100, 3]]),
    "valid range": (I2, {"valid_range": [0, 300]}, [[NAN, NAN], [300, NAN], [7, 8], [0, 1]]),
    "valid minimum": (I2, {"valid_min": 1}, [[NAN, 1250], [300, NAN], [7, 8], [NAN, 1]]),
    "valid maximum": (I2, {"valid_max": 300}, [[-9999, NAN], [300, -300], [7, 8], [0, 1]]),
    "valid in single precision": (F4, {"valid_min": 0.1, "valid_max": 2.5}, [[NAN, 1.5], [F4[1, 0], NAN], [2.5, NAN]]),
    "valid, packed": (I2, {"scale_factor": 0.5, "valid_range": [0, 300]}, [[NAN, NAN], [150, NAN], [3.5, 4], [0, 0.5]]),
    "valid, turned": (I2, {"scale_factor": -1.0, "valid_min": 1}, [[NAN, -1250], [-300, NAN], [-7, -8], [NAN, -1]]),
    "valid values": (I2, {"scale_factor": 0.5, "valid_max": 150.0}, [[-4999.5, NAN], [150, -150], [3.5, 4], [0, 0.5]]),
    "valid, unsigned": (BYTES, {"_Unsigned": "true", "valid_range": [0, -2]}, [[NAN, 5], [128, 127], [100, 3]]),
}


def to_zarr(path, stored, attributes, **options):
    zarr.create_group(path, **options).create_array("t", data=stored, chunks=(2, 2), attributes=attributes)
    return {"source": f"{path}/t"}


def to_zarr_group(path, stored, attributes):
    group = zarr.create_group(path)
    for i, column in enumerate(stored.T):
        group.create_array(f"x{i}", data=column, chunks=(2,), attributes=attributes)
    return {"source": str(path)}


def to_hdf5(path, stored, attributes):
    """As netCDF-4 has it: attributes of the array's type, in arrays of one element."""
    with h5py.File(path, "w") as file:
        file["t"] = stored
        for key, value in attributes.items():
            typed = key in ("_FillValue", "missing_value") and not isinstance(np.ravel(value)[0], str)
            narrow = typed and (stored.dtype.kind == "f" or np.max(value) <= np.iinfo(stored.dtype).max)
            file["t"].attrs[key] = np.atleast_1d(value).astype(stored.dtype) if narrow else value
    return {"source": str(path)}


ROUTES = {"zarr": (to_zarr, "t.zarr"), "group": (to_zarr_group, "g.zarr"), "netCDF-4": (to_hdf5, "t.nc")}


def of_xarray(stored, attributes):
    variable = xarray.Variable(("row", "column"), stored, dict(attributes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xarray.SerializationWarning)  # of several missing values
        return xarray.conventions.decode_cf_variable("t", variable).values


CASES = {name: (stored, attributes, None) for name, (stored, attributes) in AS_XARRAY.items()} | OTHERS


def expected_of(case):
    stored, attributes, expected = CASES[case]
    return of_xarray(stored, attributes) if expected is None else np.array(expected, dtype=float)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", CASES)
def test_jobs_read_the_values(tmp_path, case, route):
    write, name = ROUTES[route]
    stored, attributes, _ = CASES[case]
    source = open_source(DataConfig.model_validate(write(tmp_path / name, stored, attributes)))
    found = source.array.compute(scheduler="sync")
    # single precision, where xarray unpacks to it
    np.testing.assert_allclose(found, expected_of(case), rtol=1e-6)
    assert found.dtype == source.array.dtype == (np.float32 if stored.dtype == np.float32 else np.float64)
    chosen = open_source(
        DataConfig.model_validate({**write(tmp_path / f"2{name}", stored, attributes), "columns": ["x1"]})
    )
    np.testing.assert_array_equal(chosen.array.compute(scheduler="sync"), found[:, 1:])


@pytest.mark.parametrize("case", CASES)
def test_estimators_read_the_values(tmp_path, case):
    stored, attributes, _ = CASES[case]
    to_zarr(tmp_path / "t.zarr", stored, attributes)
    to_hdf5(tmp_path / "t.h5", stored, attributes)
    lazy = read_input(GaussianMixture(), zarr.open(tmp_path / "t.zarr")["t"], reset=True)
    np.testing.assert_allclose(lazy.compute(), expected_of(case), rtol=1e-6)
    with h5py.File(tmp_path / "t.h5") as file:
        np.testing.assert_array_equal(read_input(GaussianMixture(), file["t"], reset=True), lazy.compute())


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_xarray_writes_is_read_as_xarray_reads_it(tmp_path, zarr_format):
    rng = np.random.default_rng(0)
    values = rng.normal(20.0, 5.0, (50, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    data = xarray.Dataset({name: ("row", column) for name, column in zip("abc", values.T, strict=True)})
    encoding = {
        "a": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 20.0, "_FillValue": -32768},
        "b": {"dtype": "f4", "_FillValue": -99.9},
        "c": {"dtype": "u1", "scale_factor": 0.25, "_FillValue": 255},
    }
    path = tmp_path / "x.zarr"
    data.to_zarr(path, zarr_format=zarr_format, consolidated=False, encoding=encoding)
    source = open_source(DataConfig(source=str(path)))
    expected = xarray.open_zarr(path, consolidated=False)[["a", "b", "c"]].to_dataarray().values.T
    np.testing.assert_allclose(source.array.compute(scheduler="sync"), expected, rtol=1e-6)
    assert any("decoded" in note and "a, b, c" in note for note in source.notes)


# -- what is not understood --------------------------------------------------------------------------------------

REFUSED = {
    "scale_factor": (0.0, "gain", [0.1, 0.2], float("inf")),
    "add_offset": ("", {"of": 3}, [1, 2], float("nan")),
    "_FillValue": ("none", 0.5, 40_000, [1, "x"], 1e20),
    "missing_value": ("-", 1e20, float("inf")),
    "valid_range": ([0], [0, 1, 2], "0 to 300", [0, float("nan")]),
    "valid_min": ([0, 1], "zero"),
    "valid_max": ([], float("nan")),
    "_Unsigned": ("yes", 3),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_what_is_not_understood_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(UserError, match=names(key, "of X", repr(value), "correct it")):
        read_encoding({key: value}, I2.dtype, "X")
    write = to_zarr_group if value == value else to_zarr
    data = write(tmp_path / "g.zarr", I2, {key: value})
    with pytest.raises(UserError, match=names("data.source", key, "g.zarr")):
        open_source(DataConfig.model_validate(data))
    if "x1" in zarr.open(tmp_path / "g.zarr"):  # a column that is not read may have any
        zarr.open(tmp_path / "g.zarr")["x1"].attrs.clear()
        found = open_source(DataConfig(source=str(tmp_path / "g.zarr"), columns=["x1"]))
        np.testing.assert_array_equal(found.array.compute(scheduler="sync"), I2[:, 1:])
    with pytest.raises(UserError, match=names(key, "of X")):
        GaussianMixture().fit(zarr.open(tmp_path / "g.zarr")["t"] if write is to_zarr else with_attributes(key, value))


def with_attributes(key, value):
    return zarr.create_array(zarr.storage.MemoryStore(), data=I2, attributes={key: value})


def test_numbers_of_a_type_that_has_no_sign_of_its_own():
    with pytest.raises(UserError, match=names("_Unsigned", "integers", "float32")):
        read_encoding({"_Unsigned": "true"}, F4.dtype, "X")


def test_attributes_of_named_fields_are_refused(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["t"] = np.zeros(5, dtype=[("a", "f8"), ("b", "i4")])
        file["t"].attrs["_FillValue"] = -1
    with pytest.raises(UserError, match=names("data.source", "t.h5", "_FillValue", "named fields")):
        open_source(DataConfig(source=str(tmp_path / "t.h5")))


def test_an_array_that_xarray_did_not_decode_is_refused():
    X = xarray.DataArray(I2, dims=("row", "column"), attrs={"scale_factor": 0.01})
    for array in (X, X.chunk()):
        with pytest.raises(UserError, match=names("scale_factor", "decode_cf")):
            GaussianMixture().fit(array)
    decoded = xarray.decode_cf(X.to_dataset(name="x"))["x"]
    assert GaussianMixture(random_state=0).fit(decoded).means_[0, 1] == pytest.approx(I2[:, 1].mean() / 100, rel=1e-6)


# -- dates -------------------------------------------------------------------------------------------------------


def test_dates_are_left_out_and_that_is_said(tmp_path):
    when = np.datetime64("2020-01-01", "ns") + np.arange(9).astype("timedelta64[D]")
    data = xarray.Dataset({"when": ("obs", when), "a": ("obs", np.arange(9.0))})
    data.to_zarr(tmp_path / "x.zarr", consolidated=False)
    source = open_source(DataConfig(source=str(tmp_path / "x.zarr")))
    assert source.columns == ("a",)
    assert any(re.search(names("left out", "when", "days since 2020-01-01"), note) for note in source.notes)
    with pytest.raises(UserError, match=names("data.columns", "when", "not numeric", "days since 2020-01-01")):
        open_source(DataConfig(source=str(tmp_path / "x.zarr"), columns=["when"]))


@pytest.mark.parametrize(
    "units", ["hours since 1950-01-01", "Days Since 1950-1-1 0:0:0", np.bytes_("s since 1970-01-01")]
)
def test_arrays_of_dates_are_refused(tmp_path, units):
    with h5py.File(tmp_path / "t.nc", "w") as file:
        file["t"] = np.arange(4.0)
        file["t"].attrs["units"] = units
        with pytest.raises(UserError, match=names("X", "dates")):
            read_input(GaussianMixture(), file["t"], reset=True)
    with pytest.raises(UserError, match=names("data.source", "no numeric columns")):
        open_source(DataConfig(source=str(tmp_path / "t.nc")))


# -- netCDF-4 ----------------------------------------------------------------------------------------------------


def test_scales_of_dimensions_are_no_data(tmp_path):
    with h5py.File(tmp_path / "t.nc", "w") as file:
        file["t"] = I2
        for i, name in enumerate(("row", "column")):
            file[name] = np.arange(I2.shape[i])
            file[name].make_scale(name)
            file["t"].dims[i].attach_scale(file[name])
    opened = open_source(DataConfig(source=str(tmp_path / "t.nc")))
    np.testing.assert_array_equal(opened.array.compute(scheduler="sync"), I2)
    assert open_source(DataConfig(source=str(tmp_path / "t.nc"), dataset="row")).n_rows == len(I2)


def test_the_classic_format_is_named(tmp_path):
    xarray.Dataset({"t": ("row", [1.0, 2.0])}).to_netcdf(tmp_path / "t.nc", engine="scipy")
    with pytest.raises(UserError, match=names("t.nc", "classic", "nccopy")):
        open_source(DataConfig(source=str(tmp_path / "t.nc")))


# -- masked arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4"])
def test_masked_values_are_missing(dtype):
    values = np.random.default_rng(0).integers(0, 99, (40, 2)).astype(dtype)
    mask = np.zeros_like(values, dtype=bool)
    mask[3, 1] = mask[7, 0] = True
    masked = np.ma.array(values, mask=mask)
    lazy = da.from_array(masked, chunks=(9, 2))
    fitted = GaussianMixture(random_state=0).fit(values)
    for X in (masked, lazy, xarray.DataArray(lazy)):
        with pytest.raises(UserError, match=names("2 of 40 rows", "1 in column 0", "1 in column 1")):
            GaussianMixture().fit(X)
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict(masked)
    unmasked = np.ma.array(values, mask=np.zeros_like(mask))
    for X in (unmasked, da.from_array(unmasked, chunks=(9, 2))):
        np.testing.assert_allclose(GaussianMixture(random_state=0).fit(X).means_, fitted.means_, rtol=1e-6)


def test_masked_weights_are_missing():
    X = np.random.default_rng(0).normal(size=(40, 2))
    weights = np.ma.array(np.ones(40), mask=np.arange(40) == 3)
    with pytest.raises(ValueError, match="NaN"):
        GaussianMixture().fit(X, sample_weight=weights)
    with pytest.raises(UserError, match="weight"):
        GaussianMixture().fit(da.from_array(X, chunks=(9, 2)), sample_weight=da.from_array(weights, chunks=9))
