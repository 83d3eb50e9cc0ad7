"""Dates in the paths of stores, and the schedules that they are made for."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gmm_dask.errors import LockedError
from nightly import nightly_job as job
from pipeline import store
from pipeline.config.templates import at, dated_paths, is_dated, latest, with_name
from pipeline.fit.job import prepare, run
from pipeline.progress import PassDone
from pipeline.store.paths import last_complete, placed
from prefects import write_rows

MOMENT = datetime(2026, 11, 23, 14, 5, 9)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("out/{name}-{started:%Y-%m-%d}.zarr", "out/night-2026-11-23.zarr"),
        ("out/{started:%Y/%m/%d}/{name}.zarr", "out/2026/11/23/night.zarr"),
        ("a{{b}}-{started:%Y%m%dT%H%M%S}.zarr", "a{b}-20261123T140509.zarr"),
        ("100%-[x]-{started:%Y%m%d}.zarr", "100%-[x]-20261123.zarr"),
    ],
)
def test_a_path_with_a_date_is_filled_in_and_found_again(template, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = with_name(template, "night")
    assert with_name(named, "other") == named
    assert is_dated(named)
    assert at(named, MOMENT) == path
    Path(path).mkdir(parents=True)
    Path(latest(named)).parent.mkdir(parents=True, exist_ok=True)
    Path(latest(named)).symlink_to(Path(path).resolve())
    ((moment, found),) = dated_paths(named)
    assert (moment.date(), found) == (MOMENT.date(), path)


def test_a_path_without_a_date_is_plain():
    assert with_name("out/{name}-a{{b}}.zarr", "night") == "out/night-a{b}.zarr"
    assert not is_dated("out/night-a{b}.zarr")


def test_a_stopped_run_is_resumed_in_its_store_until_its_data_change(tmp_path):
    write_rows(tmp_path / "rows.npy")
    config = job(tmp_path)

    def stop(event):
        if isinstance(event, PassDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, progress=stop)
    (stopped,) = [path for _, path in dated_paths(config.output.store)]
    assert placed(config).output.store == stopped
    assert placed(config, fresh=True, now=MOMENT).output.store == at(config.output.store, MOMENT)
    other = job(tmp_path, search={"n_components": [2]})
    assert placed(other, now=MOMENT).output.store == at(config.output.store, MOMENT)
    os.utime(tmp_path / "rows.npy", (0, 0))
    assert placed(config, now=MOMENT).output.store == at(config.output.store, MOMENT)


def test_a_run_that_has_just_begun_keeps_others_of_its_job_from_other_stores(tmp_path):
    write_rows(tmp_path / "rows.npy")
    config = job(tmp_path)

    def stop(stage):
        def stopped(*args):
            prepare(*args)
            raise KeyboardInterrupt

        return stopped

    with pytest.raises(KeyboardInterrupt):
        run(config, as_task=stop)
    ((_, begun),) = dated_paths(config.output.store)
    assert placed(config, now=MOMENT).output.store == at(config.output.store, MOMENT)
    with store.lock(begun):
        assert placed(config, now=MOMENT).output.store == begun
        with pytest.raises(LockedError):
            run(config)


def test_a_store_that_is_newer_and_complete_leaves_the_stopped_one_behind(tmp_path):
    write_rows(tmp_path / "rows.npy")
    config = job(tmp_path)
    done = run(config)
    assert last_complete(config).store == done.store
    assert placed(config, now=MOMENT).output.store == at(config.output.store, MOMENT)


def test_the_date_is_that_of_the_schedules_time_zone(tmp_path):
    config = job(tmp_path, schedule={"cron": "0 2 * * *", "timezone": "Pacific/Kiritimati"})
    hours = (datetime.now(config.schedule.zone).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds() / 3600
    assert round(hours) == 14
    assert f"{datetime.now(config.schedule.zone):%Y-%m-%dT%H}" in placed(config).output.store


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"cron": "0 2 * *"}, "expected five fields"),
        ({"cron": "0 2 * * *", "interval": "1h"}, "found cron and interval"),
        ({}, "found none of them"),
        ({"interval": "soon"}, "a time with its unit"),
        ({"interval": "1h", "timezone": "Mars/Olympus"}, "name of a time zone"),
        ({"rrule": "hello"}, "RFC 5545"),
        ({"interval": "1d", "flow": "score-batch"}, "expected a section score"),
    ],
)
def test_an_invalid_schedule_is_refused(section, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        job(tmp_path, schedule=section)


def test_a_refresh_needs_a_date_in_its_store(tmp_path):
    with pytest.raises(ValueError, match=r"expected a date in output\.store"):
        job(tmp_path, output={"store": "a.zarr"}, schedule={"interval": "1d", "flow": "refresh"})
