"""Kernels that processes compile, and the files that they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from gmm_dask import memory
from gmm_dask.kernels.compilation import cache_folder, jit, processes, signatures
from gmm_dask.memory import COMPILER_BYTES, IMPORTS_BYTES, program_bytes

ROOT = Path(__file__).parents[2]

CALL = """
import numpy as np
from numba import typeof
from gmm_dask import kernels
from gmm_dask.kernels.compilation import jit, processes
def call():
    resp, shares = np.zeros((2, 48)), np.ones((3, 48))
    given = resp, np.array([0, 2]), shares[2], shares[:1], shares[1:2], 48
    kernels.softmax(*given)
    assert (resp == 0.5).all()
    return kernels.softmax.stats
"""


def run(script, **environment):
    command = [sys.executable, "-c", CALL + script]
    ended = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    return ended.stdout.split()


def test_a_kernel_that_a_process_compiled_is_loaded(tmp_path):
    script = """
asked = []
def make(missing):
    asked.append(missing.name)
    print(processes.missing_of([missing]) == [missing], *processes.make([missing], 2))
    assert processes.missing_of([missing]) == []
with jit.made_by(make):
    stats = call()
print(len(stats.cache_misses), len(stats.cache_hits), *asked)
"""
    assert run(script, NUMBA_CACHE_DIR=str(tmp_path)) == ["True", "0", "1", "softmax"]
    assert list(tmp_path.rglob("e_step.softmax*.nbc"))


def test_a_process_that_fails_leaves_its_kernels_to_the_caller(monkeypatch):
    wanted = [signatures.of_predictions(np.dtype(np.float64))]
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert processes.make(wanted) == ["a process that compiles ended with 1"]
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    (failure,) = processes.make(wanted)
    assert "/nowhere/python" in failure


def test_without_a_folder_machine_code_is_kept_as_long_as_the_process_lives():
    script = """
import os
stats = call()
print(os.environ["NUMBA_CACHE_DIR"], stats.cache_path)
"""
    before = "import numba.core.caching as c; c.CacheImpl._locator_classes[1:] = []\n"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    ended = subprocess.run(
        [sys.executable, "-c", before + CALL + script],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    kept, place = map(Path, ended.stdout.split())
    assert place.is_relative_to(kept)
    assert not kept.exists()


def test_processes_that_keep_code_at_the_same_time_do_not_mix_it_up(tmp_path):
    one, other = (jit._KernelFile(str(tmp_path), "kernel", "stamp") for _ in range(2))
    one.save("a", 1)
    index = tmp_path / "kernel.nbi"
    first = index.read_bytes()
    index.unlink()  # the other one looked before there was one
    other.save("b", 2)
    index.write_bytes(first)
    assert (one.load("a"), one.load("b")) == (1, None)
    one.save("b", 3)
    assert (other.load("a"), other.load("b")) == (1, 3)


def test_a_process_that_cannot_keep_machine_code_has_the_compiler_projected(monkeypatch):
    assert (program_bytes(), memory.compiler_notes()) == (IMPORTS_BYTES, [])

    def none_can_be_written():
        raise FileNotFoundError

    monkeypatch.setattr(cache_folder.os, "access", lambda *given: False)
    assert cache_folder.is_kept()
    monkeypatch.setattr(cache_folder.tempfile, "gettempdir", none_can_be_written)
    assert not cache_folder.is_kept()
    assert memory.program_bytes() == IMPORTS_BYTES + COMPILER_BYTES
    (note,) = memory.compiler_notes()
    assert "160 MiB" in note
    assert "NUMBA_CACHE_DIR" in note
