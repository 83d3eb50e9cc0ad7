"""The automation of the recipe, on a real server, with processes that are killed."""

import json
import subprocess
import time
import urllib.request

import pytest

from paths import ROOT
from prefects import BIN, TIMEOUT, Server, kill, run_deployment, serving, until, write_job

RECIPE = ROOT / "docs/how-to/crashed-runs.yaml"
WITHIN = 45  # seconds of silence; signs of life come every 30, which is the least that Prefect takes


@pytest.mark.slow
def test_runs_that_vanished_or_never_began_are_ended_and_one_that_lives_is_not(tmp_path):
    server = Server(tmp_path, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30")
    search = "{n_components: [2, 3], covariance_types: [diag], tol: 0, max_iter: 1000000000}"
    folder = write_job(tmp_path, "gone", schedule="{interval: 1000d}", search=search)
    with server.running():
        automate(server, folder)
        with serving(server, folder) as served:
            until(lambda: server.query("select id from deployment where name = 'gone'"), "the deployment")
            run_deployment(server, "bic-sweep/gone")
            until(lambda: states(server) == ["Running"], "the run")
            time.sleep(1.5 * WITHIN)
            assert states(server) == ["Running"]
            kill(served)
        run_deployment(server, "bic-sweep/gone")
        until(lambda: pick_up(server), "the run that is ordered")
        assert states(server) == ["Running", "Pending"]
        until(lambda: states(server) == ["Crashed", "Crashed"], "the end of both", 2 * TIMEOUT)
    assert all("No heartbeat came" in message for _, message, _ in server.runs("gone"))


def automate(server, folder):
    """Create the automation of the recipe, with a shorter time."""
    recipe = RECIPE.read_text()
    assert "within: 600" in recipe
    (folder / "recipe.yaml").write_text(recipe.replace("within: 600", f"within: {WITHIN}"))
    command = BIN / "prefect", "automation", "create", "--from-file", folder / "recipe.yaml"
    subprocess.run(command, env=server.environment, check=True, capture_output=True, timeout=TIMEOUT)


def pick_up(server):
    """Put runs that are due into the state in which a process is started for them, which nobody does."""
    waiting = server.query("select id from flow_run where state_type = 'SCHEDULED' and not auto_scheduled")
    for (run_id,) in waiting:
        body = json.dumps({"state": {"type": "PENDING"}}).encode()
        url = f"{server.url}/flow_runs/{run_id}/set_state"
        urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).close()
    return waiting


def states(server):
    return [state for state, *_ in server.runs("gone")]
