import re
from pathlib import Path

import pydantic
import pytest

from gmm_dask.errors import UserError
from gmm_dask.families import DEFAULT_TYPES, FAMILIES, NAMES
from messages import names
from paths import ROOT
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig, config_schema, load_config, require_schedulable
from pipeline.fit.plan import estimate_job

MINIMAL = "data: {source: a.csv}\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text, *overrides):
        Path("job.yaml").write_text(text)
        return load_config("job.yaml", list(overrides))

    return load


@pytest.fixture
def error(load):
    """The error, of one line for its key, that a configuration gives: the key, and what is said of it."""

    def error(text, *overrides):
        with pytest.raises(UserError, match=names("job.yaml")) as caught:
            load(text, *overrides)
        _, line = str(caught.value).splitlines()
        return re.fullmatch(r"\s*(?:job\.yaml:\d+: |--set: )?([\w.]+): (.*)", line).groups()

    return error


def assert_names(error, key, *parts):
    assert error[0] == key
    assert re.search(names(*parts), error[1])


def test_defaults(load):
    config = load(MINIMAL)
    assert config.model_dump() == {
        "name": "gmm-dask",
        "data": {
            "source": "a.csv",
            "storage_options": {},
            "dataset": None,
            "version": None,
            "columns": None,
            "variables": None,
            "feature_dims": (),
            "weights": None,
            "filter": None,
            "by": None,
            "chunk_rows": "auto",
            "missing": "error",
            "missing_chunks": "error",
            "cache": "auto",
            "scale": "none",
            "transform": (),
        },
        "search": {
            "n_components": tuple(range(1, 10)),
            "covariance_types": ("full", "tied", "diag", "spherical"),
            "inference": "em",
            "prior": "none",
            "noise": False,
            "criterion": "bic",
            "held_out": 0.0,
            "resamples": 0,
            "extend": False,
            "n_init": 1,
            "init_params": "auto",
            "tol": 1e-3,
            "max_iter": 100,
            "reg_covar": "auto",
            "accelerate": False,
            "start_effort": 1.0,
            "random_state": 0,
        },
        "cluster": {
            "kind": "threads",
            "memory_limit": "1GiB",
            "workers": None,
            "threads_per_worker": None,
            "local_directory": None,
            "address": None,
            "tls": None,
            "class_path": None,
            "kwargs": {},
            "adaptive": None,
            "min_workers": None,
            "timeout": 60.0,
            "persist": "auto",
        },
        "output": {
            "store": "results/gmm-dask.zarr",
            "labels": True,
            "clusters": "components",
            "responsibilities": False,
            "imputed": False,
            "log_density": False,
            "anomaly_quantile": None,
            "rows": "zarr",
            "key_columns": (),
            "report": True,
            "metrics": None,
            "keep": None,
        },
        "tasks": {"retries": 0, "retry_delay_seconds": 10.0, "timeout_seconds": None},
        "score": None,
        "refresh": None,
        "schedule": None,
    }


def test_every_key_can_be_set(load):
    config = load(
        """
name: cells
data:
  source: s3://bucket/${USER_FILE}.parquet
  storage_options: {key: "${KEY}", secret: "${SECRET}", client_kwargs: {region_name: eu-west-1}}
  dataset: null
  columns: [a, b]
  weights: w
  chunk_rows: 1000
  missing: drop
  missing_chunks: fill
  scale: standard
search:
  n_components: {min: 2, max: 4}
  covariance_types: [diag]
  criterion: icl
  n_init: 3
  init_params: k-means++
  tol: 0
  max_iter: 0
  reg_covar: 1.0e-3
  random_state: 12
cluster: {kind: threads, memory_limit: 500MB}
output:
  store: out/{name}/r.zarr
  labels: false
  responsibilities: true
  log_density: true
  anomaly_quantile: 0.001
  rows: parquet
  key_columns: [id]
  report: false
""".replace("out/{name}/r.zarr", "'out/{name}/r.zarr'")
    )
    assert config.data.columns == ("a", "b")
    assert config.data.weights == "w"
    assert config.data.chunk_rows == 1000
    assert config.search.n_components == (2, 3, 4)
    assert config.search.tol == 0.0
    assert config.cluster.memory_bytes == 500_000_000
    assert config.output.store == "out/cells/r.zarr"
    assert not config.output.labels


def test_it_survives_its_own_json(load):
    config = load(MINIMAL + "search: {n_components: {min: 2, max: 4}}")
    assert JobConfig.model_validate(config.model_dump(mode="json")) == config


def test_it_is_frozen(load):
    config = load(MINIMAL)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.search.tol = 1.0


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("{min: 2, max: 2}", (2,)),
        ("{max: 3}", (1, 2, 3)),
        ("{min: 8}", (8, 9)),
        ("[5, 2, 3]", (2, 3, 5)),
    ],
)
def test_numbers_of_components(load, text, counts):
    assert load(MINIMAL + f"search: {{n_components: {text}}}").search.n_components == counts


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "1E-5", "0.00001"])
def test_small_numbers_as_people_write_them(load, text):
    assert load(MINIMAL + f"search: {{tol: {text}}}").search.tol == 1e-5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("45 s", 45.0), ("90sec", 90.0), ("30min", 1800.0), ("10mins", 600.0), ("5 minutes", 300.0)],
        *[("6h", 21600.0), ("1.5h", 5400.0), ("2 hours", 7200.0), ("1d", 86400.0), ("2 days", 172800.0)],
    ],
)
def test_times_with_their_unit(load, text, seconds):
    config = load(
        MINIMAL + f"schedule: {{interval: {text}}}\ncluster: {{kind: local, timeout: {text}}}\n"
        f"tasks: {{timeout_seconds: {text}}}"
    )
    assert config.schedule.seconds == config.cluster.timeout == config.tasks.timeout_seconds == seconds


@pytest.mark.parametrize("text", ["30", "soon", "5 parsecs", "0.1s"])
def test_intervals_that_are_none(error, text):
    assert_names(error(MINIMAL + f"schedule: {{interval: '{text}'}}"), "schedule.interval", "time", repr(text))


# -- overrides -----------------------------------------------------------------------------------------------


def test_overrides_replace_values(load):
    config = load(
        "name: a\n" + MINIMAL + "search: {n_components: {min: 2, max: 9}}",
        "name=b",
        "search.n_components.max=3",
        "search.tol=1e-4",
        "data.columns=[x, y]",
        "output.labels=false",
        "data.source=b=c.csv",
    )
    assert config.name == "b"
    assert config.search.n_components == (2, 3)
    assert config.search.tol == 1e-4
    assert config.data.columns == ("x", "y")
    assert config.output.labels is False
    assert config.output.store == "results/b.zarr"
    assert config.data.source == "b=c.csv"


def test_overrides_alone_can_make_a_configuration(load):
    assert load("", "data.source=a.csv").data.source == "a.csv"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("search.n_init", ("section.key=value", "search.n_init=5", "'search.n_init'")),
        (".n_init=3", ("section.key=value", "search.n_init=5", "'.n_init=3'")),
        ("data.source.x=1", ("data.source.x", "'a.csv'", "--set 'data.source=VALUE'")),
        ("data.columns=[a", ("data.columns=[a", "YAML", "',' or ']'", "line 1, column 3")),
    ],
)
def test_bad_overrides(load, override, parts):
    with pytest.raises(UserError, match=names("--set", *parts)):
        load(MINIMAL, override)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("search.n_components.max=4", ("is [2, 3]", "--set 'search.n_components={max: 4}'")),
        ("search.n_components.7=4", ("is [2, 3]", "--set 'search.n_components=[A, B, ...]'")),
        ("search.tol.most=4", ("search.tol is 0.5", "--set 'search.tol=VALUE'")),
    ],
)
def test_an_override_within_a_list_or_a_value_says_how_to_set_the_whole(load, override, parts):
    with pytest.raises(UserError, match=names(f"--set {override.partition('=')[0]}", *parts)):
        load(f"{MINIMAL}search: {{n_components: [2, 3], tol: 0.5}}", override)


def test_an_override_within_a_list_shows_no_secret(load):
    with pytest.raises(UserError, match="storage_options") as caught:
        load("data: {source: a.csv, storage_options: {keys: [hunter2]}}", "data.storage_options.keys.secret=hunter3")
    assert "hunter" not in str(caught.value)


def test_overrides_are_validated(error):
    assert_names(error(MINIMAL, "search.n_int=3"), "search.n_int", "n_init?")


# -- errors --------------------------------------------------------------------------------------------------


KEYS_OF_SEARCH = (
    "n_components, covariance_types, inference, prior, noise, criterion, held_out, extend, resamples, n_init, "
    "init_params, start_effort, tol, max_iter, reg_covar, accelerate, random_state"
)
SECTIONS = "name, data, search, cluster, output, tasks, score, refresh, schedule"


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        ("search: {tole: 1}", "search.tole", ("tol?", KEYS_OF_SEARCH)),
        ("foo: 1", "foo", (SECTIONS,)),
        ("schedules: {cron: 0 2 * * *}", "schedules", ("schedule?", SECTIONS)),
        ("cluster: {n_workers: 3}", "cluster.n_workers", ("workers?", "threads_per_worker")),
        ("2: 1", "2", ("text", "2")),
        ("name: a b", "name", ("^[A-Za-z0-9][A-Za-z0-9._-]*$", "'a b'")),
        ("name: 3", "name", ("text", "3")),
        ("search: 3", "search", ("mapping", "3")),
        ("search:", "search", ("mapping", "nothing")),
        ("search: {n_init: 2.5}", "search.n_init", ("whole number", "2.5")),
        ("search: {n_init: true}", "search.n_init", ("whole number", "True")),
        ("search: {n_init: 0}", "search.n_init", ("1", "0")),
        ("search: {max_iter: -1}", "search.max_iter", ("0", "-1")),
        ("search: {tol: abc}", "search.tol", ("number", "'abc'")),
        ("search: {tol: -1}", "search.tol", ("0", "-1")),
        ("search: {reg_covar: .nan}", "search.reg_covar", ("finite", "'auto'", "nan")),
        ("search: {random_state: 4294967297}", "search.random_state", ("4294967296", "4294967297")),
        ("search: {criterion: bix}", "search.criterion", ("'bic'", "'aic'", "'icl'", "'held_out'", "'bix'")),
        (
            "search: {init_params: best}",
            "search.init_params",
            ("'kmeans'", "'k-means++'", "'random'", "'random_from_data'", "'auto'", "'best'"),
        ),
        ("search: {covariance_types: ful}", "search.covariance_types", ("'full'", "'ful'")),
        ("search: {covariance_types: []}", "search.covariance_types", ("list", "one", "[]")),
        (
            "search: {covariance_types: [full, fool]}",
            "search.covariance_types",
            (*map(repr, NAMES), "'mclust'", "'fool'"),
        ),
        ("search: {covariance_types: [full, full]}", "search.covariance_types", ("once", "['full', 'full']")),
        ("search: {covariance_types: [VVV, full]}", "search.covariance_types", ("once", "'full' (mclust's VVV)")),
        (
            "search: {covariance_types: [full, EEV], inference: variational}",
            "search.inference",
            ("em", "search.covariance_types", "EEV", "'variational'"),
        ),
        ("search: {covariance_types: [mclust, VVE]}", "search.covariance_types", ("once", "'VVE'")),
        (
            "search: {init_params: kmeans, start_effort: 0.5}",
            "search.start_effort",
            ("search.init_params", "kmeans", "0.5"),
        ),
        ("search: {n_components: 7.5}", "search.n_components", ("{min: 1, max: 9}", "[2, 3, 5]", "7.5")),
        ("search: {n_components: [0, 1]}", "search.n_components", ("{min: 1, max: 9}", "[2, 3, 5]", "[0, 1]")),
        ("search: {n_components: []}", "search.n_components", ("list", "one", "[]")),
        ("search: {n_components: [2, 2]}", "search.n_components", ("once", "[2, 2]")),
        (
            "search: {n_components: {min: 3, max: 2}}",
            "search.n_components",
            ("{min: 1, max: 9}", "1 <= min <= max", "{'min': 3, 'max': 2}"),
        ),
        ("search: {n_components: {mn: 3}}", "search.n_components", ("{min: 1, max: 9}", "{'mn': 3}")),
        ("cluster: {kind: ray}", "cluster.kind", ("'threads'", "'local'", "'address'", "'class'", "'ray'")),
        ("cluster: {workers: 3}", "cluster.workers", ("cluster.kind", "local", "class", "3")),
        ("cluster: {kind: address}", "cluster.address", ("cluster.kind", "nothing")),
        ("cluster: {persist: always}", "cluster.persist", ("auto", "never", "threads", "'always'")),
        (
            "cluster: {kind: class, class_path: a.B, adaptive: {minimum: 3, maximum: 2}}",
            "cluster.adaptive.maximum",
            ("cluster.adaptive.minimum", "2"),
        ),
        ("cluster: {memory_limit: huge}", "cluster.memory_limit", ("1GiB", "500MB", "'huge'")),
        ("cluster: {memory_limit: 0GiB}", "cluster.memory_limit", ("1GiB", "500MB", "'0GiB'")),
        *(
            (f"schedule: {{cron: '{cron}'}}", "schedule.cron", ("five fields", "'0 2 * * *'", repr(cron)))
            for cron in ("0 0 31 2 *", "0 0 31 4,6,9,11 *", "0 25 * * *", "0 0 1 13 *", "x * * * *", "0 0 * *")
        ),
        *(
            (f"schedule: {{rrule: '{rule}'}}", "schedule.rrule", ("FREQ=WEEKLY;BYDAY", reason, repr(rule)))
            for rule, reason in (
                ("FREQ=MONTHLY;BYMONTHDAY=31;BYMONTH=2", "no time"),
                ("FREQ=YEARLY;BYWEEKNO=53;BYMONTH=6", "no time"),
                ("FREQ=DAILY;COUNT=0", "no time"),
                ("FREQ=DAILY;UNTIL=20191231", "no time"),
                ("FREQ=DAILY;UNTIL=20300101T000000Z", "DTSTART"),
                ("FREQ=FORTNIGHTLY", "FORTNIGHTLY"),
            )
        ),
        ("output: {anomaly_quantile: 0}", "output.anomaly_quantile", ("above 0",)),
        ("output: {anomaly_quantile: 0.6}", "output.anomaly_quantile", ("0.5", "0.6")),
        ("output: {rows: csv}", "output.rows", ("'zarr'", "'parquet'", "'csv'")),
        ("output: {key_columns: [id]}", "output.key_columns", ("output.rows", "parquet", "['id']")),
        ("output: {labels: 1}", "output.labels", ("true", "false", "1")),
        ("output: {store: ''}", "output.store", ("empty", "''")),
        ("output: {store: 'a{b}.zarr'}", "output.store", ("{name}", "{started:%Y-%m-%d}", "'a{b}.zarr'")),
        ("output: {store: 'http://host/r.zarr'}", "output.store", ("local", "s3://", "'http://host/r.zarr'")),
        ("output: {store: 'a{.zarr'}", "output.store", ("{name}", "{started:%Y-%m-%d}", "'}'", "'a{.zarr'")),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(error, text, key, parts):
    assert_names(error(f"{MINIMAL}{text}\n"), key, *parts)


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        ("data: a.csv", "data", ("mapping", "'a.csv'")),
        ("name: a", "data", ("required", JobConfig.model_fields["data"].description)),
        ("data: {columns: [a]}", "data.source", ("required", DataConfig.model_fields["source"].description)),
        ("data: {source: ''}", "data.source", ("empty", "''")),
        ("data: {source: ~nobody-here/x.csv}", "data.source", ("home", "./~nobody-here/x.csv")),
        ("data: {source: a, missing: fill}", "data.missing", ("'error'", "'drop'", "'fill'")),
        ("data: {source: a, scale: robust}", "data.scale", ("'none'", "'standard'", "'robust'")),
        ("data: {source: a, chunk_rows: 0}", "data.chunk_rows", ("1", "'auto'", "0")),
        ("data: {source: a, chunk_rows: some}", "data.chunk_rows", ("whole number", "'auto'", "'some'")),
        ("data: {source: a, columns: x}", "data.columns", ("list", "'x'")),
        ("data: {source: a, columns: []}", "data.columns", ("list", "one", "[]")),
        ("data: {source: a, columns: [1]}", "data.columns", ("text", "quotes", "1")),
        ("data: {source: a, columns: [true, NO2]}", "data.columns", ("text", "quotes", "True")),
        ("data: {source: a, columns: [x, x]}", "data.columns", ("once", "['x', 'x']")),
        ("data: {source: a, columns: [x], weights: x}", "data.weights", ("data.columns", "'x'")),
        ("data: {source: x.zarr, feature_dims: [depth]}", "data.feature_dims", ("data.variables", "['depth']")),
    ],
)
def test_errors_in_data(error, text, key, parts):
    assert_names(error(text), key, *parts)


def test_all_errors_come_at_once(load):
    with pytest.raises(UserError) as caught:
        load("data: {sorce: a.csv}\nsearch: {tol: x}")
    first, *lines = str(caught.value).splitlines()
    assert re.search(names("job.yaml", 3), first)
    assert [places(line) for line in lines] == [
        ("job.yaml:1", "data.source"),
        ("job.yaml:1", "data.sorce"),
        ("job.yaml:2", "search.tol"),
    ]


def places(line):
    """The place, without the folder of a file, and the key that a line of an error begins with."""
    place, key = re.match(r"(\S+): ([a-z_.]+): ", line.strip()).groups()
    return place.rpartition("/")[2], key


def test_the_model_of_scores_has_a_name_that_a_store_may_have(load):
    text = "data: {source: a.csv}\nscore: {source: b.csv, model: %s}"
    assert load(text % "diag-k12").score.model == "diag-k12"
    for wrong in ("full", "full-k0", "ful-k2"):
        with pytest.raises(UserError, match=names("score.model", "full-k2")):
            load(text % wrong)


HOME_PATHS = [
    ("data.source", "{source: ~/x.parquet}", "data"),
    ("output.store", "{store: '~/{started:%Y-%m-%d}.zarr'}", "output"),
    ("score.source", "{source: ~/x.parquet}", "score"),
    ("score.out", "{source: x.parquet, out: ~/s.zarr}", "score"),
    ("cluster.local_directory", "{kind: local, local_directory: ~/spill}", "cluster"),
]


@pytest.mark.parametrize(("key", "section", "name"), HOME_PATHS)
def test_a_tilde_is_the_home_folder(load, monkeypatch, key, section, name):
    monkeypatch.setenv("HOME", "/home/anna")
    config = load(f"{name}: {section}" + ("" if name == "data" else "\ndata: {source: a.csv}"))
    _, field = key.split(".")
    assert getattr(getattr(config, name), field).startswith("/home/anna/")


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "*/5 1-3 1,15 JAN-MAR *", "0 0 31 2 1", "@daily", "0 0 * * 7"])
def test_schedules_that_come(load, cron):
    assert load(f"{MINIMAL}schedule: {{cron: '{cron}'}}").schedule.cron == cron


@pytest.mark.parametrize(
    ("rule", "last"),
    [
        ("FREQ=DAILY;COUNT=3", "2020-01-03"),
        ("FREQ=WEEKLY;UNTIL=20240101", "2023-12-27"),
        ("DTSTART:20210101T000000\\nRRULE:FREQ=MONTHLY;COUNT=2", "2021-02-01"),
        ("DTSTART;TZID=Asia/Tokyo:20210101T000000\\nRRULE:FREQ=HOURLY;COUNT=3", "2021-01-01 02:00"),
        ("RRULE:FREQ=DAILY;COUNT=1\\nRDATE:20220405T060000", "2022-04-05 06:00"),
    ],
)
def test_a_schedule_that_has_ended_is_refused_where_it_is_needed(load, rule, last):
    schedule = load(f'{MINIMAL}schedule: {{rrule: "{rule}"}}').schedule
    with pytest.raises(UserError, match=names("schedule.rrule", last, "UNTIL", "COUNT")):
        schedule.require_time_to_come()


@pytest.mark.parametrize(
    "rule", ["FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "FREQ=DAILY;UNTIL=20990101", "FREQ=MONTHLY;COUNT=900"]
)
def test_a_schedule_that_comes(load, rule):
    load(f"{MINIMAL}schedule: {{rrule: '{rule}'}}").schedule.require_time_to_come()


DATED = "output: {store: 'results/{name}-{started:%s}.zarr'}\n"


@pytest.mark.parametrize(
    ("schedule", "form"),
    [
        ("interval: 1d", "%Y-%m-%d"),
        ("cron: '0 2 * * *'", "%Y-%m-%d"),
        ("cron: '@hourly'", "%Y-%m-%dT%H"),
        ("cron: '0 2,14 * * *', timezone: Asia/Tokyo", "%Y-%m-%dT%H"),
        ("rrule: 'FREQ=WEEKLY;BYDAY=MO;BYHOUR=2'", "%Y-%m-%d"),
        ("interval: 30min, flow: refresh", "%Y-%m-%dT%H%M"),
    ],
)
def test_runs_of_a_schedule_have_stores_of_their_own(load, schedule, form):
    require_schedulable(load(f"{MINIMAL}{DATED % form}schedule: {{{schedule}}}"))


@pytest.mark.parametrize(
    ("schedule", "form"),
    [
        ("interval: 6h", "%Y-%m-%d"),
        ("cron: '@hourly'", "%Y-%m-%d"),
        ("cron: '0 2,14 * * *', timezone: Asia/Tokyo", "%Y-%m-%d"),
        ("rrule: 'FREQ=MINUTELY;INTERVAL=10'", "%Y-%m-%dT%H"),
        ("interval: 30min, flow: refresh", "%Y-%m-%dT%H"),
    ],
)
def test_runs_of_a_schedule_that_would_share_a_store_are_refused(load, schedule, form):
    job = load(f"{MINIMAL}{DATED % form}schedule: {{{schedule}}}")
    with pytest.raises(UserError, match=names("job.yaml:2: output.store", "as fine as the schedule", "same path")):
        require_schedulable(job)


def test_a_schedule_needs_a_date_in_its_path(load):
    job = load(f"{MINIMAL}output: {{store: a.zarr}}\nschedule: {{interval: 1d}}")
    with pytest.raises(UserError, match=names("job.yaml:2: output.store", "{started:%Y-%m-%d}")):
        require_schedulable(job)
    scores = "score: {source: b.csv, out: b.zarr}\nschedule: {interval: 1d, flow: score-batch}"
    with pytest.raises(UserError, match=names("job.yaml:2: score.out", "{started:%Y-%m-%d}")):
        require_schedulable(load(f"{MINIMAL}{scores}"))
    require_schedulable(load(MINIMAL))


def test_words_that_older_yaml_took_for_truth_values_are_text(load):
    columns = ("NO", "NO2", "yes", "on", "Off")
    assert load(f"data: {{source: a.csv, columns: [{', '.join(columns)}]}}").data.columns == columns


def test_a_tilde_elsewhere_stays(load):
    config = load("data: {source: a~/b.csv}\noutput: {store: ./~/r.zarr}")
    assert (config.data.source, config.output.store) == ("a~/b.csv", "./~/r.zarr")


def test_errors_name_the_line_or_the_override(load):
    text = "data:\n  source: a.csv\nsearch:\n  tol: 1\n  n_init: 0\n  max_iter: x\noutput:\n  labels: 2\n"
    with pytest.raises(UserError) as caught:
        load(text, "search.tol=x", "output={report: 3}")
    _, *lines = str(caught.value).splitlines()
    assert [places(line) for line in lines] == [
        ("job.yaml:5", "search.n_init"),
        ("--set", "search.tol"),
        ("job.yaml:6", "search.max_iter"),
        ("--set", "output.report"),
    ]


def test_errors_after_the_file_was_read_name_the_line_as_well(load, tmp_path, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(UserError, match=r"^\S*job\.yaml:3: output\.store: .*NOWHERE"):
        load("data: {source: a.csv}\noutput:\n  store: ${NOWHERE}/a.zarr\n")
    job = load(f"data:\n  source: {tmp_path}/nowhere.npy\n")
    with pytest.raises(UserError, match=r"^\S*job\.yaml:2: data\.source: .*nowhere"):
        estimate_job(job)
    with pytest.raises(UserError, match=r"^data\.source: .*nowhere"):
        estimate_job(load("data:\n  source: a.csv\n", f"data.source={tmp_path}/nowhere.npy"))
    assert job == load(f"# further down\n\ndata: {{source: {tmp_path}/nowhere.npy}}")


# -- variables of the environment --------------------------------------------------------------------------------


def test_variables_replace_values_of_the_file_and_overrides_those_of_variables(load, monkeypatch):
    monkeypatch.setenv("GMM_DASK__SEARCH__TOL", "1e-4")
    monkeypatch.setenv("GMM_DASK__SEARCH__MAX_ITER", "7")
    monkeypatch.setenv("GMM_DASK__OUTPUT", "{labels: false}")
    monkeypatch.setenv("GMM_DASK__NAME", "night")
    job = load(f"{MINIMAL}search: {{tol: 0.5, max_iter: 5, n_init: 2}}", "search.max_iter=9")
    assert (job.search.tol, job.search.max_iter, job.search.n_init) == (1e-4, 9, 2)
    assert (job.output.labels, job.output.store) == (False, "results/night.zarr")


@pytest.mark.parametrize(
    ("variable", "value", "parts"),
    [
        ("GMM_DASK__SEARCH__TOLL", "1", ("search.toll", "did you mean tol?")),
        ("GMM_DASK__SERCH__TOL", "1", ("serch", "did you mean search?")),
        ("GMM_DASK__TOL", "1", ("did you mean search.tol?",)),
        ("GMM_DASK__SEARCH__TOL", "x", ("search.tol", "expected a number", "'x'")),
        ("GMM_DASK__SEARCH__", "1", ("GMM_DASK__SEARCH__TOL",)),
        ("GMM_DASK__NAME__X", "1", ("name is 'a'", "GMM_DASK__NAME='VALUE'")),
        ("GMM_DASK__SEARCH__TOL", "[1", ("YAML",)),
    ],
)
def test_a_variable_that_is_wrong_is_named(load, monkeypatch, variable, value, parts):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=names(variable, *parts)):
        load(f"name: a\n{MINIMAL}")


def test_a_secret_in_a_variable_is_not_shown(load, monkeypatch):
    monkeypatch.setenv("GMM_DASK__DATA__STORAGE_OPTIONS__SECRET", "[hunter2")
    with pytest.raises(UserError, match="STORAGE_OPTIONS__SECRET") as caught:
        load(MINIMAL)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("n_init=5", ("did you mean search.n_init?",)),
        ("search.n_inti=5", ("did you mean n_init?",)),
        ("memory_limt=5", ("did you mean cluster.memory_limit?",)),
        ("search.covariance_types=[full, diagg]", ("did you mean diag?",)),
        ("search.criterion=BIC", ("did you mean bic?",)),
        ("search.prior=defualt", ("did you mean default?",)),
        ("data.transform=[{scle: robust}]", ("one of scale, log", "did you mean scale?")),
        ("data.transform=[{scale: robsut}]", ("did you mean robust?",)),
    ],
)
def test_an_override_of_an_unknown_key_suggests_one(load, override, parts):
    with pytest.raises(UserError, match=names("--set", *parts)):
        load(MINIMAL, override)


def test_one_number_or_one_type_is_a_list_of_one(load):
    search = load(MINIMAL, "search.n_components=4", "search.covariance_types=diag").search
    assert (search.n_components, search.covariance_types) == ((4,), ("diag",))


def test_covariance_types_get_our_names(load):
    assert load(MINIMAL, "search.covariance_types=[VVE, EEE]").search.covariance_types == ("VVE", "tied")
    assert load(MINIMAL, "search.covariance_types=mclust").search.covariance_types == tuple(FAMILIES)


ALIASES = ("aliases", "*name", "too many")
TENFOLD = [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[1, 2]", ("mapping", "[1, 2]")),
        ("a: [1", ("YAML", "',' or ']'", "line 1, column 6")),
        ("name: a\nname: b", ("YAML", "duplicate", '"name"', "line 2, column 1")),
        ("data: {storage_options: {key: hunter2, key: x}}", ("duplicate", '"key"', "line 1, column 40")),
        ("a: !!python/object:os.system x", ("YAML", "tag", "os.system")),
        ("a: &a [*a]", ALIASES),
        ("\n".join(["a0: &a0 x", *TENFOLD]), ALIASES),
        ("a: 1\n---\nb: 2", ("YAML", "document", "line 2, column 1")),
        ("a: \x00", ("YAML", "character")),
    ],
)
def test_files_that_are_no_configuration(load, text, parts):
    with pytest.raises(UserError, match=names("job.yaml", *parts)):
        load(text)


def test_an_alias_may_be_used(load):
    assert load("data: &d {source: a.csv}\nscore: *d\n").score.source == "a.csv"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=names(tmp_path / "no.yaml", "No such file", "YAML")):
        load_config(tmp_path / "no.yaml")
    with pytest.raises(UserError, match=names(tmp_path, "Is a directory")):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(UserError, match=names("latin.yaml", "UTF-8")):
        load_config(tmp_path / "latin.yaml")


# -- the schema ----------------------------------------------------------------------------------------------


def _properties(schema):
    for section in [schema, *schema["$defs"].values()]:
        yield from section["properties"].items()


def test_the_schema_has_every_meaning_and_default():
    schema = config_schema()
    required = {"data", "source", "ca_file", "cert_file", "key_file"}
    for name, field in _properties(schema):
        assert field.get("description") or "$ref" in field, name
        assert "default" in field or name in required, name
    assert schema["additionalProperties"] is False
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_the_schema_knows_the_allowed_values():
    search = config_schema()["$defs"]["SearchConfig"]["properties"]
    assert search["criterion"]["enum"] == ["bic", "aic", "icl", "elbo", "held_out"]
    one, several = search["covariance_types"]["anyOf"]
    assert one["enum"] == several["items"]["enum"] == [*NAMES, "mclust"]
    assert search["n_components"]["anyOf"][0] == {"$ref": "#/$defs/ComponentRange"}


def test_the_schema_and_the_model_agree(load):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(config_schema())
    assert validator.is_valid(load(MINIMAL).model_dump(mode="json"))
    assert not validator.is_valid({"data": {"source": "a"}, "foo": 1})


# -- the configurations that come with the program -----------------------------------------------------------


CONFIGS = ROOT / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_are_valid(path):
    assert load_config(path).data.source.startswith("configs/data/")


def test_quickstart():
    search = load_config(CONFIGS / "quickstart.yaml").search
    assert search.n_components == tuple(range(1, 10))
    assert search.covariance_types == DEFAULT_TYPES
    assert (search.tol, search.max_iter, search.reg_covar) == (1e-5, 1000, 1e-3)
    assert (search.n_init, search.init_params) == (1, "auto")
