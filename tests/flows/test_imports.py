"""The imports of a command: what the garbage collector is left with."""

import gc
import sys

import pytest

from flows.cli.imports import importing


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "a_cycle.py").write_text("import gc\nwas_enabled = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_cycle"
    sys.modules.pop("a_cycle", None)
    gc.unfreeze()


def test_the_collector_rests_during_imports_alone(own_module):
    with importing():
        module = __import__(own_module)
    assert not module.was_enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0  # what was loaded is not looked through again


def test_nothing_is_kept_where_nothing_was_loaded():
    gc.unfreeze()
    with importing():
        import json  # noqa: F401
    assert gc.get_freeze_count() == 0


def test_a_collector_that_was_off_stays_off(own_module):
    gc.disable()
    try:
        with importing():
            __import__(own_module)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_import_that_fails_leaves_the_collector_on():
    with pytest.raises(ModuleNotFoundError), importing():
        __import__("there_is_no_such_module")
    assert gc.isenabled()
