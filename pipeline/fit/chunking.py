"""The chunks of a job: enough work for a task, by the candidates of the job, and small enough for its memory.

Their sizes are decided once, when pass 0 reads the data, and stored: a run that resumes the job with another memory
limit, or with another version, reads the same chunks, and so adds up the same numbers in the same order.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

from gmm_dask.errors import UserError
from gmm_dask.families.candidate import Candidate
from gmm_dask.memory import CHUNK_COPIES, SAMPLE_COPIES, fit_columns, program_bytes
from gmm_dask.passes.data_summary import sample_limit
from gmm_dask.selection.grid import noise_choices
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.sources import ChunkPolicy, Source, open_source
from pipeline.sources.base import require_any_row
from pipeline.sources.cache import through_cache
from pipeline.sources.retries import read_with_retries

# a task costs about a millisecond; with this much work in it, that is 2 %
TASK_SECONDS = 0.05
# seconds of one thread, measured at 2.5 GHz: to read a value, and, for each component, to compute its part of a row
# and each monomial in it. Low estimates, so that chunks are rather too large than too small.
VALUE_SECONDS, COMPONENT_SECONDS, MONOMIAL_SECONDS = 4e-9, 2e-9, 1e-10
# as many threads as this, each with its chunk, fit the memory
THREADS = 4
# limits of a chunk as float64, and of one that a storage format imposes, such as a row group
MIN_BYTES, MAX_BYTES, MAX_GROUP_BYTES = 2**20, 64 * 2**20, 128 * 2**20


def open_job(config: JobConfig, *, fresh: bool = False, first: bool = False) -> Source:
    """Open the data of a job in the chunks of its store, a table at its version; in new ones without, or ``fresh``.

    ``first`` tells that this run has not opened them before. If no earlier run has either, the address may be wrong,
    and a server that does not answer is an error at once.
    """
    path, data, policy = config.output.store, config.data, _new_policy(config)
    is_new = fresh or store.find_store(path) is store.StoreStatus.NEW
    if not is_new:
        known = store.open_result(path, unfinished=True).data
        policy = _stored_policy(known["chunks"])
        data = data if data.version is not None else data.at(known.get("version"))
    opened = partial(open_source, data)
    try:
        source = opened(policy) if first and is_new else read_with_retries(opened, policy)
    except UserError as error:
        if data.version == config.data.version:
            raise
        raise UserError(
            f"{error} The result {path} is of version {data.version} of the table: if that has been removed, --fresh "
            "fits the newest one."
        ) from error
    require_any_row(source, config.data.filter)
    return through_cache(config, source)


def chunk_sizes(config: JobConfig, source: Source) -> dict[str, Any]:
    """The sizes of automatic chunks, for the store."""
    policy = _new_policy(config)
    n_fields = len(source.selection.fields)
    return {
        "chunk_bytes": policy.chunk_bytes,
        "group_bytes": policy.group_bytes,
        "rows": policy.worthwhile(n_fields),
    }


def _stored_policy(chunks: dict[str, Any]) -> ChunkPolicy:
    return ChunkPolicy(chunks["chunk_bytes"], chunks["group_bytes"], lambda n_fields: int(chunks["rows"]))


def _new_policy(config: JobConfig) -> ChunkPolicy:
    # the sample of rows takes most where there are few columns
    sample = SAMPLE_COPIES * 8 * sample_limit(8) * (8 + 3)
    # a quarter stays for sums and states
    available = int(0.75 * (config.cluster.memory_bytes - program_bytes() - sample)) // CHUNK_COPIES
    chunk_bytes = max(MIN_BYTES, min(MAX_BYTES, available // THREADS))
    group_bytes = max(chunk_bytes, min(MAX_GROUP_BYTES, available))
    return ChunkPolicy(chunk_bytes, group_bytes, partial(min_task_rows, config))


def min_task_rows(config: JobConfig, n_fields: int) -> int:
    """Rows that take one thread 50 ms in a pass of all candidates."""
    search = config.search
    row_seconds = VALUE_SECONDS * n_fields
    for name, noise in itertools.product(search.covariance_types, noise_choices(search.noise)[0]):
        # a row's share of the two matrix products: a component by the columns of its family's slice of the features
        columns = fit_columns(Candidate(name, 1, noise), n_fields)
        component_seconds = COMPONENT_SECONDS + MONOMIAL_SECONDS * (columns.stop - columns.start)
        n_densities = sum(search.n_components) + noise * len(search.n_components)
        row_seconds += search.n_init * n_densities * component_seconds
    return math.ceil(TASK_SECONDS / row_seconds)
