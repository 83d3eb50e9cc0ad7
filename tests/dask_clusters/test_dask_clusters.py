"""Jobs on clusters: worker processes of the job, and schedulers and workers that are started by command."""

import datetime
import functools
import importlib.metadata
import ipaddress
import os
import re
import signal
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path

import dask
import distributed
import numpy as np
import pandas as pd
import pytest
import threadpoolctl
import zarr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import pipeline.sources.rows
from gmm_dask.errors import FaultError, UserError
from gmm_dask.passes.rows import as_rows
from marks import slow
from messages import names
from pipeline import dask_clusters
from pipeline.config.cluster import ClusterConfig
from pipeline.config.job import JobConfig
from pipeline.dask_clusters.checks import ClusterError, require_packages, require_visible
from pipeline.dask_clusters.compute import ClusterGet, lost_scheduler_reported
from pipeline.dask_clusters.start import cluster_class, started
from pipeline.fit.job import run
from pipeline.progress import PassDone, StageStarted
from pipeline.stages import StageTimeoutError, limited
from processes import ROOT, Processes

N_CHUNKS, CHUNK_ROWS = 60, 100
PASSES = 6
RECONNECT = 5.0  # seconds in which a scheduler that was lost may come back


@pytest.fixture(autouse=True)
def _chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    random = np.random.default_rng(3)
    groups = [random.normal(center, 1.0, (N_CHUNKS * CHUNK_ROWS // 2, 3)) for center in (-2.0, 1.5)]
    path = tmp_path_factory.mktemp("rows") / "a.npy"
    np.save(path, random.permutation(np.concatenate(groups)))
    return path


def job(data, store, **cluster):
    return JobConfig.model_validate(
        {
            "data": {"source": str(data), "chunk_rows": CHUNK_ROWS},
            "search": {
                "n_components": [2, 3],
                "covariance_types": ["full", "EVI"],
                "noise": [False, True],
                "init_params": "kmeans",
                "tol": 0.0,
                "max_iter": PASSES,
            },
            "cluster": cluster,
            "output": {"store": str(store), "report": False},
        }
    )


def result(store):
    """Every number that a result store holds about criteria, models and rows, as bytes."""
    group = zarr.open_group(store, mode="r")
    names = [f"criteria/{name}" for name in ("bic", "log_likelihood", "n_iter")]
    names += [f"models/{name}/{what}" for name in ("full-k2", "EVI-k3-noise") for what in ("means", "lower_bounds")]
    return {name: np.asarray(group[name]).tobytes() for name in [*names, "rows/label"]}


@pytest.fixture(scope="module")
def on_threads(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.sources.rows, "IN_MEMORY_BYTES", 0)
        store = tmp_path_factory.mktemp("threads") / "a.zarr"
        run(job(data, store))
    return result(store)


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A scheduler and two workers that the tests leave alone."""
    made = Processes(tmp_path_factory.mktemp("dask"))
    made.start_scheduler()
    for name in ("a", "b"):
        made.start_worker(name)
    wait_for_workers(made)
    yield made
    made.stop()


def wait_for_workers(processes):
    """Wait until a worker runs for each that was started and still lives, so that the job need not."""
    alive = sum(worker.poll() is None for worker in processes.workers.values())
    with distributed.Client(processes.address, set_as_default=False) as client:
        client.wait_for_workers(alive, timeout=60)


# -- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_worker_processes_of_the_job(data, on_threads, tmp_path):
    told = []
    stage = {}

    def as_task(function):
        stage[function.__name__] = function
        return lambda *values: in_thread(function, *values)  # as orchestrators may

    cluster = {"kind": "local", "workers": 2, "threads_per_worker": 1, "local_directory": str(tmp_path / "spill")}
    run(job(data, tmp_path / "a.zarr", **cluster), progress=told.append, as_task=as_task)
    assert result(tmp_path / "a.zarr") == on_threads
    found = [event.detail for event in told if isinstance(event, StageStarted) and event.name == "cluster"]
    assert found[0] == "waiting for local"
    assert found[1].startswith("2 workers with 2 threads in all, 2.00 GiB")
    assert len(found) == 2  # one cluster for all stages
    assert any((tmp_path / "spill").iterdir())


@pytest.mark.slow
def test_a_local_worker_that_is_killed_is_replaced(data, on_threads, tmp_path):
    """And other users of the machine, who do not have the cluster's certificates, cannot connect."""
    processes = []

    def kill_one(event):
        if not isinstance(event, PassDone) or processes:
            return
        client = dask_clusters.client._current.client
        address = client.scheduler.address
        for target, security in ((address.replace("tls", "tcp"), None), (address, distributed.Security.temporary())):
            with pytest.raises(OSError, match=r"closed|connect|SSL|TLS"):
                distributed.Client(target, security=security, timeout=2, set_as_default=False)
        processes.append(set(client.run(os.getpid).values()))
        os.kill(min(processes[0]), signal.SIGKILL)
        client.wait_for_workers(1)
        end = time.monotonic() + 60
        while time.monotonic() < end and len(processes) == 1:
            now = set(client.run(os.getpid, on_error="ignore").values())
            if len(now) == 2 and min(processes[0]) not in now:
                processes.append(now)

    cluster = {"kind": "local", "workers": 2, "threads_per_worker": 1}
    run(job(data, tmp_path / "a.zarr", **cluster), progress=kill_one)
    assert result(tmp_path / "a.zarr") == on_threads
    assert len(processes) == 2


def in_thread(function, *values):
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*values)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("persist", [*slow(["never", "always"]), "auto"])
def test_a_scheduler_that_runs(data, on_threads, tmp_path, shared, persist):
    told = []
    config = job(data, tmp_path / "a.zarr", kind="address", address=shared.address, min_workers=2, persist=persist)
    summary = run(config, progress=told.append)
    assert result(tmp_path / "a.zarr") == on_threads
    kept = any(isinstance(event, StageStarted) and event.name == "persist" for event in told)
    assert kept == (persist != "never")
    # pass 0, that for the box of the noise, the pass that keeps the rows, the answers; or all of them
    reads = 4 if kept else summary.passes
    assert summary.bytes_read == reads * N_CHUNKS * CHUNK_ROWS * 3 * 8


@pytest.mark.slow
def test_workers_that_keep_the_rows_hold_out_the_same(data, tmp_path, shared):
    stores = {"threads": {}, "address": {"address": shared.address, "min_workers": 2, "persist": "always"}}
    tables = []
    for kind, cluster in stores.items():
        config = job(data, tmp_path / f"{kind}.zarr", kind=kind, **cluster)
        search = config.search.model_copy(update={"held_out": 0.3})
        tables.append(run(config.model_copy(update={"search": search})).table)
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert tables[0]["held_out"].notna().all()


@pytest.mark.slow
def test_data_that_do_not_fit_are_not_kept(data, tmp_path, shared, monkeypatch):
    monkeypatch.setattr(dask_clusters.client, "rows_bytes", lambda rows, chunk_rows: 4 << 30)
    told = []
    run(job(data, tmp_path / "a.zarr", kind="address", address=shared.address), progress=told.append)
    assert not [event for event in told if isinstance(event, StageStarted) and event.name == "persist"]


def test_a_stage_that_is_called_alone_finds_the_scheduler(data, tmp_path, shared):
    config = job(data, tmp_path / "a.zarr", kind="address", address=shared.address)
    assert pipeline.fit.job.prepare(config, False, lambda event: None) is pipeline.store.StoreStatus.NEW
    pipeline.fit.job.seed(config, lambda event: None)
    assert len(pipeline.store.load_checkpoint(config.output.store).waves) == 1


@pytest.mark.slow
def test_a_class_of_clusters(data, on_threads, tmp_path, monkeypatch):
    monkeypatch.setenv("HOST", "127.0.0.1")
    cluster = {
        "kind": "class",
        "class_path": "distributed.LocalCluster",
        "kwargs": {"n_workers": 0, "threads_per_worker": 1, "host": "${HOST}", "dashboard_address": "127.0.0.1:0"},
        "adaptive": {"minimum": 1, "maximum": 2},
    }
    run(job(data, tmp_path / "a.zarr", **cluster))
    assert result(tmp_path / "a.zarr") == on_threads


# -- processes that die -------------------------------------------------------------------------------------------


class AfterPass:
    """A watcher that does something in a thread when a pass is over, and puts down how many passes there were then."""

    def __init__(self, number, action):
        self.passes = 0
        self.passes_after = None
        self._number = number
        self._action = action

    def __call__(self, event):
        if isinstance(event, PassDone):
            self.passes += 1
            if self.passes == self._number:
                threading.Thread(target=self._act).start()

    def _act(self):
        self._action()
        self.passes_after = self.passes


def holder_of_parameters(client):
    """Name of a worker that has the parameters of the pass in work, once some chunks are done."""
    workers = client.scheduler_info()["workers"]
    for _ in range(2000):
        for key, addresses in client.who_has().items():
            if str(key).startswith("parameters-") and addresses:
                return workers[addresses[0]]["name"]
        time.sleep(0.002)
    raise AssertionError("no worker has the parameters")


@pytest.mark.slow
@pytest.mark.parametrize("persist", ["never", "always"])
def test_the_worker_with_the_parameters_is_killed_in_a_pass(data, on_threads, tmp_path, processes, persist):
    processes.start_scheduler()
    for name in ("a", "b"):
        processes.start_worker(name)

    def kill():
        name = holder_of_parameters(dask_clusters.client._current.client)
        processes.kill(processes.workers[name])

    watch = AfterPass(2, kill)
    config = job(data, tmp_path / "a.zarr", kind="address", address=processes.address, min_workers=2, persist=persist)
    run(config, progress=watch)
    assert watch.passes_after == 2  # it was in the third
    assert sum(process.poll() is not None for process in processes.workers.values()) == 1
    assert result(tmp_path / "a.zarr") == on_threads


def slow_square(number):
    time.sleep(0.05)
    return number**2


def test_tasks_that_the_scheduler_leaves_queued_when_a_worker_is_lost_are_started(monkeypatch):
    monkeypatch.setattr("pipeline.dask_clusters.compute.POLL_SECONDS", 0.1)
    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, **options) as cluster, distributed.Client(cluster) as client:
        scheduler = cluster.scheduler
        start = scheduler.stimulus_queue_slots_maybe_opened
        left = []

        def leave(*, stimulus_id):
            """Leave what is queued once a worker is lost, until a client gives up a key."""
            if len(scheduler.workers) == 2 or "client-releases-keys" in stimulus_id:
                left.clear()
            else:
                left.append(stimulus_id)
            if not left:
                start(stimulus_id=stimulus_id)

        def lose():
            while not any(state.state == "memory" for state in list(scheduler.tasks.values())):
                time.sleep(0.01)
            cluster.sync(cluster.workers[1].close, nanny=False)

        monkeypatch.setattr(scheduler, "stimulus_queue_slots_maybe_opened", leave)
        threading.Thread(target=lose).start()
        graph = {("square", i): (slow_square, i) for i in range(30)}
        get, found = ClusterGet(client, "here", RECONNECT, lambda: None), []
        computing = threading.Thread(target=lambda: found.extend(get(graph, list(graph))), daemon=True)
        computing.start()
        computing.join(timeout=60.0)  # without end, if the tasks stay where they are
        assert found == [i**2 for i in range(30)]


@pytest.mark.slow
def test_a_killed_scheduler_is_said_and_the_next_run_resumes(data, on_threads, tmp_path, processes):
    address = processes.start_scheduler()
    processes.start_worker("a")
    wait_for_workers(processes)
    config = job(data, tmp_path / "a.zarr", kind="address", address=address, timeout=RECONNECT)
    with pytest.raises(FaultError, match=names("scheduler", "checkpoint")):
        run(config, progress=AfterPass(2, lambda: processes.kill(processes.scheduler)), checkpoint_seconds=0.0)
    processes.kill(processes.workers["a"])
    assert processes.start_scheduler(port=int(address.rpartition(":")[2])) == address
    processes.start_worker("b")
    wait_for_workers(processes)
    told = []
    run(config, progress=told.append, checkpoint_seconds=0.0)
    assert next(event.number for event in told if isinstance(event, PassDone)) > 3
    assert result(tmp_path / "a.zarr") == on_threads


def tried_again(tries, between=lambda: None, limit=None):
    """Stages that may fail once: the errors are put into ``tries``; ``limit`` bounds the seconds of the first try."""

    def as_task(stage):
        @functools.wraps(stage)
        def twice(*values):
            try:
                return limited(stage, limit)(*values)
            except FaultError as error:
                tries.append(error)
            between()
            return stage(*values)

        return twice

    return as_task


@pytest.mark.slow
def test_a_stage_that_is_tried_again_finds_the_scheduler_that_was_started_again(data, on_threads, tmp_path, processes):
    port = int(processes.start_scheduler().rpartition(":")[2])
    processes.start_worker("a")
    wait_for_workers(processes)
    tries = []

    def start_again():
        processes.kill(processes.workers["a"])
        processes.start_scheduler(port)
        processes.start_worker("b")
        wait_for_workers(processes)

    cluster = {"kind": "address", "address": processes.address, "timeout": RECONNECT, "persist": "always"}
    config = job(data, tmp_path / "a.zarr", **cluster)
    kill = AfterPass(2, lambda: processes.kill(processes.scheduler))
    run(config, progress=kill, as_task=tried_again(tries, start_again))
    assert [(type(error), "scheduler" in str(error)) for error in tries] == [(ClusterError, True)]
    assert result(tmp_path / "a.zarr") == on_threads


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, RECONNECT + 3.0], ids=("before the client knows", "after it has given up"))
def test_a_lost_scheduler_is_named_by_whatever_call_meets_it(processes, seconds):
    address = processes.start_scheduler()
    processes.start_worker("a")
    calls = (
        lambda client: ClusterGet(client, address, RECONNECT, lambda: None).ncores(),
        lambda client: ClusterGet(client, address, RECONNECT, lambda: None)({"a": (int, 1)}, "a"),
        lambda client: client.persist(dask.delayed(int)(1)).compute(),
        lambda client: require_visible(client, ".", "data.source"),
    )
    with started(ClusterConfig(kind="address", address=address, timeout=RECONNECT), 1) as client:
        processes.kill(processes.scheduler)
        time.sleep(seconds)
        for call in calls:
            named = pytest.raises(ClusterError, match=names(address, "checkpoint"))
            with named, lost_scheduler_reported(client, address):
                call(client)


def started_of(told, name):
    return [event.detail for event in told if isinstance(event, StageStarted) and event.name == name]


def test_a_stage_out_of_time_leaves_the_cluster_and_its_rows(data, on_threads, tmp_path, shared):
    told, tries = [], []
    config = job(data, tmp_path / "a.zarr", kind="address", address=shared.address, min_workers=2, persist="always")
    run(config, progress=told.append, as_task=tried_again(tries, limit=1e-9))
    assert {type(error) for error in tries} == {StageTimeoutError}
    assert len([detail for detail in started_of(told, "cluster") if "waiting" in detail]) == 1
    assert len(started_of(told, "persist")) == 1
    assert result(tmp_path / "a.zarr") == on_threads


@pytest.mark.slow
def test_rows_that_could_not_be_read_to_be_kept_are_read_again(data, on_threads, tmp_path, shared):
    link, told, tries = tmp_path / "rows.npy", [], []
    link.symlink_to(data)

    def point_to(target):
        link.unlink()
        link.symlink_to(target)

    def tell(event):
        told.append(event)
        if isinstance(event, StageStarted) and event.name == "persist":
            point_to(link)  # a loop, which no system follows

    config = job(link, tmp_path / "a.zarr", kind="address", address=shared.address, min_workers=2, persist="always")
    run(config, progress=tell, as_task=tried_again(tries, between=lambda: point_to(data)))
    assert [str(error) for error in tries if "cannot read" in str(error)]
    assert len(started_of(told, "persist")) == 1
    assert result(tmp_path / "a.zarr") == on_threads


@pytest.mark.slow
def test_without_workers_a_run_ends(data, tmp_path, processes):
    processes.start_scheduler()
    processes.start_worker("a")
    wait_for_workers(processes)
    config = job(data, tmp_path / "a.zarr", kind="address", address=processes.address, timeout=4.0)
    kill = AfterPass(2, lambda: processes.kill(processes.workers["a"]))
    before = dask.config.get("scheduler", None)
    with pytest.raises(FaultError, match=names("workers", "lost", "4 s")):
        run(config, progress=kill)
    assert dask.config.get("scheduler", None) == before


# -- what a cluster must have ------------------------------------------------------------------------------------


def test_nobody_answers(data, tmp_path):
    config = job(data, tmp_path / "a.zarr", kind="address", address="tcp://127.0.0.1:9", timeout=1.0)
    with pytest.raises(FaultError, match=names("scheduler", "tcp://127.0.0.1:9", "1 s")):
        run(config)


def test_too_few_workers(data, tmp_path, shared):
    config = job(data, tmp_path / "a.zarr", kind="address", address=shared.address, min_workers=3, timeout=2.0)
    with pytest.raises(FaultError, match=names("3 worker", "2 s", "got 2")):
        run(config)


def with_another_numpy(folder):
    """The environment of a process that finds the packages here, but for an older NumPy by its metadata."""
    older = folder / "older" / "numpy-1.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    return {"PYTHONPATH": f"{older.parent}{os.pathsep}{ROOT}"}


OTHER_NUMPY = rf"numpy is {importlib.metadata.version('numpy')} here and 1\.0 on tcp://.*Install the same versions"


@pytest.mark.slow
def test_a_worker_with_another_numpy(data, tmp_path, processes):
    processes.start_scheduler()
    processes.start_worker("a", **with_another_numpy(tmp_path))
    config = job(data, tmp_path / "a.zarr", kind="address", address=processes.address)
    with pytest.raises(UserError, match=OTHER_NUMPY):
        run(config)


@pytest.mark.slow
def test_a_worker_with_another_numpy_that_comes_in_the_middle(data, tmp_path, processes):
    processes.start_scheduler()
    processes.start_worker("a")
    config = long_job(data, tmp_path / "a.zarr", processes.address)
    start = AfterPass(2, lambda: processes.start_worker("late", **with_another_numpy(tmp_path)))
    with pytest.raises(UserError, match=OTHER_NUMPY):
        run(config, progress=start)


def long_job(data, store, address):
    """A job that does not end before a worker has come."""
    config = job(data, store, kind="address", address=address)
    return config.model_copy(update={"search": config.search.model_copy(update={"max_iter": 2000})})


def versions(**changes):
    here = dict.fromkeys(["python", "dask", "distributed", "gmm-dask", "numba", "numpy", "scipy"], "1.2.3")
    here |= dict.fromkeys(["pyarrow", "scikit-learn", "zarr"], "4")
    workers = {f"tcp://w{i}": {"packages": here | changes} for i in range(5)}
    return {"client": {"packages": here}, "scheduler": {"packages": {"dask": "1.2.3"}}, "workers": workers}


def test_packages_of_workers():
    require_packages(versions(zarr="5", python="1.2.9"))
    with pytest.raises(UserError, match=names("gmm-dask", "tcp://w0", "tcp://w1", "tcp://w2")):
        require_packages(versions(**{"gmm-dask": None}))
    with pytest.raises(UserError, match=r"dask is 1\.2\.3 here and 9 on tcp://w0.*; python is|python is .*; dask is"):
        require_packages(versions(dask="9", python="1.3.0"))


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_data(data, tmp_path, processes, monkeypatch):
    monkeypatch.chdir(data.parent)
    processes.start_scheduler()
    processes.start_worker("a", cwd=tmp_path)
    config = job("a.npy", tmp_path / "a.zarr", kind="address", address=processes.address)
    with pytest.raises(UserError, match=names("data.source", "a.npy", "1 of 1", data)):
        run(config)


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_data_and_comes_in_the_middle(data, tmp_path, processes, monkeypatch):
    monkeypatch.chdir(data.parent)
    processes.start_scheduler()
    processes.start_worker("a", cwd=data.parent)
    start = AfterPass(2, lambda: processes.start_worker("late", cwd=tmp_path))
    with pytest.raises(UserError, match=names("data.source", "a.npy", "1 of 2")):
        run(long_job("a.npy", tmp_path / "a.zarr", processes.address), progress=start)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("os.system", "it is not one"),
        ("subprocess.Popen", "it is not one"),
        ("distributed.Client", "it is not one"),
        ("distributed.SpecCluster", "calls whatever cluster.kwargs name"),
        ("distributed.deploy.spec.SpecCluster", "calls whatever cluster.kwargs name"),
        ("distributed.NoCluster", "there is no such name"),
        ("no_such_package.Cluster", "cannot import no_such_package"),
        ("__import__('os').system", "expected a path"),
        ("LocalCluster", "expected a path"),
    ],
)
def test_only_classes_of_clusters_are_called(path, reason):
    with pytest.raises(UserError, match=rf"cluster\.class_path: .*{reason}"):
        cluster_class(path)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"scheduler": {"cls": "subprocess.check_output", "options": {"args": "id"}}}, "scheduler.cls"),
        ({"workers": {"0": {"cls": "subprocess.Popen"}}}, "workers.0.cls"),
        ({"groups": [{"cls": "subprocess.Popen"}]}, "groups[0].cls"),
        ({"worker_class": "subprocess.Popen", "processes": True}, "worker_class"),
        ({"scheduler_cls": "subprocess.Popen"}, "scheduler_cls"),
        ({"security": "subprocess.Popen"}, "security"),
        ({"worker_kwargs": {"plugins": "subprocess"}}, "worker_kwargs.plugins"),
        ({"preload": ["evil.py"]}, "preload"),
        ({"preload": "evil.py"}, "preload"),
        ({"preload_argv": ["--x"]}, "preload_argv"),
        ({"worker_kwargs": {"preload_nanny": "evil.py"}}, "worker_kwargs.preload_nanny"),
        ({"scheduler_options": {"preload": ["evil.py"]}}, "scheduler_options.preload"),
        ({"worker_options": [{"Preload": ["evil.py"]}]}, "worker_options[0].Preload"),
        ({"config": {"distributed": {"worker": {"preload": ["evil.py"]}}}}, "config.distributed.worker.preload"),
        ({"config": {"distributed.nanny.preload": ["evil.py"]}}, "distributed.nanny.preload"),
        ({"env": {"DASK_DISTRIBUTED__WORKER__PRELOAD": "evil.py"}}, "env"),
        ({"worker_kwargs": {"env": {"PYTHONPATH": "/evil"}}}, "worker_kwargs.env"),
        ({"environment": {"LD_PRELOAD": "evil.so"}}, "environment"),
    ],
)
def test_nothing_is_called_that_kwargs_name(kwargs, named):
    with pytest.raises(ValueError, match=names("cluster.class_path", named)):
        ClusterConfig(kind="class", class_path="distributed.LocalCluster", kwargs=kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kwargs", "scheme"),
    [({}, "tls"), ({"security": None}, "tcp"), ({"protocol": "tcp"}, "tcp"), ({"processes": False}, "inproc")],
)
def test_a_class_that_takes_certificates_gets_them(kwargs, scheme):
    kwargs = {"n_workers": 1, "dashboard_address": "127.0.0.1:0", **kwargs}
    cluster = ClusterConfig(kind="class", class_path="distributed.LocalCluster", kwargs=kwargs)
    with started(cluster, threads=1) as client:
        assert client.scheduler.address.startswith(f"{scheme}://")
        assert client.submit(abs, -7).result() == 7


def test_kwargs_that_name_no_class():
    kwargs = {
        "worker_class": None,
        "security": True,
        "preload": [],
        "job_extra_directives": ["--qos=high"],
        "spec": {"priorityClassName": "low"},
    }
    assert ClusterConfig(kind="class", class_path="a.B", kwargs=kwargs).kwargs == kwargs


class BrokenCluster(distributed.deploy.Cluster):
    def __init__(self, token):
        raise ValueError(f"no account has the token {token}")


@pytest.mark.slow
def test_a_class_that_cannot_start(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "very-secret")
    monkeypatch.setattr(distributed, "BrokenCluster", BrokenCluster, raising=False)
    cluster = {"kind": "class", "class_path": "distributed.BrokenCluster", "kwargs": {"token": "${TOKEN}"}}
    with pytest.raises(UserError, match=r"distributed\.BrokenCluster could not start a cluster: ValueError") as caught:
        run(job(data, tmp_path / "a.zarr", **cluster))
    logged = "".join(traceback.format_exception(caught.value))
    assert "no account has the token ${TOKEN}" in logged
    assert "very-secret" not in logged


# -- TLS ---------------------------------------------------------------------------------------------------------


def certificate(folder, name, authority=None):
    """A certificate and its key as PEM files, signed by an authority, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer, issuer = (authority[0], authority[1].subject) if authority else (key, subject)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(address, critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(made.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}-key.pem").write_bytes(private)
    return key, made


@pytest.mark.slow
def test_over_tls(data, on_threads, tmp_path):
    authority = certificate(tmp_path, "authority")
    certificate(tmp_path, "dask", authority)
    certificate(tmp_path, "stranger")
    ca, cert, key = (str(tmp_path / name) for name in ("authority.pem", "dask.pem", "dask-key.pem"))
    made = Processes(tmp_path, ["--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key])
    try:
        # workers and the scheduler refuse what is not encrypted
        assert made.start_scheduler().startswith("tls://127.0.0.1:")
        made.start_worker("a")
        cluster = {"kind": "address", "address": made.address}
        files = {"ca_file": ca, "cert_file": cert, "key_file": key}
        run(job(data, tmp_path / "a.zarr", **cluster, tls=files))
        assert result(tmp_path / "a.zarr") == on_threads
        stranger = files | {name: str(tmp_path / f"stranger{end}") for name, end in STRANGER.items()}
        for tls in (stranger, None):
            with pytest.raises(FaultError, match="no Dask scheduler answers at tls://"):
                run(job(data, tmp_path / "b.zarr", **cluster, tls=tls, timeout=2.0))
        with pytest.raises(UserError, match=r"cluster\.tls\.ca_file: cannot read .*nowhere\.pem: No such file"):
            run(job(data, tmp_path / "b.zarr", **cluster, tls=files | {"ca_file": str(tmp_path / "nowhere.pem")}))
    finally:
        made.stop()


STRANGER = {"cert_file": ".pem", "key_file": "-key.pem"}


# -- memory and threads ------------------------------------------------------------------------------------------


def test_the_machine_is_the_workers(data, tmp_path, shared):
    config = job(data, tmp_path / "a.zarr", kind="address", address=shared.address, memory_limit="4GiB")
    source = pipeline.sources.open_source(config.data)
    shape = pipeline.fit.plan.data_shape(config, source)
    with dask_clusters.computing(config, source, shape):
        machine = dask_clusters.machine_of(config, shape)
        pools = dask_clusters.client._current.client.run(threadpoolctl.threadpool_info)
        compiling = dask_clusters.client._current.client.run(
            lambda: import_module("gmm_dask.kernels.compilation.jit").maker is not None
        )
    assert (machine.threads, machine.memory_limit) == (1, 1 << 30)  # what the workers were started with
    assert {pool["num_threads"] for found in pools.values() for pool in found} == {1}
    assert all(compiling.values())  # by processes beside the workers


def test_rows_that_are_not_kept_are_read_ahead_where_there_is_room(data, tmp_path, shared):
    config = job(data, tmp_path / "a.zarr", kind="address", address=shared.address, persist="never")
    source = pipeline.sources.open_source(config.data)
    shape, rows = pipeline.fit.plan.data_shape(config, source), as_rows(source.array)
    with dask_clusters.computing(config, source, shape):
        assert dask_clusters.rows_on_workers(config, rows, shape, needed=0).reads_ahead
        assert not dask_clusters.rows_on_workers(config, rows, shape, needed=1 << 30).reads_ahead
    assert not dask_clusters.rows_on_workers(config, rows, shape, needed=0).reads_ahead


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_a_worker_that_reads_ahead_stays_under_its_projection(tmp_path, processes):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(2_000_000, 8)))
    processes.start_scheduler()
    processes.start_worker("a")
    wait_for_workers(processes)
    values = job(tmp_path / "a.npy", tmp_path / "a.zarr", kind="address", address=processes.address, persist="never")
    config = values.model_copy(update={"data": values.data.model_copy(update={"chunk_rows": "auto"})})
    run(config)
    source = pipeline.sources.open_source(config.data)
    with dask_clusters.computing(config, source, pipeline.fit.plan.data_shape(config, source)):
        plan = pipeline.fit.plan.plan_fits(config, source, pipeline.fit.plan.grid_of(config))
        (status,) = dask_clusters.client._current.client.run(Path("/proc/self/status").read_text).values()
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])
    assert plan.reads_ahead
    print(f"projected {plan.memory_bytes >> 20} MiB, peak {peak >> 20} MiB")
    assert peak < plan.memory_bytes


def test_cluster_settings_are_frozen_values():
    assert ClusterConfig(kind="local", workers=2) == ClusterConfig(kind="local", workers=2)
