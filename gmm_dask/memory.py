"""Memory in bytes, projected before anything runs, and the waves that a batch is cut into so that it fits."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from gmm_dask.errors import UserError
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.budget import BUDGET, searched_candidates
from gmm_dask.passes.data_summary import sample_limit
from gmm_dask.passes.graph import MERGE_WIDTH
from gmm_dask.passes.merge_tree import LONGEST, MOST_PER_THREAD
from gmm_dask.passes.model_batch import block_bytes

# resident before the data: the imports of a job and its compiled kernels, measured on Linux with some room
IMPORTS_BYTES = 480 << 20
# copies of a chunk that a thread causes, measured on compressed Zarr: as it is read, decoded and handed over, and
# what the C library keeps of those before
CHUNK_COPIES = 6
# copies of a chunk while its read holds something else, too: as it is put together, and as it is handed over
READ_COPIES = 2
# the sample of rows while parts of it are put together
SAMPLE_COPIES = 4
# matrices of all pairs of columns: the positions of the feature map's monomials, and the data's scatter
PAIR_TABLES = 4
# of such a matrix that a thread adds up in pass 0: the products of a block, and the terms of a merge
SCATTER_TERMS = 2
# of the covariances of a fit during its step, or its start: measured for 2 components of 2,000 columns
STEP_COPIES = 9
# of a checkpoint while it is saved or loaded: by field, by dtype, compressed, and as it goes to the disk
CHECKPOINT_COPIES = 4
# of a worker's memory, what may be filled before Dask begins to move results to disk, and of the part of that which
# nothing needs, what is taken: chunks are never spread quite evenly
UNSPILLED, SPREAD = 0.6, 0.8


@dataclass(frozen=True)
class Machine:
    """What computes: ``threads`` chunks at a time in one process that may use ``memory_limit`` bytes.

    ``runs`` tells whether a task takes a run of chunks, as on the workers of a cluster.
    """

    threads: int
    memory_limit: int
    runs: bool = False


@dataclass(frozen=True)
class Shape:
    """What is read: ``n_features`` columns in ``n_chunks`` chunks of at most ``chunk_rows`` rows.

    ``read_bytes`` are those that the read of a chunk holds beside it, such as lines of text; ``output_bytes`` those of
    what is computed and written for each row. ``held_out`` tells whether some rows are held out, so that the others are
    copied, ``search_effort`` the effort of a search for starts on a subsample (``init_params="auto"``), 0 if there is
    none.
    """

    n_features: int
    n_chunks: int
    chunk_rows: int
    read_bytes: int = 0
    output_bytes: int = 0
    held_out: bool = False
    search_effort: float = 0.0

    @property
    def chunk_bytes(self) -> int:
        """A chunk as float64."""
        return 8 * self.chunk_rows * self.n_features

    @property
    def matrix_bytes(self) -> int:
        """A number for each pair of columns."""
        return 8 * self.n_features**2


def release_freed() -> None:
    """Return freed memory to the operating system, where the C library keeps it: glibc, per thread, for the next use.

    A stage frees up to as much as the next one needs, and other threads cannot use it. A pass over 16 chunks of 2,000
    columns left 720 MiB, of which 310 were in use.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def spare_bytes(machine: Machine, needed: int) -> int:
    """What a worker has left for chunks that it keeps, if its work needs so many bytes."""
    return max(0, int(SPREAD * (UNSPILLED * machine.memory_limit - needed)))


def model_bytes(candidate: Candidate, n_features: int) -> int:
    """Bytes of the sums that one fit of a candidate takes from a chunk."""
    name, n_components = candidate
    columns = get_family(name).fit_columns(n_features)
    n_columns: int = columns.stop - columns.start
    return 8 * n_components * n_columns


def reading_bytes(chunk_bytes: int, read_bytes: int) -> int:
    """What a thread holds while it reads a chunk, and holds ``read_bytes`` beside it."""
    return max(CHUNK_COPIES * chunk_bytes, READ_COPIES * chunk_bytes + read_bytes)


def thread_bytes(shape: Shape, n_components: int = 1) -> int:
    """What a thread works on: a chunk as it is read, decoded and computed, a block of it, its rows' outputs.

    ``n_components`` are those of the largest mixture, of which a block has the log densities.
    """
    block = block_bytes(shape.n_features + 2, n_components)
    # the mask of the rows that are fitted, their positions, their weights and themselves
    copied = 8 * shape.chunk_rows * (shape.n_features + 3) if shape.held_out else 0
    reading = reading_bytes(shape.chunk_bytes, shape.read_bytes)
    return reading + copied + 2 * block + 3 * shape.output_bytes * shape.chunk_rows


def affordable_threads(shape: Shape, memory_limit: int, most: int) -> int:
    """How many threads, up to ``most``, leave a quarter of the memory that data may use to sums and states."""
    idle, one = (summary_bytes(shape, Machine(threads, memory_limit)) for threads in (0, 1))
    available = memory_limit - IMPORTS_BYTES - idle
    return max(1, min(most, int(0.75 * available) // (thread_bytes(shape) + one - idle)))


def state_bytes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> int:
    """The states of all fits, each with covariances and their Cholesky factors."""
    means = sum(k * (shape.n_features + 1) for _, k in candidates)
    return 8 * n_init * (2 * sum(covariance_values(shape, candidate) for candidate in candidates) + means)


def covariance_values(shape: Shape, candidate: Candidate) -> int:
    """How many numbers the covariances of a candidate are."""
    name, n_components = candidate
    return math.prod(get_family(name).covariance_shape(n_components, shape.n_features))


def step_bytes(shape: Shape, candidates: Sequence[Candidate]) -> int:
    """What one step takes, of the candidate with the most covariances."""
    return STEP_COPIES * 8 * max(covariance_values(shape, candidate) for candidate in candidates)


def resting_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """What a pass needs whatever is in its batch: imports, tables, the threads' work, a step, all states twice.

    The step comes after the pass, and does not use again what the threads have freed.
    """
    tables = PAIR_TABLES * shape.matrix_bytes
    states = 2 * state_bytes(shape, candidates, n_init)
    working = machine.threads * thread_bytes(shape, max(k for _, k in candidates))
    return IMPORTS_BYTES + tables + working + step_bytes(shape, candidates) + states


def saving_bytes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> int:
    """What a checkpoint takes between two passes."""
    states = state_bytes(shape, candidates, n_init)
    saved = CHECKPOINT_COPIES * (states + shape.matrix_bytes)
    return IMPORTS_BYTES + PAIR_TABLES * shape.matrix_bytes + states + saved


def copies_of_sums(shape: Shape, machine: Machine) -> int:
    """How many times a batch's sums can be alive: in work twice, waiting in the tree of merges, and as coefficients."""
    # each thread has the sums of its chunk, those of a merge, and one for each level of the tree in its run; at each
    # level of merges up to MERGE_WIDTH - 1 results wait for the last; the merged sums, the statistics and the next
    # coefficients come last
    n_chunks = max(2, shape.n_chunks)
    in_run = max(1, n_chunks // (LONGEST * machine.threads)).bit_length() if machine.runs else 0
    n_tasks = min(n_chunks, MOST_PER_THREAD * machine.threads) if machine.runs else n_chunks
    depth = max(1, math.ceil(math.log(n_tasks, MERGE_WIDTH)))
    return (2 + in_run) * machine.threads + (MERGE_WIDTH - 1) * depth + 3


def summary_bytes(shape: Shape, machine: Machine) -> int:
    """What pass 0 holds beside the chunks in work: its sample, as the parts of it are merged, and the scatters."""
    scatters = copies_of_sums(shape, machine) + SCATTER_TERMS * machine.threads
    return SAMPLE_COPIES * 8 * _sampled(shape) * (shape.n_features + 3) + scatters * shape.matrix_bytes


def initialization_bytes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> int:
    """The sample of rows, two copies that k-means makes of it, a start's responsibilities and step, and all states."""
    sample = 8 * _sampled(shape) * (3 * shape.n_features + 2 * max(k for _, k in candidates))
    return (
        sample
        + step_bytes(shape, candidates)
        + PAIR_TABLES * shape.matrix_bytes
        + state_bytes(shape, candidates, n_init)
    )


def _sampled(shape: Shape) -> int:
    return min(sample_limit(shape.n_features), shape.n_chunks * shape.chunk_rows)


def projected_bytes(
    shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int, waves: Iterable[int]
) -> int:
    """Projected peak of the process: the heaviest wave's pass, pass 0, the initialization or a checkpoint.

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
    return max(passing, starting_bytes(shape, machine, candidates, n_init), saving_bytes(shape, candidates, n_init))


def starting_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """What the work before the first pass needs: the imports, and pass 0 or the initialization, whichever is more."""
    initialization = initialization_bytes(shape, candidates, n_init)
    if shape.search_effort:
        # the rows that the best fits were compared on, and those with the least likely ones: raw, whitened and as given
        initialization += 2 * 3 * 8 * _sampled(shape) * shape.n_features
        affordable = BUDGET.affords_search(candidates, _sampled(shape), shape.n_features, shape.search_effort)
        searched = searched_candidates(candidates) if affordable else candidates
        initialization += BUDGET.search_bytes(searched, _sampled(shape), shape.n_features, n_init, machine.threads)
    summary = machine.threads * thread_bytes(shape) + summary_bytes(shape, machine)
    return IMPORTS_BYTES + max(summary, initialization)


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
    fits = [*done, *candidates]
    resting = resting_bytes(shape, machine, fits, n_init)
    copies = copies_of_sums(shape, machine)
    sizes = _sizes(shape, candidates, n_init)
    starting, saving = starting_bytes(shape, machine, candidates, n_init), saving_bytes(shape, fits, n_init)
    needed = max(resting + copies * max(sizes), starting, saving)
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
        f"{machine.threads} thread(s) at work on chunks of {shape.chunk_rows:,} rows (to read one takes "
        f"{(shape.chunk_bytes + shape.read_bytes) / mib:,.0f}), the rest for starts, sums and states. Raise "
        "cluster.memory_limit, search fewer components or columns, or use smaller chunks: data.chunk_rows, and in the "
        "data smaller storage chunks, pages or lines."
    )
