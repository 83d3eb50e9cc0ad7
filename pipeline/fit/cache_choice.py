"""Whether a run caches its rows (``data.cache: auto``): by the kind of source, or by the seconds that a chunk takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

import numpy as np

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig
from pipeline.fit.plan import grid_of, plan_fits
from pipeline.fit.timing.calibration import seconds_of_row
from pipeline.sources import Source
from pipeline.sources.base import Block
from pipeline.sources.cache import CacheChoice, cache_bytes, cache_folder, choose_by_kind

Read = TypeVar("Read")

# what a disk reads in a second at least: decoded rows have more bytes than compressed ones, and the operating system
# may have no memory for them
DISK_RATE = 5e8
# a chunk that takes less is not slow: it is little beside the work that makes a chunk worth a task
LEAST_SECONDS = 0.01
# a cache is worth its disk if the reads take less than this share of what they took
WORTHWHILE = 0.5
# of the chunk, so many rows are computed on
TIMED_ROWS = 1 << 12


def choose_cache(config: JobConfig, source: Source) -> CacheChoice:
    """Whether a run caches its rows, and why; a chunk is read and computed on if the kind of source does not tell.

    Each run decides anew: a cache changes the time that a run takes, and no bit of its result.
    """
    return choose_by_kind(config, source) or choose_by_time(config, source)


def choose_by_time(config: JobConfig, source: Source) -> CacheChoice:
    """Cache rows that take longer to decode than to compute, and at least twice as long as to read from a cache."""
    block, seconds = _timed(lambda: source.chunks.reader.read(source.chunks.pieces[0]))
    cached, folder = _seconds_from_cache(block), cache_folder(config)
    found = f"a chunk takes {seconds:.2g} s to decode"
    if seconds < LEAST_SECONDS:
        return CacheChoice(0, found, folder)
    if cached > WORTHWHILE * seconds:
        return CacheChoice(0, f"{found}, and from a cache it might take {cached:.2g} s to read", folder)
    rows = block[:, : len(source.columns)]
    try:
        plan = plan_fits(config, source, grid_of(config))
        compute = seconds_of_row(config, plan, source.columns, rows[:TIMED_ROWS]) * len(rows) * plan.share_in_wave
    except UserError as error:  # of a resumed run, which keeps its plan; or of rows that no fit can begin with
        return CacheChoice(0, f"{found}; to compute it takes a time that is not known. {error}", folder)
    needed = cache_bytes(source) if seconds > compute else 0
    return CacheChoice(needed, f"{found} and {compute:.2g} s to compute", folder)


def _seconds_from_cache(block: Block) -> float:
    """Return what it takes to read a chunk from a cache: of its file in memory, or at the rate of a disk if longer."""
    file = BytesIO()
    np.save(file, block)

    def load() -> Block:
        file.seek(0)
        found: Block = np.load(file)
        return found

    return max(_timed(load)[1], block.nbytes / DISK_RATE)


def _timed(read: Callable[[], Read]) -> tuple[Read, float]:
    """Return what is read, and the seconds of the faster of two reads after a first one.

    The operating system has the bytes in memory then, so that what takes long is to decode them.
    """
    found, seconds = read(), math.inf
    for _ in range(2):
        begin = time.perf_counter()
        found = read()
        seconds = min(seconds, time.perf_counter() - begin)
    return found, seconds
