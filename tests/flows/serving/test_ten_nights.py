"""Ten nights on a real server that is restarted, with a drift, and a lock that is held and lost; ordered one by one."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gmm_dask import UserError
from pipeline.config.templates import dated_paths
from pipeline.store import open_result
from prefects import STORE, TIMEOUT, Server, gmm_dask, run_deployment, serving, until, write_job
from ten_nights import NIGHTS, KnownGroups, rows_of_night, shares

RESTART, HELD = 3, 6  # the night in which the server is away, and that of a run that is frozen, and then killed
LOCKED = "another run is at work on the result store"
ENDS = {"Completed": NIGHTS, "Failed": 1, "Crashed": 1}


class Nights:
    """A refresh that is served in a folder: its configuration, its stores, its runs."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server

    def write(self, night):
        """Write the rows of a night, and name them in the configuration; returns the groups."""
        rows, groups = rows_of_night(shares(night), night)
        np.save(self.folder / f"night-{night}.npy", rows)
        write_job(
            self.folder,
            "night",
            schedule="{interval: 1000d, flow: refresh}",
            data=f"{{source: night-{night}.npy}}",
            search="{n_components: [3, 4, 5], covariance_types: [diag], init_params: kmeans}",
            output=f'{{store: "{STORE}", report: false, metrics: prom}}',
            refresh="{keep: 100}",
        )
        return groups

    def order(self):
        """Order a run, due now."""
        until(lambda: self.server.query("select id from deployment where name = 'night'"), "the deployment")
        run_deployment(self.server, "refresh", "night")

    def stores(self, night=None):
        """The stores of all nights, or of one, the oldest first."""
        found = []
        for _, path in reversed(dated_paths(str(self.folder / STORE.replace("{name}", "night")))):
            with suppress(UserError, OSError, ValueError):  # it is being written
                found.append(open_result(path, unfinished=True))
        return [one for one in found if night is None or one.config["data"]["source"] == f"night-{night}.npy"]

    def result(self, night):
        """The first complete result of a night, when it is there."""
        return until(lambda: next((one for one in self.stores(night) if one.is_complete), None), f"night {night}")

    def ended(self, state, text=""):
        """Whether a run has ended in a state, with these words."""
        return any(name == state and text in (message or "") for name, message, _ in self.server.runs("night"))


def processes_of_runs(served):
    """The processes of runs at work."""
    found = []
    for one in psutil.Process(served.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found += [one] if "flows.engine" in one.cmdline() else []
    return found


@pytest.mark.slow
def test_ten_nights(tmp_path):
    server, known = Server(tmp_path), KnownGroups()
    nights, log = Nights(tmp_path, server), tmp_path / "serve.log"
    nights.write(0)
    with server.running(), serving(server, tmp_path) as served:
        for night in range(NIGHTS):
            groups = nights.write(night)
            if night == RESTART:
                with server.away():
                    until(lambda: "does not answer" in log.read_text(), "the outage")
            if night == HELD:
                freeze_and_kill(nights, served, night)
            nights.order()
            known.check(night, nights.result(night), groups)
        until(lambda: not processes_of_runs(served), "the end of the last run")
        served.send_signal(signal.SIGTERM)
        assert served.wait(TIMEOUT) == 143
        drifted = events(server, [one.store for one in nights.stores() if one.is_complete and one.refresh.drifted])
    text = log.read_text()
    assert "Traceback" not in text
    assert "answers again" in text
    assert known.numbers["e"] == 4
    states = [state for state, *_ in server.runs("night")]
    assert {state: states.count(state) for state in ENDS} == ENDS
    assert nights.ended("Completed", "is kept, and fitted to these rows")
    assert nights.ended("Completed", "all candidates are fitted again")
    begun = [name for (name,) in server.query("select name from flow_run where start_time is not null")]
    assert all(re.fullmatch(r"night \d{4}(-\d\d){2} \d\d(:\d\d){2}", name) for name in begun)
    assert len(set(begun)) == len(begun)
    check_files(nights, drifted)
    check_commands(nights, server)


def freeze_and_kill(nights, served, night):
    """A run of the night freezes while it holds the lock, which the next finds; then it is killed."""
    nights.order()
    until(lambda: nights.stores(night), "the store of a run")
    (frozen,) = processes_of_runs(served)
    frozen.suspend()
    assert not any(one.is_complete for one in nights.stores(night))
    nights.order()
    until(lambda: nights.ended("Failed", LOCKED), "a run that finds the lock")
    frozen.kill()
    until(lambda: nights.ended("Crashed"), "the end of the killed run")


def events(server, expected):
    """Payloads of the alarms by store, when the server has written all that are expected to its database."""
    found = "select payload from events where event = 'gmm-dask.drift'"
    until(lambda: len(server.query(found)) >= len(expected), "the events")
    payloads = [json.loads(payload) for (payload,) in server.query(found)]
    assert {Path(one["store"]).name for one in payloads} >= {Path(path).name for path in expected}
    assert all(one["gained"] > one["bound"] == 0.05 for one in payloads)
    return payloads


def check_files(nights, drifted):
    """The metrics are those of the last run, and the alarms name the nights in which the groups changed."""
    found = {}
    for family in text_string_to_metric_families((nights.folder / "prom/gmm-dask-night-run.prom").read_text()):
        found.update({sample.name.removeprefix("gmm_dask_run_"): sample.value for sample in family.samples})
    last = [one for one in nights.stores(NIGHTS - 1) if one.is_complete][-1]
    assert (found["rows"], found["components"]) == (1000, 4)
    assert found["searched"] == last.refresh.searched
    of_drift = {Path(one["store"]).name for one in drifted}
    new_group = nights.result(7)
    assert Path(new_group.store).name in of_drift
    assert new_group.identity.new == (4,)


def check_commands(nights, server):
    """A program reads the same: the difference of the first and the last night, and the drift by its exit code."""
    paths = [os.path.relpath(nights.result(night).store, nights.folder) for night in (0, NIGHTS - 1)]
    run = {"folder": nights.folder, "environment": server.environment}
    difference = json.loads(gmm_dask("diff", *paths, "--json", **run).stdout)
    pairs = {(one["a"], one["b"]) for one in difference["components"]}
    assert len(pairs) == 5
    assert sum(b is None for _, b in pairs) == sum(a is None for a, _ in pairs) == 1
    scored = gmm_dask("score", paths[0], "night-9.npy", "-o", "scores.zarr", "--fail-on-drift", **run)
    assert scored.returncode == 4, scored.stderr
