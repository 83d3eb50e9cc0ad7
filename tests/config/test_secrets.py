"""Secrets that are written out in a configuration are shown and stored nowhere."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.parameters import read_job, shown_config
from gmm_dask.errors import FaultError, UserError
from messages import names
from pipeline.config.data import DataConfig
from pipeline.config.job import JobConfig, load_config
from pipeline.config.secrets import HIDDEN, IN_DATA, IN_TRANSFORM, hide, literals, secrets_hidden, shown, shown_text
from pipeline.config.transforms import TransformStep

SECRET = "hunter2/Zq+9"
TOKEN = "hunter2Zq9"  # a slash would end the host

OPTIONS = [
    *(
        {name: SECRET}
        for name in ("secret", "key", "token", "password", "passwd", "pwd", "auth", "sig", "pat", "bearer")
    ),
    *({name: SECRET} for name in ("apikey", "api_key", "passphrase", "account_key", "sas_token", "private_key", "pin")),
    *({name: SECRET} for name in ("connection_string", "credential", "SSECustomerKey", "code", "nobody-knows", "Key")),
    {"auth": ["me", SECRET]},
    {"headers": [["Authorization", f"Bearer {SECRET}"]]},
    {"headers": {"Authorization": f"Bearer {SECRET}"}},
    {"headers": {"region": SECRET}},
    {"client_kwargs": {"aws_secret_access_key": SECRET}},
    {"client_kwargs": {"headers": [{"X": [SECRET]}]}},
    {"s3_additional_kwargs": {"SSECustomerKey": SECRET}},
    {"secret": f"{SECRET}${{EMPTY}}"},
    {"secret": f"${{EMPTY}}{SECRET}"},
    {"secret": f"Bearer {SECRET}"},
    {"endpoint_url": f"https://me:{SECRET}@host"},
    {"client_kwargs": {"endpoint_url": f"https://host/?code={SECRET}"}},
    {"fo": f"https://host/?code={SECRET}"},
]
URLS = [
    f"https://{TOKEN}@host/a.csv",
    f"https://me:{SECRET}@host/a.csv",
    f"https://{TOKEN}:@host/a.csv",
    f"https://me:${{EMPTY}}{SECRET}@host/a.csv",
    f"s3://me:{SECRET}@bucket/a.csv",
    *(
        f"https://host/a.csv?{name}={SECRET}"
        for name in ("secret", "code", "pwd", "auth", "sig", "token", "x", "X-Amz-Y")
    ),
    *(f"https://host/a.csv{mark}sig={SECRET}" for mark in ";#&"),
    f"https://host/a.csv?version=1&sig={SECRET}#b",
    f"https://host/a.csv?{SECRET}",
    f"https://host/a.csv#{SECRET}",
    f"HTTPS://host/a.csv?sig={SECRET}",
    f"https://[::1]:80/a.csv?sig={SECRET}",
    f"simplecache::https://{TOKEN}@host/a.csv",
    f"zip://a.csv::https://host/a.zip?sig={SECRET}",
    f"s3://bucket/a.csv?sig={SECRET}",
]
HARMLESS_OPTIONS = [
    {"anon": True},
    {"token": "anon"},
    {"token": None},
    {"key": "${KEY}", "secret": "${SECRET}"},
    {"headers": {"Authorization": "Bearer ${TOKEN}"}},
    {"auth": ["${USER}", "${PASSWORD}"]},
    {"account_name": "maps", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9000", "region_name": "eu-west-1"}},
    {"config_kwargs": {"connect_timeout": 5, "s3": {"addressing_style": "path"}}},
]
HARMLESS_URLS = [
    "a?b#sig=c;d.csv",
    "s3://bucket/part-?/a#1;2/year=2024/a&b.parquet",
    "s3://bucket/${FOLDER}/a.parquet",
    "abfs://container@account.dfs.core.windows.net/a.parquet",
    "https://host:8080/a.csv?versionId=3",
    "https://${USER}:${PASSWORD}@host/a.csv?sig=${SIG}",
    "simplecache::https://[::1]:80/a.csv",
]


def assert_nowhere(*texts):
    for text in map(str, texts):
        assert not re.search(r"hunter2|/Zq", text)


def job(url="s3://bucket/a.csv", options=None, **sections):
    return JobConfig.model_validate({"data": {"source": url, "storage_options": options or {}}, **sections})


CONFIGS = [
    *(job(options=options) for options in OPTIONS),
    *(job(url) for url in URLS),
    *(job(cluster={"kind": "class", "class_path": "a.B", "kwargs": options}) for options in OPTIONS),
    *(job(score={"source": url}) for url in URLS),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_what_is_stored_and_shown_has_no_secret(config):
    assert_nowhere(
        config.model_dump_json(), config.model_dump(mode="json"), repr(config), str(config.data), config.notes
    )
    assert HIDDEN in config.model_dump_json()
    assert re.search(names("***", "${NAME}"), config.notes[0])
    assert "hunter2" in str(config.model_dump())  # what a run works with


def test_a_password_may_hold_what_ends_a_host():
    assert shown("s3://me:a?b/c#d@bucket/a@b.csv?x") == "s3://***@b.csv?x"


@pytest.mark.parametrize("value", [*HARMLESS_OPTIONS, *HARMLESS_URLS], ids=str)
def test_what_is_harmless_is_shown_as_it_is(value):
    assert shown(value) == value
    assert not list(literals(value, "key"))


@pytest.mark.parametrize("value", [*OPTIONS, *URLS], ids=str)
def test_what_is_shown_is_not_changed_again(value):
    assert shown(shown(value)) == shown(value)


def test_the_note_names_each_key():
    config = job(URLS[0], {"client_kwargs": {"region_name": "x", "aws_secret_access_key": SECRET}, "pin": 1234})
    assert re.search(
        names("data.source", "client_kwargs.aws_secret_access_key", "storage_options.pin"), config.notes[0]
    )
    assert "region_name" not in config.notes[0]
    assert not job().notes


# -- errors ------------------------------------------------------------------------------------------------------


def spellings(value):
    return [value, repr(value), json.dumps(value), value.replace("/", "%2F").replace("+", "%2B")]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_errors_of_libraries_have_no_secret(config, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    sources = [config.data.source, config.score.source if config.score else ""]
    secret = TOKEN if TOKEN in str(config.model_dump()) else SECRET
    for text in [*spellings(secret), *sources, str(config.data.storage_options), str(config.cluster.kwargs)]:
        assert_nowhere(hide(f"no such thing: {text}, sorry", *config.secret_values))


def test_the_value_of_a_variable_is_shown_as_its_name(monkeypatch):
    monkeypatch.setenv("SIG", SECRET)
    found = hide(f"403 for https://host/a.csv?sig={SECRET}&x=y, and {SECRET}", "https://host/a.csv?sig=${SIG}")
    assert found == "403 for https://host/a.csv?sig=${SIG}&x=***, and ${SIG}"


def test_other_urls_in_a_text():
    assert shown_text("redirected to 'https://h/a?X-Amz-Signature=abc', see http://h/b.") == (
        "redirected to 'https://h/a?X-Amz-Signature=***', see http://h/b."
    )


def raised(kind, *, within=None):
    try:
        with secrets_hidden({"secret": SECRET}):
            try:
                raise KeyError(f"{SECRET} is no key")
            except KeyError as error:
                raise (kind if within is None else within)(
                    f"cannot: {SECRET}" if within is None else "cannot"
                ) from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("kind", "expected"), [(UserError, UserError), (FaultError, FaultError), (OSError, FaultError)]
)
def test_an_error_is_replaced_by_one_without_secrets(kind, expected):
    for error in (raised(kind), raised(kind, within=kind)):
        assert type(error) is expected
        assert_nowhere(*traceback.format_exception(error))
        assert "cannot" in str(error)


def test_other_errors_stay():
    with pytest.raises(KeyError, match="a"), secrets_hidden({"secret": SECRET}):
        raise KeyError("a")


MISTAKES = [
    *(f"data: {{source: s3://b/a.csv, storage_options: {json.dumps(options)}, sorce: 1}}" for options in OPTIONS),
    *(f"data: {{source: {json.dumps(url)}, dataset: 1}}" for url in URLS),
    *(f"data: {{source: [{json.dumps(url)}]}}" for url in URLS),
    *(f"output: {{store: {json.dumps(url)}}}\ndata: {{source: a.csv}}" for url in URLS if "s3" not in url),
    *(f"cluster: {{kind: class, kwargs: [{json.dumps(options)}]}}\ndata: {{source: a}}" for options in OPTIONS),
    *(
        f"data: {{source: a.csv, storage_options: {json.dumps(value)}}}"
        for value in (SECRET, [SECRET], [["key", SECRET]])
    ),
    f"data: {{source: a.csv}}\ncluster: {{kwargs: {SECRET}}}",
    f"data: {{source: {{url: a.csv, secret: {SECRET}}}}}",
    f"data: [{{storage_options: {{secret: {SECRET}}}}}]",
    f"- data: {{storage_options: {{secret: {SECRET}}}}}",
    f"data: {{source: a.csv, storage_options: {{secret: *{SECRET.replace('/', '')}}}}}",
    f"data: {{source: a.csv, storage_options: {{secret: !{SECRET} x}}}}",
    f"data: {{source: a.csv, storage_options: {{secret: !!{SECRET} x}}}}",
    f"data: {{source: a.csv, storage_options: {{secret: {SECRET}, secret: {SECRET}}}}}",
]


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_in_the_configuration_is_named_without_secrets(tmp_path, text):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "job.yaml")
    assert_nowhere(*traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("transform: [{log: {columns: [pos]}, scale: standard}]", ("'columns': ['pos']", "'scale': 'standard'")),
        ("columns: [pos], weights: w, scale: standard, transform: [{log: {columns: [pos]}}]", ("'pos'", "'w'")),
        ("transform: [{arcsinh: {columns: [a], cofactor: {CD4: 5.0}}}]", ("'a'", "'CD4': 5.0")),
    ],
)
def test_a_mistake_in_a_transform_is_shown_as_it_is_written(tmp_path, data, parts):
    secret = f"storage_options: {{secret: {SECRET}}}"
    (tmp_path / "job.yaml").write_text(f"data: {{{data}, source: a.csv, {secret}}}")
    with pytest.raises(UserError, match="transform") as caught:
        load_config(tmp_path / "job.yaml")
    assert all(part in str(caught.value) for part in parts)
    assert_nowhere(*traceback.format_exception(caught.value))
    step = data.partition("transform: [")[2].removesuffix("]").removesuffix("}")
    (tmp_path / "job.yaml").write_text(f"data: {{source: a.csv, transform: [{step}, log1p: {{secret: {SECRET}}}}}]}}")
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "job.yaml")
    assert_nowhere(*traceback.format_exception(caught.value))


def test_the_keys_of_data_that_are_shown_are_those_that_there_are():
    steps = {
        name: TransformStep(**{name: {"maximum": 1.0} if name == "clip" else {}}) for name in TransformStep.model_fields
    }
    settings = {key for step in steps.values() for key in type(step.settings).model_fields}
    assert set(DataConfig.model_fields) == IN_DATA
    assert {*steps, *settings} == IN_TRANSFORM


@pytest.mark.parametrize(
    "override",
    [
        f"data.storage_options.secret=[{SECRET}",
        f"data.storage_options={{secret: {SECRET}",
        f"data={{storage_options: {{secret: {SECRET}",
        f"data.storage_options.key.x={SECRET}",
        f"data.source.x=[https://{TOKEN}@host",
        f"cluster.kwargs.token=[{SECRET}",
    ],
)
def test_overrides_are_named_without_secrets(tmp_path, override):
    (tmp_path / "job.yaml").write_text(f"data: {{source: a.csv, storage_options: {{key: {SECRET}}}}}")
    with pytest.raises(UserError, match=names("--set", override.partition("=")[0].split(".")[0])) as caught:
        load_config(tmp_path / "job.yaml", [override])
    assert_nowhere(caught.value)


def test_a_flow_run_with_a_mistake_names_it_without_secrets():
    with pytest.raises(UserError) as caught:
        read_job({"data": {"source": "s3://b/a.csv", "storage_options": {"secret": SECRET}, "sorce": 1}})
    assert_nowhere(*traceback.format_exception(caught.value))


def test_a_config_that_a_flow_is_given_is_stored_without_secrets():
    config = {"data": {"source": f"https://{TOKEN}@host/a.csv", "storage_options": {"secret": SECRET}}}
    for given in (config, JobConfig.model_validate(config), {**config, "serch": SECRET}):
        assert_nowhere(json.dumps(shown_config(given)))
    assert shown_config(config)["data"]["storage_options"] == {"secret": "***"}
    variable = {"data": {"source": "s3://b/a.csv", "storage_options": {"secret": "${S3_SECRET}"}}}
    assert shown_config(variable)["data"]["storage_options"] == {"secret": "${S3_SECRET}"}


# -- a run -------------------------------------------------------------------------------------------------------


def assert_in_no_file(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "job.yaml":
            assert_nowhere(path, path.read_bytes())


def test_a_run_works_with_secrets_and_leaves_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.random.default_rng(0).normal(size=(60, 2)))
    options = {"secret": SECRET, "headers": [["Authorization", SECRET]], "pin": 4711}
    Path("job.yaml").write_text(
        f"data: {{source: 'file://{tmp_path}/rows.npy', storage_options: {json.dumps(options)}}}\n"
        "search: {n_components: [1], covariance_types: [diag], init_params: kmeans}\n"
        "output: {store: r.zarr}\n"
    )
    again = ["--set", f"data.storage_options.secret={SECRET}", "-o", "s.zarr"]
    for command in (
        ["validate", "job.yaml"],
        ["run", "job.yaml", "--no-prefect"],
        ["run", "job.yaml", "--no-prefect"],
        ["show", "r.zarr"],
        ["score", "r.zarr", f"file://{tmp_path}/rows.npy", *again],
        ["export", "r.zarr", "--to", "json"],
    ):
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 0, found.output
        assert_nowhere(found.stdout, found.stderr)
        if command[0] in ("validate", "run"):
            assert re.search(names("data.storage_options.secret", "***", "${NAME}"), found.output)
    assert_in_no_file(tmp_path)


def test_what_was_not_stored_has_to_be_given_again(tmp_path):
    stored = job("https://me:x@host/a.npy").model_dump(mode="json")
    from pipeline.sources import open_source

    with pytest.raises(UserError, match=names("data.source", "***", "--set")):
        open_source(JobConfig.model_validate(stored).data)
