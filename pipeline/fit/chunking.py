"""The chunks of a job: worth a task by the work that its candidates make, and small enough for its memory.

They are decided once, when a store is made, and kept in it: a job that goes on with another memory limit, or by
another version, reads the same chunks.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from gmm_dask.families import get_family
from gmm_dask.memory import CHUNK_COPIES, IMPORTS_BYTES, SAMPLE_COPIES
from gmm_dask.passes.data_summary import sample_limit
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.sources import ChunkPolicy, Source, open_source

# a task costs about a millisecond; with this much work in it, that does not matter
WORTHWHILE_SECONDS = 0.05
# seconds of a thread, measured on one of 2.5 GHz: to read a value, and for a component's share of a row, as a whole
# and for each monomial in it; low estimates, so that chunks are rather too large than too small
VALUE_SECONDS, COMPONENT_SECONDS, MONOMIAL_SECONDS = 4e-9, 2e-9, 1e-10
# chunks are so small that this many threads fit the memory, but not smaller than is sensible
THREADS = 4
FEWEST_BYTES, MOST_BYTES, MOST_GROUP_BYTES = 2**20, 64 * 2**20, 128 * 2**20


def open_job(config: JobConfig, *, fresh: bool = False) -> Source:
    """Open the data of a job in its chunks: those of its store, unless there is none or it starts ``fresh``."""
    path = config.output.store
    if fresh or store.find_store(path) is store.StoreStatus.NEW:
        return open_source(config.data, _policy(config))
    return open_source(config.data, _kept_policy(store.open_store(path, unfinished=True).data))


def sizes_of(config: JobConfig, source: Source) -> dict[str, Any]:
    """How large automatic chunks are, for the store."""
    policy = _policy(config)
    n_fields = len(source.selection.fields)
    return {
        "chunk_bytes": policy.chunk_bytes,
        "group_bytes": policy.group_bytes,
        "rows": policy.worthwhile(n_fields),
    }


def _kept_policy(data: dict[str, Any]) -> ChunkPolicy:
    """The policy that a store was made by; one of an earlier version does not tell."""
    kept = data.get("chunks")
    if kept is None:
        return ChunkPolicy()
    return ChunkPolicy(kept["chunk_bytes"], kept["group_bytes"], lambda n_fields: int(kept["rows"]))


def _policy(config: JobConfig) -> ChunkPolicy:
    # the sample of rows is largest where there are few columns
    sample = SAMPLE_COPIES * 8 * sample_limit(8) * (8 + 3)
    available = int(0.75 * (config.cluster.memory_bytes - IMPORTS_BYTES - sample)) // CHUNK_COPIES
    chunk_bytes = max(FEWEST_BYTES, min(MOST_BYTES, available // THREADS))
    group_bytes = max(chunk_bytes, min(MOST_GROUP_BYTES, available))
    return ChunkPolicy(chunk_bytes, group_bytes, partial(worthwhile_rows, config))


def worthwhile_rows(config: JobConfig, n_fields: int) -> int:
    """Rows that keep a thread at work for 50 ms, at least, in a pass of all candidates."""
    search = config.search
    seconds = VALUE_SECONDS * n_fields
    for name in search.covariance_types:
        columns = get_family(name).fit_columns(n_fields)
        each = COMPONENT_SECONDS + MONOMIAL_SECONDS * (columns.stop - columns.start)
        seconds += search.n_init * sum(search.n_components) * each
    return math.ceil(WORTHWHILE_SECONDS / seconds)
