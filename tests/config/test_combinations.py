"""The table of settings that go together, in the how-to: each pair is taken or refused as it says."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gmm_dask.errors import UserError
from pipeline.config.grouping import require_groupable
from pipeline.config.job import JobConfig
from pipeline.fit.job import run

HOW_TO = Path(__file__).parents[2] / "docs/how-to.md"
SETTINGS = {
    "`data.scale`": {"data": {"scale": "standard"}},
    "steps by column": {"data": {"transform": [{"arcsinh": 2.0}]}},
    "`pca`": {"data": {"transform": [{"pca": 1}]}},
    "`missing: likelihood`": {"data": {"missing": "likelihood"}},
    "`data.by`": {"data": {"by": "group"}},
    "`search.noise`": {"search": {"noise": [False, True]}},
    "`inference: variational`": {"search": {"inference": "variational"}},
    "`search.resamples`": {"search": {"resamples": 3}},
}
# what a message may call them by
NAMES = {
    "`data.scale`": "data.scale",
    "steps by column": "data.transform",
    "`pca`": "pca|data.transform",
    "`missing: likelihood`": "data.missing",
    "`data.by`": "data.by",
    "`search.noise`": "noise",
    "`inference: variational`": "variational",
    "`search.resamples`": "resamples",
}
PAIRS = list(itertools.combinations(SETTINGS, 2))


def table():
    """The answer of each pair."""
    lines = HOW_TO.read_text().partition("\n## What goes together\n")[2].partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, rows = cells[0][1:], cells[2:]
    assert head == list(SETTINGS) == [row[0] for row in rows]
    found = {(row[0], name): answer for row in rows for name, answer in zip(head, row[1:], strict=True)}
    assert all(found[a, b] == found[b, a] for a, b in PAIRS)
    return found


def job(pair, folder=Path("folder"), **output):
    sections = {"data": {"source": str(folder / "rows.parquet"), "columns": ["a", "b"]}}
    sections |= {"search": {"n_components": [1, 2], "covariance_types": ["full"], "init_params": "kmeans"}}
    sections["output"] = {"store": str(folder / "r.zarr"), "report": False, **output}
    for name in pair:
        for section, values in SETTINGS[name].items():
            more = sections[section].get("transform", []) + values.get("transform", [])
            sections[section] |= values | ({"transform": more} if more else {})
    config = JobConfig.model_validate(sections)
    require_groupable(config)
    return config


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_pairs_are_taken_or_refused_by_name_as_the_table_says(pair):
    if table()[pair] == "yes":
        job(pair)
        return
    with pytest.raises((ValueError, UserError)) as error:
        job(pair)
    for name in pair:
        assert re.search(NAMES[name], str(error.value)), name


@pytest.mark.slow
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if table()[pair] == "yes"], ids=" and ".join)
def test_pairs_that_are_taken_run(tmp_path, pair):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(160, 2)) @ [[1.0, 0.3], [0.0, 1.0]] + 5.0 * rng.integers(2, size=(160, 1))
    frame = pd.DataFrame(rows, columns=["a", "b"]).assign(group=np.arange(160) % 2)
    if "`missing: likelihood`" in pair:
        frame.loc[::7, "a"] = np.nan
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    assert run(job(pair, tmp_path)).n_rows == 160
