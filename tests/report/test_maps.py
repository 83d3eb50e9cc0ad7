"""The map of the labels of a grid in the report."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import mode

from grids import ocean, write_zarr
from pipeline.config.job import JobConfig
from pipeline.fit.job import run
from pipeline.report import maps
from pipeline.report.contents import read_contents
from pipeline.report.maps import read_map
from pipeline.report.page import write_report


def job(folder, data, **output):
    write_zarr(data, folder / "o.zarr")
    return run(
        JobConfig.model_validate(
            {
                "data": {
                    "source": str(folder / "o.zarr"),
                    "variables": ["temp", "salt"],
                    "feature_dims": ["depth"],
                    "missing": "drop",
                },
                "search": {"n_components": [2], "covariance_types": ["diag"], "init_params": "kmeans"},
                "output": {"store": str(folder / "job.zarr"), "report": False, **output},
            }
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("map")


@pytest.fixture(scope="module")
def store(folder):
    data = ocean()
    data["temp"][1:, :, 3:5] -= 8.0  # most of the time, there is the other water mass
    return job(folder, data, log_density=True).store


def labels_of(store):
    return xr.open_zarr(store, group="rows", consolidated=False).label.values


def test_the_map_has_the_most_frequent_label_of_each_place(store):
    labels = labels_of(store)
    found = read_map(read_contents(store))
    assert (found.dims, found.units) == (("lat", "lon"), ("°N", "°E"))
    assert "all 4 places in time" in found.text
    wet = (labels >= 0).all(axis=0)
    np.testing.assert_array_equal(found.labels, np.where(wet, mode(labels).mode, -1))
    assert (labels[0] != found.labels)[wet].any()


def test_of_many_places_and_cells_some_are_drawn(store, monkeypatch):
    monkeypatch.setattr(maps, "MOST_PLACES", 2)
    monkeypatch.setattr(maps, "MOST_CELLS", 10)
    found = read_map(read_contents(store))
    assert found.labels.shape == (6, 10)
    assert [word in found.text for word in ("2 of 4", "every 2th lat", "every 2th lon")] == [True] * 3
    labels = labels_of(store)[[0, 3], ::2, ::2]
    np.testing.assert_array_equal(found.labels >= 0, (labels >= 0).all(axis=0))


def test_the_page_shows_it_and_names_rows_by_their_coordinates(store):
    page = write_report(store)
    text = Path(page).read_text(encoding="utf-8")
    assert 'id="map"' in text
    assert "Map of the labels by lat and lon; of 2 components" in text
    assert "Rows are named by their coordinates." in text
    assert Path(page).with_name("map.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("dims", "plane"),
    [
        ({"lon": "x", "lat": "y"}, ("y", "x")),
        ({"lon": "a", "lat": "b"}, ("b", "a")),  # by the units of their coordinates
        ({"lat": "row", "lon": "line"}, ("row", "time")),  # the last two
    ],
)
def test_directions_are_told_by_names_and_units(tmp_path, dims, plane):
    data = ocean(2).transpose("lon", "lat", "depth", "time").rename(dims)
    data = data.drop_vars([name for name in ("x", "y", "row", "line") if name in data.coords])
    encoding = {name: {} for name in ("temp", "salt")}
    data.drop_encoding().to_zarr(tmp_path / "o.zarr", consolidated=False, encoding=encoding)
    config = {
        "data": {
            "source": str(tmp_path / "o.zarr"),
            "variables": ["temp"],
            "feature_dims": ["depth"],
            "missing": "drop",
        },
        "search": {"n_components": [1], "covariance_types": ["diag"]},
        "output": {"store": str(tmp_path / "job.zarr"), "report": False},
    }
    found = read_map(read_contents(run(JobConfig.model_validate(config)).store))
    assert found.dims == plane
    assert found.labels.shape == tuple(data.sizes[dim] for dim in plane)
