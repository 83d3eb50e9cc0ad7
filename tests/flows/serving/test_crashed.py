"""The automation of the recipe, on a real server, with processes that are killed."""

import subprocess
import time

import pytest

from paths import ROOT
from prefects import BIN, TIMEOUT, Server, kill, post, run_deployment, serving, until, write_job

RECIPE = ROOT / "docs/how-to/crashed-runs.yaml"
WITHIN = 45  # seconds of silence; signs of life come every 30, which is the least that Prefect takes


@pytest.mark.slow
def test_runs_that_vanished_or_never_began_are_ended_and_one_that_lives_is_not(tmp_path):
    server = Server(tmp_path, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30")
    lives, gone = (endless_job(tmp_path, name) for name in ("lives", "gone"))
    with server.running(), serving(server, lives):
        automate(server, tmp_path)
        with serving(server, gone) as served:
            for name in ("lives", "gone"):
                order(server, name)
            for name in ("lives", "gone"):
                until(lambda name=name: states(server, name) == ["Running"], "the run")
            began = time.monotonic()
            kill(served)
        order(server, "gone")
        until(lambda: pick_up(server), "the run that is ordered")
        assert states(server, "gone") == ["Running", "Pending"]
        until(lambda: states(server, "gone") == ["Crashed", "Crashed"], "the end of both", 2 * TIMEOUT)
        time.sleep(max(0.0, began + 1.5 * WITHIN - time.monotonic()))
        assert states(server, "lives") == ["Running"]
    assert all("No heartbeat came" in message for _, message, _ in server.runs("gone"))


def endless_job(folder, name):
    (folder / name).mkdir()
    search = "{n_components: [2, 3], covariance_types: [diag], tol: 0, max_iter: 1000000000}"
    return write_job(folder / name, name, schedule="{interval: 1000d}", search=search)


def order(server, name):
    """Order a run of a deployment, once it is known."""
    until(lambda: server.query(f"select id from deployment where name = '{name}'"), "the deployment")
    run_deployment(server, "bic-sweep", name)


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
        post(server, f"flow_runs/{run_id}/set_state", {"state": {"type": "PENDING"}})
    return waiting


def states(server, name):
    return [state for state, *_ in server.runs(name)]
