"""What a job would cost: rows, passes in bytes, and memory, known before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

from dask.system import CPU_COUNT

from gmm_dask.families import FAMILIES
from gmm_dask.profile import sample_limit
from gmm_dask.scan import MERGE_WIDTH
from gmm_dask.stack import BLOCK_BYTES
from pipeline.config import JobConfig, SearchConfig
from pipeline.sources import Source, open_source

IMPORTS_BYTES = 330 << 20  # resident after the imports, measured on Linux


@dataclass(frozen=True)
class Estimate:
    """What a job reads and needs.

    Attributes
    ----------
    source : Source
        The opened data.
    store : str
        Path of the result store.
    candidates : int
        Pairs of a number of components and a covariance type.
    starts : int
        Fits in all: candidates times ``n_init``.
    threads : int
        Chunks in work at a time.
    memory_bytes : int
        Projected peak of the process, its imports included.
    memory_limit : int
        What the config allows.
    """

    source: Source
    store: str
    candidates: int
    starts: int
    threads: int
    memory_bytes: int
    memory_limit: int


def estimate_job(config: JobConfig) -> Estimate:
    """Read the header of the data, and project what the job costs.

    Raises
    ------
    UserError
        As :func:`pipeline.sources.open_source`.
    """
    source = open_source(config.data)
    search = config.search
    candidates = len(search.n_components) * len(search.covariance_types)
    return Estimate(
        source=source,
        store=config.output.store,
        candidates=candidates,
        starts=candidates * search.n_init,
        threads=CPU_COUNT,
        memory_bytes=project_memory(source, search, CPU_COUNT),
        memory_limit=config.cluster.memory_bytes,
    )


def project_memory(source: Source, search: SearchConfig, threads: int) -> int:
    """Peak memory of a job's process in bytes: imports, chunks in work, sums of the stack, and the starts.

    Parameters
    ----------
    source : Source
    search : SearchConfig
    threads : int
        Each holds a chunk as it is read and as it is decoded, a block of it, and the chunk's sums.
    """
    sums = statistics_bytes(search, len(source.columns))
    working = threads * (2 * _chunk_bytes(source) + BLOCK_BYTES + sums)
    waiting = (MERGE_WIDTH + 3) * sums  # results not merged yet, coefficients, and the states before and after
    return IMPORTS_BYTES + working + waiting + _seeding_bytes(source, max(search.n_components))


def statistics_bytes(search: SearchConfig, n_features: int) -> int:
    """Bytes of the sums that one chunk gives for all starts of all candidates, 8 a number."""
    widths = [FAMILIES[name].fit_columns(n_features) for name in search.covariance_types]
    columns = int(sum(width.stop - width.start for width in widths))
    return 8 * search.n_init * sum(search.n_components) * columns


def _chunk_bytes(source: Source) -> int:
    """Bytes of the largest chunk as float64; of CSV, those of its text, which takes more."""
    if source.n_rows is None:
        return source.bytes_per_pass // int(source.array.numblocks[0])
    return int(max(source.array.chunks[0])) * len(source.columns) * 8


def _seeding_bytes(source: Source, most_components: int) -> int:
    """The sample of rows, two copies that k-means makes of it, and a start's responsibilities."""
    n_features = len(source.columns)
    rows = sample_limit(n_features)
    if source.n_rows is not None:
        rows = min(rows, source.n_rows)
    return int(8 * rows * (3 * n_features + most_components))
