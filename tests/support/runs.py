"""Runs that are stopped or killed, and what their stores hold."""

from __future__ import annotations

import json
import time

import numpy as np
import zarr

from pipeline.progress import PassDone
from pipeline.store.arrays import open_root

JOB = """
import sys
from pipeline.config.job import load_config
from pipeline.fit.job import run
run(load_config(sys.argv[1], sys.argv[2:]), checkpoint_seconds=0.0)
"""


def passes_of(store):
    """Passes that the current checkpoint knows of; 0 before the first."""
    try:
        return json.loads((store / "zarr.json").read_text())["attributes"]["passes"]
    except FileNotFoundError:
        return 0


def kill_after(process, store, passes, delay):
    """kill -9 some time after the run has saved so many passes."""
    while passes_of(store) < passes:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.wait()


class Stop(BaseException):
    """Ends a run as a signal would."""


def stop_at(number):
    def watch(event):
        if isinstance(event, PassDone) and event.number >= number:
            raise Stop

    return watch


def everything_in(store):
    """All arrays of a store, byte by byte, and its attributes but for the runs' count, reads and times."""
    root = open_root(store)
    arrays = {
        name: np.asarray(node[...]) for name, node in root.members(max_depth=None) if isinstance(node, zarr.Array)
    }
    kinds = {
        name: (array.shape, array.tolist() if array.dtype.kind == "T" else array.tobytes())
        for name, array in arrays.items()
    }
    of_this_run = ("attempts", "bytes_read", "config", "started", "finished", "seconds", "manifest", "sha256")
    attributes = {k: v for k, v in root.attrs.items() if k not in of_this_run}
    if identity := attributes.get("identity"):
        attributes["identity"] = {**identity, "line": ""}  # it tells the path and the time of the first run
    return kinds, attributes
