"""A job over a grid beside xarray's stack and scikit-learn: seconds, those of processors, and the peak of memory.

The grid is a synthetic ocean of 1 GB, (time, depth, lat, lon), with land, temperature and salinity packed into 16 bits,
in Zarr chunks of one time, all depths and a part of the map. A row is a profile of all depths of both variables. Both
sides fit mixtures of the same numbers of components for the same number of iterations, from random rows, and write the
labels of the last one on the grid; each runs in a process of its own, one after the other.

    python benchmarks/ocean.py                            # 30 times, 7.8 M cells x 64 columns
    python benchmarks/ocean.py --times 3 --memory 700MiB  # a tenth of it
    python benchmarks/ocean.py --times 120 --only job     # more than fits beside scikit-learn
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr
from machine import describe_machine

COMPONENTS, ITERATIONS = [4, 8], 5
DEPTHS, LATS, LONS = 32, 360, 720
ENCODING = {"dtype": "i2", "_FillValue": -32768, "chunks": (1, DEPTHS, 90, 180)}

JOB = """
name: ocean
data: {source: ocean.zarr, variables: [temp, salt], feature_dims: [depth], missing: drop, cache: none}
search:
  n_components: [COMPONENTS]
  covariance_types: [diag]
  init_params: random_from_data
  tol: 1.0e-12
  max_iter: ITERATIONS
  reg_covar: 1.0e-6
cluster: {memory_limit: MEMORY}
output: {store: job.zarr, report: false}
"""
RUN_JOB = """
from flows.cli import app
import sys
sys.argv = ["gmm-dask", "run", "job.yaml", "--no-prefect"]
app()
"""
BY_HAND = """
import sys, warnings
import numpy as np
import xarray as xr
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
warnings.simplefilter("ignore", ConvergenceWarning)
ocean = xr.open_zarr("ocean.zarr", consolidated=False)
cells = ocean.to_stacked_array("column", sample_dims=["time", "lat", "lon"]).stack(cell=["time", "lat", "lon"])
x = cells.transpose("cell", "column").values
wet = ~np.isnan(x).any(axis=1)
x = x[wet]
for n_components in [COMPONENTS]:
    settings = {"covariance_type": "diag", "init_params": "random_from_data", "random_state": 0}
    mixture = GaussianMixture(n_components, tol=0.0, max_iter=ITERATIONS, **settings).fit(x)
    mixture.bic(x)
label = np.full(len(wet), -1, dtype=np.int32)
label[wet] = mixture.predict(x)
labels = xr.DataArray(label, coords={"cell": cells.cell}, name="label").unstack("cell")
labels.to_dataset().drop_encoding().to_zarr("by_hand.zarr", mode="w", consolidated=False)
"""
PEAK = """
import re as _re
print("PEAK", _re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1), file=sys.stderr)
"""


def make_ocean(path: Path, n_times: int) -> None:
    """Write the grid, one time after the other."""
    rng = np.random.default_rng(0)
    depth, lat, lon = (
        np.geomspace(5.0, 4000.0, DEPTHS),
        np.linspace(-89.75, 89.75, LATS),
        np.linspace(0.25, 359.75, LONS),
    )
    layer = np.exp(-depth / 400.0)[:, None, None]
    land = np.sin(np.deg2rad(2.0 * lon + lat[:, None])) + np.cos(np.deg2rad(1.5 * lat))[:, None] > 1.2
    for i in range(n_times):
        season = 4.0 * np.cos(2.0 * np.pi * i / 12.0)
        front = np.abs(lat)[:, None] + 5.0 * np.sin(np.deg2rad(3.0 * lon)) + season
        surface = np.select(
            [front < 15, front < 25, front < 35, front < 45, front < 55, front < 65], range(28, 4, -4), 1.0
        )
        profile = 1.5 + (surface - 1.5) * layer
        shape = (1, DEPTHS, LATS, LONS)
        temp = np.where(land, np.nan, profile + 0.4 * rng.standard_normal(shape, dtype=np.float32))
        salt = np.where(
            land, np.nan, 34.6 + 0.05 * (profile - 9.0) + 0.05 * rng.standard_normal(shape, dtype=np.float32)
        )
        dims = ("time", "depth", "lat", "lon")
        data = xr.Dataset(
            {"temp": (dims, temp), "salt": (dims, salt)}, coords={"time": [i], "depth": depth, "lat": lat, "lon": lon}
        )
        if i == 0:
            packed = {
                "temp": {"scale_factor": 0.001, "add_offset": 15.0},
                "salt": {"scale_factor": 0.001, "add_offset": 35.0},
            }
            encoding = {name: {**ENCODING, **packed[name]} for name in packed}
            # Zarr leaves out chunks of fill values, as those of land would be
            data.to_zarr(path, consolidated=False, encoding=encoding, write_empty_chunks=True)
        else:
            data.to_zarr(path, consolidated=False, append_dim="time", write_empty_chunks=True)


def measure(code: str, folder: Path) -> dict[str, float]:
    """Run Python code in a process of its own; returns seconds, those of processors, and the peak of memory in MiB."""
    begin, before = time.perf_counter(), os.times()
    # the peak of the process itself; getrusage would count what its parent held when it was started
    whole = f"import sys\ntry:\n{_indented(code)}\nfinally:\n{_indented(PEAK)}\n"
    ended = subprocess.run([sys.executable, "-c", whole], cwd=folder, capture_output=True, text=True)
    seconds, after = time.perf_counter() - begin, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    found = re.search(r"PEAK (\d+)", ended.stderr)
    if found is None or ended.returncode != 0:
        return {"seconds": seconds, "cpu_seconds": used, "peak_mib": float("nan"), "exit_code": ended.returncode}
    return {"seconds": seconds, "cpu_seconds": used, "peak_mib": int(found.group(1)) / 1024}


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.strip().splitlines())


def fill(text: str, memory: str) -> str:
    """Put the settings into a text."""
    numbers = ", ".join(map(str, COMPONENTS))
    return text.replace("COMPONENTS", numbers).replace("ITERATIONS", str(ITERATIONS)).replace("MEMORY", memory)


def main() -> None:
    """Make the grid, run both sides, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--memory", default="1GiB", help="the limit of the job")
    parser.add_argument("--folder", type=Path, help="where the grid is kept; by default it is removed")
    parser.add_argument("--only", choices=["job", "by hand"], help="one side alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "ocean.zarr").exists():
            make_ocean(folder / "ocean.zarr", arguments.times)
        (folder / "job.yaml").write_text(fill(JOB, arguments.memory))
        cells = arguments.times * LATS * LONS
        print(describe_machine())
        print(
            f"{cells:,} cells x {2 * DEPTHS} columns, {4 * cells * DEPTHS / 1e9:.2f} GB as stored, before compression"
        )
        sides = {"by hand": fill(BY_HAND, ""), "job": RUN_JOB}
        found = {}
        for name in [arguments.only] if arguments.only else sides:
            found[name] = measure(sides[name], folder)
            print(name, json.dumps(found[name]), flush=True)
        if len(found) == 2:
            hand, job = found["by hand"], found["job"]
            print(
                f"xarray and scikit-learn take {hand['seconds'] / job['seconds']:.1f} times the seconds, "
                f"{hand['cpu_seconds'] / job['cpu_seconds']:.1f} times those of processors, and "
                f"{hand['peak_mib'] / job['peak_mib']:.1f} times the memory"
            )
            _compare(folder)


def _compare(folder: Path) -> None:
    """Tell how far the labels of both sides agree: their starts are other random rows."""
    from sklearn.metrics import adjusted_rand_score

    job = xr.open_zarr(folder / "job.zarr", group="rows", consolidated=False).label.isel(time=0).values
    hand = xr.open_zarr(folder / "by_hand.zarr", consolidated=False).label.isel(time=0).values
    wet = hand >= 0
    print(f"the same cells have labels: {np.array_equal(job >= 0, wet)}")
    print(f"adjusted Rand index of the first time: {adjusted_rand_score(job[wet], hand[wet]):.2f}")


if __name__ == "__main__":
    main()
