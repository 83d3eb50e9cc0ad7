"""Memory in bytes, projected before anything runs, and the waves that a batch is cut into so that it fits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from gmm_dask.errors import UserError
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.budget import BUDGET
from gmm_dask.passes.data_summary import sample_limit
from gmm_dask.passes.graph import MERGE_WIDTH
from gmm_dask.passes.model_batch import BLOCK_BYTES, ROW_MULTIPLE

# resident before the data: the imports of a job and its compiled kernels, measured on Linux with some room
IMPORTS_BYTES = 480 << 20
# copies of a chunk that a thread causes, measured on compressed Zarr: as it is read, decoded and handed over, and
# what the C library keeps of those before
CHUNK_COPIES = 6
# the sample of rows while parts of it are put together
SAMPLE_COPIES = 4
# of a worker's memory, what may be filled before Dask begins to move results to disk, and of the part of that which
# nothing needs, what is taken: chunks are never spread quite evenly
UNSPILLED, SPREAD = 0.6, 0.8


@dataclass(frozen=True)
class Machine:
    """What computes: ``threads`` chunks at a time in one process that may use ``memory_limit`` bytes."""

    threads: int
    memory_limit: int


@dataclass(frozen=True)
class Shape:
    """What is read: ``n_features`` columns in ``n_chunks`` chunks of at most ``chunk_rows`` rows.

    ``output_bytes`` are those of what is computed and written for each row, ``held_out`` tells whether some rows are
    held out, so that the others are copied, ``searches_starts`` whether starts are searched for on a
    subsample (``init_params="auto"``).
    """

    n_features: int
    n_chunks: int
    chunk_rows: int
    output_bytes: int = 0
    held_out: bool = False
    searches_starts: bool = False

    @property
    def chunk_bytes(self) -> int:
        """A chunk as float64."""
        return 8 * self.chunk_rows * self.n_features


def spare_bytes(machine: Machine, needed: int) -> int:
    """What a worker has left for chunks that it keeps, if its work needs so many bytes."""
    return max(0, int(SPREAD * (UNSPILLED * machine.memory_limit - needed)))


def model_bytes(candidate: Candidate, n_features: int) -> int:
    """Bytes of the sums that one fit of a candidate takes from a chunk."""
    name, n_components = candidate
    columns = get_family(name).fit_columns(n_features)
    n_columns: int = columns.stop - columns.start
    return 8 * n_components * n_columns


def thread_bytes(shape: Shape) -> int:
    """What a thread works on: a chunk as it is read, decoded and computed, a block of it, its rows' outputs."""
    block = max(BLOCK_BYTES, ROW_MULTIPLE * 8 * (shape.n_features + 2))
    # the mask of the rows that are fitted, their positions, their weights and themselves
    copied = 8 * shape.chunk_rows * (shape.n_features + 3) if shape.held_out else 0
    return CHUNK_COPIES * shape.chunk_bytes + copied + 2 * block + 3 * shape.output_bytes * shape.chunk_rows


def affordable_threads(shape: Shape, memory_limit: int, most: int) -> int:
    """How many threads, up to ``most``, leave a quarter of the memory that data may use to sums and states."""
    available = memory_limit - IMPORTS_BYTES - summary_bytes(shape)
    return max(1, min(most, int(0.75 * available) // thread_bytes(shape)))


def resting_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """What a pass needs whatever is in its batch: imports, the threads' work, the states of all fits.

    Of each fit there are two states, before and after a step, each with covariances and their Cholesky factors.
    """
    states = 0
    for name, k in candidates:
        covariances = math.prod(get_family(name).covariance_shape(k, shape.n_features))
        states += 2 * 8 * (2 * covariances + k * (shape.n_features + 1))
    return IMPORTS_BYTES + machine.threads * thread_bytes(shape) + n_init * states


def copies_of_sums(shape: Shape, machine: Machine) -> int:
    """How many times a batch's sums can be alive: in work twice, waiting in the tree of merges, and as coefficients."""
    # each thread has the sums of its chunk and those of a merge; at each level of the tree up to MERGE_WIDTH - 1
    # results wait for the last of their merge; the merged sums, the statistics and the next coefficients come last
    depth = max(1, math.ceil(math.log(max(2, shape.n_chunks), MERGE_WIDTH)))
    return 2 * machine.threads + (MERGE_WIDTH - 1) * depth + 3


def summary_bytes(shape: Shape) -> int:
    """What pass 0 holds beside the chunks in work: its sample, as the parts of it are merged."""
    return SAMPLE_COPIES * 8 * _sampled(shape) * (shape.n_features + 3)


def initialization_bytes(shape: Shape, most_components: int) -> int:
    """The sample of rows, two copies that k-means makes of it, and a start's responsibilities."""
    return 8 * _sampled(shape) * (3 * shape.n_features + 2 * most_components)


def _sampled(shape: Shape) -> int:
    return min(sample_limit(shape.n_features), shape.n_chunks * shape.chunk_rows)


def projected_bytes(
    shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int, waves: Iterable[int]
) -> int:
    """Projected peak of the process: the heaviest wave's pass, pass 0 or the initialization, whichever is most.

    Parameters
    ----------
    shape : Shape
    machine : Machine
    candidates : sequence of Candidate
    n_init : int
        Fits of each candidate.
    waves : iterable of int
        Number of fits in each wave, from :func:`plan_waves`.
    """
    sizes = iter(_sizes(shape, candidates, n_init))
    heaviest = max(sum(islice(sizes, n_fits)) for n_fits in waves)
    passing = resting_bytes(shape, machine, candidates, n_init) + copies_of_sums(shape, machine) * heaviest
    return max(passing, starting_bytes(shape, machine, candidates, n_init))


def starting_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """What the work before the first pass needs: the imports, and pass 0 or the initialization, whichever is more."""
    initialization = initialization_bytes(shape, max(k for _, k in candidates))
    if shape.searches_starts:
        # the rows that the best fits were compared on, and those with the least likely ones: raw, whitened and as given
        initialization += 2 * 3 * 8 * _sampled(shape) * shape.n_features
        initialization += BUDGET.search_bytes(candidates, _sampled(shape), shape.n_features, n_init, machine.threads)
    return IMPORTS_BYTES + max(machine.threads * thread_bytes(shape) + summary_bytes(shape), initialization)


def plan_waves(
    shape: Shape,
    machine: Machine,
    candidates: Sequence[Candidate],
    n_init: int,
    done: Sequence[Candidate] = (),
) -> tuple[int, ...]:
    """Cut the batch, candidate by candidate and start by start, into waves whose sums fit the memory.

    ``done`` are other candidates, whose fits have ended: their states stay in memory.

    Returns
    -------
    waves : tuple of int
        Number of fits in each wave.

    Raises
    ------
    UserError
        If one chunk or one fit is too much.
    """
    resting = resting_bytes(shape, machine, [*done, *candidates], n_init)
    copies = copies_of_sums(shape, machine)
    sizes = _sizes(shape, candidates, n_init)
    needed = max(resting + copies * max(sizes), starting_bytes(shape, machine, candidates, n_init))
    if needed > machine.memory_limit:
        raise _too_small(shape, machine, needed)
    # a wave is filled up in the order of the candidates, so that the same limit gives the same waves, and the same bits
    available = machine.memory_limit - resting
    waves, used = [0], 0
    for size in sizes:
        if used + copies * size > available:
            waves.append(0)
            used = 0
        waves[-1] += 1
        used += copies * size
    return tuple(waves)


def _sizes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> list[int]:
    return [model_bytes(candidate, shape.n_features) for candidate in candidates for _ in range(n_init)]


def _too_small(shape: Shape, machine: Machine, needed: int) -> UserError:
    mib = 1 << 20
    return UserError(
        f"the memory limit is {machine.memory_limit / mib:,.0f} MiB, and {needed / mib:,.0f} MiB are needed: "
        f"{IMPORTS_BYTES / mib:,.0f} for the program, {machine.threads * thread_bytes(shape) / mib:,.0f} for "
        f"{machine.threads} thread(s) at work on chunks of {shape.chunk_rows:,} rows, the rest for starts, sums and "
        "states. Raise cluster.memory_limit, search fewer components, or use smaller chunks: data.chunk_rows, and for "
        "a Zarr array those it is stored in."
    )
