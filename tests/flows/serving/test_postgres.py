"""Schedules on a Prefect server that stores its data in PostgreSQL and requires a password."""

import pytest

from postgres import INITDB, POSTGRES, postgres
from prefects import Server, gmm_dask, serving, until, write_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (INITDB and POSTGRES), reason="needs PostgreSQL: initdb and postgres, on the path or in /usr/lib"
    ),
]
PASSWORD = "night:watch-8271"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with postgres() as database:
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
            "PREFECT_API_AUTH_STRING": PASSWORD,
        }
        found = Server(tmp_path_factory.mktemp("server"), **settings)
        found.query = database.query
        with found.running():
            yield found


def test_a_scheduled_run_is_executed_and_completes(tmp_path, server):
    folder = write_job(tmp_path, "guarded", schedule="{interval: 10s}")
    with serving(server, folder):
        until(lambda: "Completed" in [state for state, *_ in server.runs("guarded")], "a run")
    assert list((folder / "out").glob("guarded-*.zarr/zarr.json"))
    assert not (server.home / "prefect.db").exists()
    stored = server.query("select message from log union all select data::text from artifact")
    assert len(stored) > 5
    text = "".join(value for (value,) in stored) + (folder / "serve.log").read_text()
    assert "watch-8271" not in text


@pytest.mark.parametrize("command", ["serve", "run"])
@pytest.mark.parametrize(
    ("given", "reason"), [({}, "none is set"), ({"PREFECT_API_AUTH_STRING": "night:7"}, "is wrong")]
)
def test_a_missing_or_wrong_password_is_reported(tmp_path, server, command, given, reason):
    write_job(tmp_path, "refused")
    environment = {name: value for name, value in server.environment.items() if name != "PREFECT_API_AUTH_STRING"}
    done = gmm_dask(command, "job.yaml", folder=tmp_path, environment=environment | given)
    assert done.returncode == 2
    words = " ".join(done.stderr.split())
    assert "PREFECT_API_AUTH_STRING" in words
    assert reason in words
    assert "night:7" not in words
    assert "watch-8271" not in words
    assert not server.query("select id from deployment where name = 'refused'")
