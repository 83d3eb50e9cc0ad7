"""What a run needs of the machine beside the data: files that may be open, and a home for Prefect."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from prefect.settings import PREFECT_HOME, temporary_settings

from disks import files_of_at_most
from flows.cli import errors
from flows.prefect_server.choice import prefect_api
from gmm_dask.errors import UserError
from messages import names


def enter_prefect(home):
    with temporary_settings({PREFECT_HOME: home}), prefect_api():
        pass


def test_a_home_of_prefect_that_is_a_file(tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(UserError, match=names("PREFECT_HOME", tmp_path / "home", "--no-prefect")):
        enter_prefect(tmp_path / "home")


def test_a_home_of_prefect_that_is_full(tmp_path):
    with (
        files_of_at_most(4096),
        pytest.raises(UserError, match=names("PREFECT_HOME", tmp_path / "home", "--no-prefect", "free space")),
    ):
        enter_prefect(tmp_path / "home")


def test_no_home_at_all():
    """As where HOME is not set and the user is not in the machine's list."""
    expected = names("home directory", "PREFECT_HOME", "--no-prefect")
    with pytest.raises(UserError, match=expected), errors.prefect_imported("Or add --no-prefect."):
        raise RuntimeError("Could not determine home directory.")


def test_too_many_open_files_are_named(capsys):
    def fail():
        try:
            raise OSError(errno.EMFILE, "Too many open files", "a/zarr.json")
        except OSError:
            raise UserError("cannot write a") from None

    with pytest.raises(typer.Exit), errors.error_messages(debug=False):
        fail()
    assert "ulimit -n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "cause",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
)
def test_no_more_memory_is_named(capsys, cause):
    with pytest.raises(typer.Exit) as ended, errors.error_messages(debug=False):
        raise cause
    assert ended.value.exit_code == 1
    assert re.search(names("ulimit -v", "-u", "cluster.memory_limit"), capsys.readouterr().err)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit it")
@pytest.mark.parametrize("command", ["run", "show"])
def test_too_little_address_space_is_refused_at_once(command):
    called = f"ulimit -v {700 * 1024}; {Path(sys.executable).with_name('gmm-dask')} {command} none"
    found = subprocess.run(["bash", "-c", called], capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2
    assert re.search(names("700 MiB", "4,096 MiB", "ulimit -v unlimited", "cluster.memory_limit"), found.stderr)


@pytest.mark.slow
def test_a_run_with_few_open_files(tmp_path):
    (tmp_path / "rows.csv").write_text("x\n" + "\n".join(map(str, range(50))))
    (tmp_path / "job.yaml").write_text("data: {source: rows.csv}\nsearch: {n_components: [1], init_params: kmeans}\n")
    command = f"ulimit -n 20; {Path(sys.executable).with_name('gmm-dask')} run job.yaml --no-prefect"
    found = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "ulimit -n" in found.stderr
    assert "Traceback" not in found.stderr
