"""Results never lie in the data, nor data in a result, however the paths are written."""

import os

import numpy as np
import pandas as pd
import pytest

from gmm_dask import UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig
from pipeline.export import Target, export
from pipeline.fit.job import run
from pipeline.fit.plan import estimate_job
from pipeline.fit.refresh import refresh
from pipeline.report import write_report
from pipeline.score.batch import score_batch
from pipeline.score.new_rows import score
from pipeline.sources import open_source
from pipeline.sources.overlap import require_apart, require_outside
from pipeline.store.paths import results_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of Parquet files ``g`` with a link to it, and a result ``r`` with one, in the current directory."""
    monkeypatch.chdir(tmp_path)
    for folder in ("g/year", "r/rows"):
        (tmp_path / folder).mkdir(parents=True)
        pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"]).to_parquet(
            f"{folder}/one.parquet"
        )
    os.symlink("g", "to_g")
    os.symlink("r", "to_r")
    return tmp_path


def spellings(path, here):
    """A path below ``g`` or ``r``, as people write it."""
    name, _, rest = path.partition("/")
    return [
        path,
        f"./{path}/",
        f"{here}/{path}",
        f"{name}/../{path}",
        f"to_{name}/{rest}",
        f"{here}/to_{name}/../{path}",
    ]


def urls(paths):
    return [f"file://{os.path.abspath(path)}" for path in paths]


@pytest.mark.parametrize("result", ["g/r.zarr", "g/year/r.zarr", "g/"])
def test_a_result_in_the_data_is_refused(here, result):
    sources = spellings("g/", here)
    for source in (*sources, *urls(sources), "g/**/*.parquet", "*/**/*.parquet", "g/*", "to_g/*", f"file://{here}/g/*"):
        for spelled in spellings(result, here):
            with pytest.raises(UserError, match=names(source, spelled)):
                require_apart(source, [spelled])


@pytest.mark.parametrize("source", ["r/", "r/rows", "r/rows/one.parquet", "r/rows/*.parquet"])
def test_data_in_a_result_are_refused(here, source):
    sources = [one.removesuffix("/") if "*" in one else one for one in spellings(source, here)]
    for spelled in (*sources, *urls(sources)):
        for result in spellings("r/", here):
            with pytest.raises(UserError, match=names(spelled, result)):
                require_apart(spelled, [result])


@pytest.mark.parametrize("source", ["g/year/link.parquet", "g/year/*.parquet", "g"])
def test_a_link_to_a_file_of_a_result_is_refused(here, source):
    os.symlink("../../r/rows/one.parquet", "g/year/link.parquet")
    with pytest.raises(UserError, match=names(source, "r")):
        require_apart(source, ["r"])


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("g", "r.zarr"),
        ("g", "g.zarr"),
        ("g", "g-scores.parquet"),
        ("g/*.parquet", "g/r.zarr"),
        ("g/year/one.parquet", "g/year/r.zarr"),
        ("g/year", "g/r.zarr"),
        ("s3://b/x", "s3://b/x2"),
        ("s3://b/x", "b/x/r.zarr"),
        ("https://b/x.csv", "r.zarr"),
    ],
)
def test_paths_beside_each_other_are_fine(here, source, result):
    require_apart(source, [result])


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("s3://b/x", "s3://b/x/r.zarr"),
        ("s3://b/x/metadata/00001.metadata.json", "s3://b/x/r.zarr"),
        ("s3a://b/x/", "s3://b/x/y/../r.zarr"),
        ("s3://b/r.zarr/rows/label", "s3://b/r.zarr"),
        ("s3://b/*", "s3://b/r.zarr"),
        ("s3://b/**/*.parquet", "s3://b/x/r-rows"),
    ],
)
def test_buckets(source, result):
    with pytest.raises(UserError, match=names(source, result)):
        require_apart(source, [result])


def test_data_that_cannot_be_looked_at_are_left_to_those_who_open_them():
    require_apart("${GMM_DASK_NOT_SET}/x", ["r.zarr"])


def test_a_file_system_that_takes_letters_of_either_case(here, monkeypatch):
    """Where G and g are one folder, paths differ and the folder is the same."""
    (here / "G").mkdir()
    same = os.path.samefile
    monkeypatch.setattr(os.path, "samefile", lambda a, b: same(str(a).lower(), str(b).lower()))
    monkeypatch.setattr("pathlib.Path.samefile", lambda a, b: same(str(a).lower(), str(b).lower()))
    with pytest.raises(UserError, match=names("g", "G/r.zarr")):
        require_apart("g", ["G/r.zarr"])


# -- all commands ------------------------------------------------------------------------------------------------


def job(source="g/year", **output):
    output = {"store": "out/r.zarr", "report": False, **output}
    search = {"n_components": [1], "covariance_types": ["diag"], "init_params": "kmeans"}
    return JobConfig.model_validate({"data": {"source": source}, "search": search, "output": output})


@pytest.mark.parametrize("command", [run, lambda config: run(config, fresh=True), estimate_job])
@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("g", {"store": "g/r.zarr", "rows": "parquet"}),
        ("g", {"store": "to_g/n-{started:%Y-%m-%d}.zarr"}),
        ("r.zarr-rows", {"store": "r.zarr"}),
        ("r.zarr/models/full-k1/means", {"store": "r.zarr"}),
    ],
)
def test_jobs_refuse_before_anything_runs(here, command, source, output):
    before = sorted(path for path in here.rglob("*") if path.suffix != ".lock")
    with pytest.raises(UserError, match=names(source)):
        command(job(source, **output))
    assert sorted(path for path in here.rglob("*") if path.suffix != ".lock") == before


def test_responsibilities_of_a_result_are_clustered_into_another_only(here):
    store = run(job(responsibilities=True)).store
    inner = job(f"{store}/rows/responsibility")
    for fresh in (False, True):
        with pytest.raises(UserError, match=names("out/r.zarr", "another path")):
            run(inner, fresh=fresh)
    assert run(job(responsibilities=True)).reused
    assert run(job(f"{store}/rows/responsibility", store="other.zarr")).best == "diag-k1"


@pytest.fixture
def fitted(here):
    return run(job()).store


@pytest.mark.parametrize("out", ["g/scores.parquet", "to_g/year/scores.zarr", "g"])
@pytest.mark.parametrize("fresh", [False, True])
def test_scores_in_the_data_are_refused(fitted, out, fresh):
    with pytest.raises(UserError, match=names("g", out)):
        score(fitted, "g", out, fresh=fresh)
    assert open_source(DataConfig(source="g")).n_rows == 60


def test_flows_refuse_too(fitted, here):
    config = job("g", store="g/n-{started:%Y-%m-%d}.zarr")
    with pytest.raises(UserError, match=names("lies within the data g")):
        refresh(config)
    scored = JobConfig.model_validate({**job().model_dump(), "score": {"source": "g", "out": "g/scores.parquet"}})
    with pytest.raises(UserError, match=names("g/scores.parquet", "score.out")):
        score_batch(scored)
    assert os.listdir("g") == ["year"]


@pytest.mark.parametrize("out", ["out/r.zarr/scores.zarr", "out/r.zarr-rows", "out", "out/r.zarr/model.json"])
def test_nothing_is_written_into_a_result(fitted, out):
    for command in (lambda: score(fitted, "g", out, fresh=True), lambda: export(fitted, Target.JSON, out)):
        with pytest.raises(UserError, match=names("out/r.zarr", out)):
            command()
    with pytest.raises(UserError):
        require_outside(out, results_of(fitted))


@pytest.mark.parametrize("place", ["out/r.zarr/models/mine.zarr", "out/r.zarr/mine.zarr"])
def test_a_result_in_the_result_of_another_job_is_refused(fitted, place):
    with pytest.raises(UserError, match=names(place, "out/r.zarr")):
        run(job(store=place))
    other = run(job(store="other.zarr")).store
    with pytest.raises(UserError, match=names(place, "out/r.zarr")):
        score(other, "g", place)


def test_exports_and_reports_stay_out_of_the_data(here):
    fitted = run(job(f"{here}/g/year")).store
    with pytest.raises(UserError, match=names("g/year/model.json")):
        export(fitted, Target.JSON, "g/year/model.json")
    os.rename("out", "g/year/out")
    with pytest.raises(UserError, match=names("g/year/out/r.zarr-report")):
        write_report("g/year/out/r.zarr")


# -- what gmm-dask wrote -------------------------------------------------------------------------------------------


def test_row_outputs_in_a_folder_of_data_are_read_by_name_only(fitted, here):
    score(fitted, "g/year", "scores.parquet")
    os.rename("scores.parquet", "g/scores.parquet")
    found = open_source(DataConfig(source="g"))
    assert found.n_rows == 60
    assert any("g/scores.parquet" in note for note in found.notes)
    assert open_source(DataConfig(source="g/**/*.parquet")).n_rows == 60
    named = [
        "g/scores.parquet",
        "g/scores.parquet/",
        "g/scores.parquet/*.parquet",
        "g/scores.parquet/part-00000.parquet",
    ]
    for source in named:
        assert open_source(DataConfig(source=source)).columns == ("label",)
    os.mkdir("only")
    os.rename("g/scores.parquet", "only/scores.parquet")
    with pytest.raises(UserError, match=names("only", "only/scores.parquet", "Name")):
        open_source(DataConfig(source="only"))
