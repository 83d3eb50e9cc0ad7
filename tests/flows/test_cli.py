"""The command line: its output, streams, latency and exit codes."""

import ctypes
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows import cli
from flows.progress import LiveLine, LogLines, describe
from flows.terminal.candidates import rows_on_screen, show_candidates
from messages import names, stages_of
from pipeline.config.job import load_config
from pipeline.fit import job as stages
from pipeline.progress import Message, PassDone, StageStarted, silent
from pipeline.store import read_candidates

GMM_DASK = Path(sys.executable).with_name("gmm-dask")
runner = CliRunner(env={"COLUMNS": "80"})


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A small job in the current directory: 300 rows in three clusters."""
    monkeypatch.chdir(tmp_path)
    write_small_job()
    return tmp_path


def write_small_job():
    random = np.random.default_rng(3)
    rows = np.concatenate([random.normal(center, 0.3, (100, 2)) for center in (-3.0, 0.0, 3.0)])
    np.save("rows.npy", rows)
    Path("job.yaml").write_text(
        "name: small\ndata: {source: rows.npy}\n"
        "search: {n_components: {min: 1, max: 4}, n_init: 2, init_params: kmeans}\n"
        "output: {report: false}\n"
    )


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """The folder of the small job and the result of running it, with a report, for the tests that read them."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_small_job()
        return folder, invoke("run", "job.yaml", "--no-prefect", "--set", "output.report=true")


@pytest.fixture
def finished(run_once, monkeypatch):
    """What the command printed; its folder is the current one."""
    folder, result = run_once
    monkeypatch.chdir(folder)
    return result


def settings(*given):
    """Options that set keys of the section search."""
    return [part for setting in given for part in ("--set", f"search.{setting}")]


def invoke(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def start(*arguments, **options):
    return subprocess.Popen(
        [GMM_DASK, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


# -- how soon ------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_for_help():
    heavy = ["dask", "matplotlib", "numpy", "pandas", "prefect", "pydantic", "sklearn", "zarr"]
    code = f"import sys, flows.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# what takes long to import, and is for other jobs and commands
RARE = ["sklearn", "distributed", "scipy.optimize", "scipy.spatial", "pyarrow.parquet"]


def imported(heavy, *arguments):
    """The exit code of a command, and which of some modules it imported."""
    code = (
        f"import sys, flows.cli; sys.argv = {['gmm-dask', *arguments]}\n"
        "sys.modules['xarray'] = None  # dask.array imports it if it can, and with it pandas\n"
        "try: flows.cli.main()\n"
        f"except SystemExit as end: print(end.code, sorted({set(heavy)} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "given", "heavy"),
    [
        ("show", "results/small.zarr", [*RARE, "numba", "dask.array"]),
        ("report", "results/small.zarr", [*RARE[:3], "numba", RARE[-1]]),  # scipy draws trees with its spatial module
        ("validate", "job.yaml", [*RARE, "numba", "pandas"]),
    ],
)
def test_commands_import_nothing_heavy_that_they_do_without(command, given, heavy, finished):
    assert imported(heavy, command, given) == "0 []"


def test_the_first_line_of_run_comes_at_once(job):
    """Before anything heavy is imported, by the processor's time: the clock's is that of other processes, too."""
    with start("run", "job.yaml", "--no-prefect", *settings("n_components=[2]")) as process:
        first = process.stdout.readline()
        spent = psutil.Process(process.pid).cpu_times()
        process.communicate()
    assert first == "gmm-dask run job.yaml\n"
    assert spent.user + spent.system < 1.0
    assert process.returncode == 0


def test_version_is_the_distributions():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"gmm-dask {version('gmm-dask')}\n")


# -- run and show --------------------------------------------------------------------------------------------


def test_run_shows_the_candidates_the_winner_and_where_things_are(finished):
    assert finished.exit_code == 0, finished.output
    lines = [line.rstrip() for line in finished.stdout.splitlines()]
    assert lines[0] == "gmm-dask run job.yaml"
    rows = [line for line in lines if re.match(r"\s*[1-4] +(full|tied|diag|spherical) ", line)]
    assert len(rows) == 15  # full and tied are one model with one component
    assert re.match(r"\s*3 +spherical +converged +\d+\.\d\d +0\.00 +\d+ +2/2 +<- best$", rows[0])
    assert any(re.match(r"best: .*spherical-k3.* BIC \d+\.\d\d$", line) for line in lines)
    assert any(re.match(r"store: results/small\.zarr\b.* label \(300\)$", line) for line in lines)
    assert "report: results/small.zarr-report/index.html" in lines
    assert Path("results/small.zarr-report/index.html").is_file()
    assert re.match(r"16 candidates, \d+ passes .*\d+\.\d\d kiB .* \d+\.\d s$", lines[-1])
    assert max(map(len, lines)) <= 80


def test_progress_goes_to_standard_error_only(finished):
    assert stages_of(finished.stderr) == ["seed", "fit", "select", "write rows", "draw"]
    assert "best:" not in finished.stderr


def test_run_again_computes_nothing_and_fresh_starts_over(job):
    first = settings("n_components=[3]", "covariance_types=[spherical]")
    invoke("run", "job.yaml", "--no-prefect", *first)
    again = invoke("run", "job.yaml", "--no-prefect", *first)
    assert "--fresh" in again.stdout  # it was complete
    assert "spherical-k3" in again.stdout
    fresh = invoke("run", "job.yaml", "--no-prefect", "--fresh", *first)
    assert "--fresh" not in fresh.stdout


def test_show_prints_what_run_printed(finished):
    ran = finished.stdout.splitlines()
    shown = invoke("show", "results/small.zarr").stdout.splitlines()
    table = slice(1, 20)
    assert [line for line in ran[table] if "converged" in line] == [line for line in shown if "converged" in line]
    assert [line for line in shown if line.startswith("best:")] == [line for line in ran if line.startswith("best:")]


def test_show_reports_that_a_run_is_unfinished(job):
    endless = ["--set", "search.tol=0", "--set", "search.max_iter=1000000000"]
    with start("run", "job.yaml", "--no-prefect", *endless) as run:
        assert any(line.startswith("fit") for line in run.stderr)
        run.kill()
    result = invoke("show", "results/small.zarr")
    assert result.exit_code == 0
    assert re.match(r"UNFINISHED .*\b1 pass\b", result.stdout)
    assert (
        len(re.findall(r"\d +(?:full|tied|diag|spherical) +running", result.stdout)) == 15
    )  # full and tied are one model with one component
    assert "best" not in result.stdout


def test_criteria_of_an_unfinished_store_come_from_its_lower_bounds(job):
    config = load_config("job.yaml", ["search.tol=1e-6", "search.n_components=[1, 2, 3]"])
    stages.prepare(config, False, silent)
    stages.seed(config, silent)
    stages.fit_wave(config, 0, 10.0, silent)
    before = read_candidates(config.output.store)
    after = stages.run(config)
    assert not before.is_complete
    assert before.leader == after.best
    pd.testing.assert_series_equal(before.table["bic"], after.table["bic"], atol=0.1)
    assert "UNFINISHED" not in invoke("show", config.output.store).stdout


def test_show_prints_the_weights_of_components_with_their_names(finished, tmp_path):
    store = shutil.copytree("results/small.zarr", tmp_path / "named.zarr")
    assert re.search(r"^  weights 0\.\d{3}, 0\.\d{3}, 0\.\d{3}$", invoke("show", str(store)).stdout, re.MULTILINE)
    assert invoke("name", str(store), "1", "late flights").exit_code == 0
    shown = invoke("show", str(store)).stdout
    assert re.search(r"^  weights 0: 0\.\d{3}, 1 \(late flights\): 0\.\d{3}, 2: 0\.\d{3}$", shown, re.MULTILINE)


def test_set_replaces_values_of_the_config(job):
    result = invoke(
        "run", "job.yaml", "--no-prefect", "--set", "search.n_components=[2]", "--set", "search.criterion=aic"
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"K +covariance +status +AIC +delta +iterations", result.stdout)
    assert "4 candidates" in result.stdout


def test_one_candidate_is_counted_in_the_singular(job):
    one = ["--set", "search.n_components=[2]", "--set", "search.covariance_types=[tied]"]
    assert re.search(r"^1 candidate\b", invoke("run", "job.yaml", "--no-prefect", *one).stdout, re.MULTILINE)


def test_candidates_that_failed_are_rows_with_a_remedy(capsys):
    table = candidates(
        [("full", 1, "converged", 10.5), ("full", 2, "singular", math.nan), ("full", 3, "max_iter", 9.0)]
    )
    show_candidates(table, "bic", "full-k3", "some.zarr", 2)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r" *3 +full +max_iter +9\.00 +0\.00 +7 +<- best", lines[3])
    assert re.match(r" *2 +full +singular +- +- +7", lines[5])
    assert [line.split(":")[0] for line in lines if "reg_covar" in line] == ["1 singular"]
    assert [line.split(":")[0] for line in lines if "tol" in line] == ["1 max_iter"]


def test_candidates_that_are_one_model_are_one_row(capsys):
    kinds = [("full", 10.5), ("tied", 10.4), ("diag", 10.6)]
    table = candidates([(kind, k, "converged", bic + 5.0 * k) for kind, bic in kinds for k in (1, 2)])
    show_candidates(table, "bic", "tied-k1", "some.zarr", 2)
    out = capsys.readouterr().out
    assert re.findall(r"^ *(\d) +(\w+) +converged", out, re.MULTILINE) == [
        ("1", "tied"),
        ("1", "diag"),
        ("2", "tied"),
        ("2", "full"),
        ("2", "diag"),
    ]
    assert re.search(names("one component", "full", "tied", "same model"), out)


def candidates(rows):
    table = pd.DataFrame(rows, columns=["covariance_type", "n_components", "status", "bic"])
    return table.assign(delta=table["bic"] - table["bic"].min(), n_iter=7)


def test_a_screen_of_24_lines_holds_the_best_and_points_to_the_rest(capsys):
    table = candidates([("full", k, "converged", 100.0 + k) for k in range(1, 31)])
    screen = Console(force_terminal=True, width=80, height=24)
    most = rows_on_screen(screen)
    show_candidates(table, "bic", "full-k1", "some.zarr", 2, most)
    out = capsys.readouterr().out
    assert out.count("converged") == most == 9
    assert re.search(r"\b21 more.* gmm-dask show some\.zarr", out)
    assert rows_on_screen(Console(file=io.StringIO())) is None


# -- validate and schema -------------------------------------------------------------------------------------


def test_validate_prints_the_size_of_a_job_and_computes_nothing(job):
    result = invoke("validate", "job.yaml", "--set", "search.n_init=5")
    assert result.exit_code == 0, result.output
    found = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in result.stdout.splitlines())
    assert found["data"] == "rows.npy (npy)"
    assert found["rows"] == "300"
    assert found["columns"] == "2: x0, x1"
    assert found["chunks"] == "1"
    assert re.search(names("4.69 kiB", "16.00 MiB stay in memory"), found["a pass reads"])
    assert (found["candidates"], found["starts"]) == ("16", "80")
    assert re.search(r"\d+\.\d+ MiB .*\b\d+ threads?.* 1\.00 GiB", found["memory"])
    assert found["store"] == "results/small.zarr"
    assert sorted(path.name for path in job.iterdir()) == ["job.yaml", "rows.npy"]


def test_validate_says_whether_the_rows_stay_in_memory(job):
    for n_rows, in_memory in ((2**20, True), (2**20 + 1, False)):
        np.lib.format.open_memmap("large.npy", mode="w+", dtype=np.float64, shape=(n_rows, 2)).flush()
        found = json.loads(invoke("validate", "job.yaml", "--json", "--set", "data.source=large.npy").stdout)
        assert found["in_memory"] is in_memory


@pytest.mark.parametrize("source", ["rows.npy", "rows.csv"])
def test_validate_times_a_pass_where_it_is_asked_to(job, source):
    np.savetxt("rows.csv", np.load("rows.npy"), delimiter=",", header="a,b", comments="")
    small = invoke("validate", "job.yaml", "--time", "--set", f"data.source={source}")
    assert small.exit_code == 0, small.output
    most = 3 + load_config("job.yaml").search.max_iter
    assert re.search(
        names("A pass takes", "1 thread ", "first pass of a stage alone", f"4 to {most} passes"), small.stdout
    )
    few = invoke("validate", "job.yaml", "--time", "--set", f"data.source={source}", "--set", "search.n_components=400")
    assert few.exit_code == 2
    assert "300" in few.stderr


def test_a_profile_has_the_facts_of_each_column(job):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"fine": random.normal(5.0, 2.0, 400), "tenths": np.round(random.normal(size=400), 1)})
    frame.loc[:99, "tenths"] = -9999.0
    frame.loc[[7, 200], "fine"] = np.nan
    frame.loc[399] = frame.loc[398]
    frame.to_parquet("rows.parquet", index=False)
    result = invoke("validate", "job.yaml", "--profile", "--set", "data.source=rows.parquet")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    least, largest, mean, deviation, *rest = lines["fine"]
    usable = frame.dropna()["fine"]
    expected = (usable.min(), usable.max(), usable.mean(), usable.std(ddof=0))
    found = [float(text.replace("\u2212", "-")) for text in (least, largest, mean, deviation)]
    assert found == pytest.approx(expected, abs=0.01)
    assert rest[-1] == "2"  # missing
    assert {"0.1", "-9999", "24.9%"} <= set(lines["tenths"])
    text = " ".join(result.stdout.split())
    assert "400 rows, 2 of them left out; 0.3% are copies" in text
    assert re.search(names("tenths", "-9999", "fill value"), text)
    assert text.count("value -9999") == 1
    assert "reading rows.parquet" in result.stderr
    assert not Path("results").exists()


def test_validate_says_that_the_grid_may_grow(job):
    result = invoke("validate", "job.yaml", "--set", "search.extend=true")
    assert re.search(r"candidates +16\b.* grid", result.stdout)


def test_how_starts_agree_is_in_the_table_and_below_it(job):
    out = invoke("run", "job.yaml", "--no-prefect", *settings("accelerate=true", "tol=1e-8")).stdout
    assert re.search(r" K +covariance +status +BIC +delta +iterations +agree *$", out, re.MULTILINE)
    assert re.search(r" 3 +spherical +converged +\d+\.\d\d +0\.00 +\d+ +2/2 +<- best *$", out, re.MULTILINE)
    assert re.search(r"\b2 of .*\b2 starts .*\b0, 1\b", out)
    assert re.search(r"[\d,]+ iterations of 32 fits.* \d+ .*extrapolated", out)


def test_validate_does_not_know_the_rows_of_a_csv(job):
    Path("rows.csv").write_text("a,b\n1,2\n3,4\n")
    result = invoke("validate", "job.yaml", "--set", "data.source=rows.csv")
    assert re.search(r"rows +unknown until read", result.stdout)


def test_validate_refuses_a_limit_that_one_fit_exceeds(job):
    result = invoke("validate", "job.yaml", "--set", "cluster.memory_limit=100MB")
    assert result.exit_code == 2
    assert "cluster.memory_limit" in result.stderr


def test_validate_prints_the_waves_if_the_memory_is_little(job):
    np.save("wide.npy", np.zeros((4000, 200)))
    most = [
        "--set",
        "data.source=wide.npy",
        *settings("n_init=20"),
        "--set",
        "data.chunk_rows=100",
        "--set",
        "cluster.memory_limit=1360MiB",
    ]
    result = invoke("validate", "job.yaml", *most)
    assert re.search(r"starts +320\b.* \d+ waves", result.stdout)


def test_schema_is_json():
    result = invoke("schema")
    assert "search" in json.loads(result.stdout)["properties"]


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_a_mistake_is_one_paragraph_on_standard_error_and_code_2(job):
    result = invoke("run", "job.yaml", "--no-prefect", "--set", "data.source=nowhere.npy")
    assert result.exit_code == 2
    assert re.fullmatch(r"gmm-dask: data\.source: .*nowhere\.npy.*\n", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "absent.yaml"],
        ["run", "job.yaml", "--set", "search.n_inti=3"],
        ["validate", "job.yaml", "--set", "search.n_components=many"],
        ["show", "absent.zarr"],
        ["show", "rows.npy"],
        ["show"],
        ["run", "job.yaml", "--fast"],
    ],
)
def test_every_mistake_has_code_2(job, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert "Traceback" not in result.stderr


def fail_with(error):
    def estimate(config):
        raise error

    return estimate


def test_a_fault_is_one_paragraph_and_code_1(job, monkeypatch):
    monkeypatch.setattr("pipeline.fit.plan.estimate_job", fail_with(OSError(28, "No space left on device")))
    result = invoke("validate", "job.yaml")
    assert result.exit_code == 1
    assert re.fullmatch(r"gmm-dask: OSError: \[Errno 28\] No space left on device.* --debug .*\n", result.stderr)


def test_debug_adds_the_traceback(job, monkeypatch):
    monkeypatch.setattr("pipeline.fit.plan.estimate_job", fail_with(ZeroDivisionError("oh")))
    result = invoke("validate", "job.yaml", "--debug")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("gmm-dask: ZeroDivisionError: oh")


def test_interrupted_is_code_130(job, monkeypatch):
    monkeypatch.setattr("pipeline.fit.plan.estimate_job", fail_with(KeyboardInterrupt()))
    result = invoke("validate", "job.yaml")
    assert result.exit_code == 130
    assert re.fullmatch(r"gmm-dask: interrupted\b.*\n", result.stderr)
    assert "resume" not in result.stderr


def test_an_interrupted_run_says_how_to_resume(job, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.fit.job.run", interrupt)
    result = invoke("run", "job.yaml", "--no-prefect")
    assert result.exit_code == 130
    assert re.fullmatch(r"gmm-dask: interrupted\b.* command .*resume.*\n", result.stderr)


def test_a_run_that_is_terminated_says_how_to_resume(job, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pipeline.fit.job.run", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
    result = invoke("run", "job.yaml", "--no-prefect")
    assert result.exit_code == 143
    assert re.fullmatch(r"gmm-dask: terminated\b.* command .*resume.*\n", result.stderr)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_long_message_is_not_wrapped_when_piped(job):
    path = "/".join(["a-rather-long-folder-name"] * 6) + "/rows.npy"
    result = invoke("validate", "job.yaml", "--set", f"data.source={path}")
    assert path in result.stderr


# -- progress ------------------------------------------------------------------------------------------------


def a_pass(number, seconds_left=(40.0, 40.0), best=None, **counts):
    return PassDone(number, 300, 0.25, seconds_left, {"running": 5, **counts}, best)


def test_a_stage_as_a_line_of_text():
    assert describe(StageStarted("seed")) == "seed"
    assert describe(StageStarted("fit", "from pass 40")) == "fit: from pass 40"


def test_a_pass_as_a_line_of_text():
    event = a_pass(3, converged=2, singular=1)
    counts = "5 running, 2 converged, 1 singular"
    assert re.search(names("pass 3", "0.25 s", "1.2 k rows/s", counts, "40 s"), describe(event))
    assert (event.total, event.finished) == (8, 3)
    event = a_pass(3, degenerate=1, spurious=2, failed=4)
    assert "5 running, 1 degenerate, 2 spurious, 4 failed" in describe(event)
    assert (event.total, event.finished) == (12, 7)
    event = a_pass(4, seconds_left=(80.0, 600.0), best="tied-k3", max_iter=1)
    assert re.search(names("5 running", "max_iter", "80 s to 10 min left", "tied-k3"), describe(event))
    assert "about 30 h left" in describe(a_pass(5, seconds_left=(108_000, 108_100)))


def test_log_lines_have_every_stage_and_a_pass_now_and_then():
    now, lines = [0.0], []
    listener = LogLines(lines.append, clock=lambda: now[0])
    listener(StageStarted("fit"))
    for number in range(1, 40):
        now[0] = float(number)
        listener(a_pass(number))
    assert [" ".join(line.split()[:2]) for line in lines] == ["fit", "pass 10", "pass 20", "pass 30"]


def test_the_live_line_fits_80_columns_and_leaves_only_lasting_messages():
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with LiveLine(screen) as live:
        live(Message("resume", "after pass 40"))
        live(StageStarted("fit"))
        live(a_pass(99999, running=123, converged=567, seconds_left=(4000, 5000)))
        live._bar.refresh()
    drawn = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", screen.file.getvalue())]
    assert any(re.search(names("pass 99999", "567 of 690", "67 min to 83 min left"), line) for line in drawn)
    assert max(map(len, drawn)) <= 80
    assert [line for line in drawn if "resume: after pass 40" in line]
    assert drawn[-1] == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_that_a_callback_loses_ends_the_command(job, monkeypatch, number, code):
    """As one that arrives while kernels are compiled."""

    def interrupted(*_, progress, **__):
        ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), number))()
        progress(StageStarted("fit"))
        time.sleep(9)

    monkeypatch.setattr("pipeline.fit.job.run", interrupted)
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    result = invoke("run", "job.yaml", "--no-prefect")
    assert result.exit_code == code
    assert "resumes from the last checkpoint" in result.stderr


# -- the environment -----------------------------------------------------------------------------------------


def test_run_without_prefect_imports_neither_it_nor_what_few_jobs_need(job):
    """Nor distributed, where threads compute."""
    heavy = ["prefect", *RARE[:3], RARE[-1]]
    assert imported(heavy, "run", "job.yaml", "--no-prefect", "--set", "search.n_components=[2]") == "0 []"


# -- synth ---------------------------------------------------------------------------------------------------


def test_synth_writes_rows_and_their_truth(tmp_path):
    out = tmp_path / "rows.npy"
    result = invoke("synth", str(out), "--rows", "500", "--features", "3", "--components", "2", "--seed", "4")
    assert result.exit_code == 0
    assert np.load(out).shape == (500, 3)
    assert f"truth: {out}-truth.json" in result.stdout


def test_synth_never_overwrites(tmp_path):
    (tmp_path / "rows.npy").touch()
    result = invoke("synth", str(tmp_path / "rows.npy"), "--rows", "500")
    assert result.exit_code == 2
    assert re.search(r"rows\.npy.* exists", result.stderr)


@pytest.mark.parametrize(("option", "value"), [("rows", 0), ("features", 0), ("components", 0), ("seed", -1)])
def test_synth_names_the_option_that_is_too_small(tmp_path, option, value):
    options = {"rows": 500} | {option: value}
    arguments = [str(part) for name, number in options.items() for part in (f"--{name}", number)]
    result = invoke("synth", tmp_path / "rows.npy", *arguments)
    assert result.exit_code == 2
    assert f"--{option}" in result.stderr
    assert not any(tmp_path.iterdir())
