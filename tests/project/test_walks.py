"""The other pages: each command and each piece of code is run, or the page says in a comment why not."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nightly import nightly_job
from paths import ROOT
from pipeline.config.job import load_config
from pipeline.fit.job import run
from walks import blocks_of, walk

TUTORIAL = ROOT / "docs/tutorial.md"  # has a test of its own
PAGES = [page for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]) if page != TUTORIAL]
# pages with commands and code, and how many blocks of what is printed they have
WALKED = {
    "README.md": 0,
    "docs/how-to.md": 0,
    "docs/how-to/clusters.md": 1,
    "docs/how-to/grids.md": 0,
    "docs/how-to/groups.md": 1,
    "docs/how-to/identity.md": 1,
    "docs/how-to/programs.md": 0,
    "docs/index.md": 0,
}
NIGHTS = [datetime(2026, 11, day, 2) for day in (22, 28, 29)]


def relative(page):
    return page.relative_to(ROOT).as_posix()


def test_pages_whose_blocks_are_not_run_say_why():
    walked = {relative(page) for page in PAGES if any(block.is_run for block in blocks_of(page))}
    assert walked == set(WALKED)
    for page in PAGES:
        for block in blocks_of(page):
            assert len(block.comments.get("not run", "because ...")) > 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and results of the pages, all of them small."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("flights.*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(ROOT / "configs/data")])
        run(load_config("configs/quickstart.yaml"))
        last_week = ["search.n_components=2", "search.covariance_types=full", "output.store=results/last-week.zarr"]
        run(load_config("configs/quickstart.yaml", last_week))
        _flights()
        _crosses()
        _nights(folder, patch)
        _sales()
        pd.DataFrame(_groups([0, 6], seed=9), columns=["a", "b"]).to_parquet("arrived.parquet")
        job = "name: nightly\ndata: {source: arrived.parquet}\nsearch: {n_components: [1, 2], init_params: kmeans}\n"
        (folder / "job.yaml").write_text(f"{job}output: {{store: results/nightly.zarr}}\n")
    return folder


def _flights():
    """A job of every fiftieth flight, and the flights of July."""
    from write_flights import read_flights

    flights = read_flights().iloc[::50]
    flights.to_parquet("configs/data/flights.parquet", index=False)
    july = flights[flights.month == 7]
    july.to_parquet("july.parquet", index=False)
    Path("july").mkdir()
    for number in range(2):
        july.iloc[number::2].to_parquet(f"july/part.{number}.parquet", index=False)
    few = ["n_components=[5, 6]", "covariance_types=[full]", "init_params=kmeans", "resamples=2", "max_iter=20"]
    shutil.copy(ROOT / "configs/flights.yaml", "configs")
    few = [f"search.{one}" for one in few]
    run(load_config("configs/flights.yaml", few))
    run(load_config("configs/flights.yaml", [*few, "data.source=july", "output.store=results/july.zarr"]))


def _crosses():
    """The rows of two crosses, which mclust's clustCombi is shown with."""
    shutil.copy(ROOT / "tests/data/baudry.csv", "crosses.csv")
    search = "search: {n_components: 6, covariance_types: full, n_init: 3, init_params: kmeans}"
    job = f"name: crosses\ndata: {{source: crosses.csv}}\n{search}\noutput: {{report: false}}\n"
    with open("crosses.yaml", "w") as file:
        file.write(job)
    run(load_config("crosses.yaml"))


def _sales():
    """Rows of five groups, and one of a group of its own."""
    stores = [
        pd.DataFrame(_groups([0, 5 + i], seed=i), columns=["price", "quantity"]).assign(store_id=i) for i in range(5)
    ]
    stores.append(pd.DataFrame({"price": [1.0], "quantity": [2.0], "store_id": [17]}))
    pd.concat(stores).to_parquet("sales.parquet", index=False)


def _nights(folder, patch):
    """Results of three nights; before the last one a group goes, and another comes."""
    for night, centers in zip(NIGHTS, ([0, 6, 12], [0, 6, 12], [0, 12, 18]), strict=True):
        np.save("rows.npy", _groups(centers, seed=night.day))
        patch.setattr("pipeline.store.paths.datetime", _Clock(night))
        search = {"n_components": [3], "covariance_types": ["full"], "init_params": "k-means++"}
        output = {"store": "results/{name}-{started:%Y-%m-%d}.zarr"}
        run(nightly_job(folder, name="nightly", search=search, output=output))
    (folder / "results/nightly-latest.zarr").symlink_to("nightly-2026-11-29.zarr")


class _Clock:
    """A clock that has stopped."""

    def __init__(self, moment):
        self._moment = moment

    def now(self, zone=None):
        return self._moment.replace(tzinfo=zone)


def _groups(centers, seed):
    rng = np.random.default_rng(seed)
    sizes = [200 - 40 * number for number in range(len(centers))]
    return np.concatenate([rng.normal(center, 1.0, (n, 2)) for center, n in zip(centers, sizes, strict=True)])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of so few rows, and of libraries among each other
@pytest.mark.parametrize("page", WALKED)
def test_a_page_is_walked_through(folder, monkeypatch, page):
    monkeypatch.chdir(folder)
    X = pd.read_csv("configs/data/old_faithful.csv").iloc[:200]
    names = {"X": X, "monday_rows": _groups([0, 6, 12], 1), "tuesday_rows": _groups([0, 12, 18], 2)}
    assert walk(ROOT / page, folder, names) == WALKED[page]
