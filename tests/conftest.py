from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA

from naive import COVARIANCE_TYPES
from paths import ROOT

# the same examples each time, and no limit on the time of one: machines are busy, and kernels are compiled
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run the tests that are marked slow, too")
    parser.addoption("--moments", type=int, default=2, help="how often tests/flows/test_kills.py ends a process")
    parser.addoption("--seed", type=int, help="of these moments")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    slow = [item for item in items if "slow" in item.keywords]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if "slow" not in item.keywords]


@pytest.fixture(params=COVARIANCE_TYPES, scope="session")
def covariance_type(request):
    return request.param


@pytest.fixture(params=["iris", "blobs", "digits", "line"])
def dataset(request):
    """Name and rows of each small data set, and a number of components for it."""
    n_components = {"iris": 3, "blobs": 3, "digits": 5, "line": 3}[request.param]
    return request.param, request.getfixturevalue(request.param), n_components


@pytest.fixture(scope="session")
def iris():
    return pd.read_csv(ROOT / "tests/data/iris.csv").to_numpy(np.float64)


@pytest.fixture(scope="session")
def old_faithful():
    return pd.read_csv(ROOT / "configs/data/old_faithful.csv").to_numpy(np.float64)


@pytest.fixture(scope="session")
def blobs():
    return make_blobs(n_samples=600, centers=3, cluster_std=(1.0, 1.4, 0.8), random_state=7)[0]


@pytest.fixture(scope="session")
def digits():
    """The 1797 digits in their first 10 principal components."""
    return PCA(10, svd_solver="full").fit_transform(load_digits().data)


@pytest.fixture(scope="session")
def line():
    """One-dimensional: three overlapping groups of unequal width."""
    rng = np.random.RandomState(0)
    groups = [rng.normal(-2, 1, 200), rng.normal(1, 0.5, 150), rng.normal(6, 2, 100)]
    return np.concatenate(groups)[:, None]


@pytest.fixture
def unheld(monkeypatch):
    """Small data is read chunk by chunk, like large data."""
    monkeypatch.setattr("pipeline.sources.rows.IN_MEMORY_BYTES", 0)


@pytest.fixture(params=["held", "in chunks"])
def size(request):
    """Small data is held in memory, or read chunk by chunk, like large data."""
    if request.param == "in chunks":
        request.getfixturevalue("unheld")
    return request.param
