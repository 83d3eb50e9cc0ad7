"""Memory in bytes, projected before anything runs, and the waves that a batch is cut into so that it fits."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from gmm_dask.errors import UserError
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.init.budget import BUDGET, searched_candidates
from gmm_dask.init.noise import MOST_ROWS as NOISE_ROWS
from gmm_dask.init.noise import NEAREST
from gmm_dask.kernels.compilation.cache_folder import is_kept
from gmm_dask.passes.component_sums import BLOCK_ROWS as FILLED_ROWS
from gmm_dask.passes.data_summary import sample_limit
from gmm_dask.passes.execution.graph import MERGE_WIDTH
from gmm_dask.passes.execution.merge_tree import LONGEST, MOST_PER_THREAD
from gmm_dask.passes.model_batch import block_bytes

# resident before the data: the imports of a job and its compiled kernels, measured on Linux with some room
IMPORTS_BYTES = 480 << 20
# of the compiler, in a process that compiles the kernels of a job, measured with some room
COMPILER_BYTES = 160 << 20
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
# of the rows of a chunk with gaps: the number of each one's pattern, and its place when they are sorted
POSITION_BYTES = 32
# of a pattern of gaps: coefficients and sums of the present columns, what they give of all, the factors
PATTERN_COPIES = 4
# the scatter, and by pair of columns weights, means and scatters
PAIR_MOMENTS = 4
# of the sample without its gaps: rows by pattern, normal numbers, draws, and the rows with them
COMPLETED_COPIES = 4
# of a block of rows whose gaps are filled, with what each component has of them: random numbers, draws, rows; measured
# for up to 100 columns
FILLED_COPIES = 8
# of the covariances of a fit during its step, or its start: measured for 2 components of 2,000 columns
STEP_COPIES = 9
# of the rows that starts beside noise look at: scaled, those that are no noise, and both as samples
NOISE_COPIES = 4
# of a checkpoint while it is saved or loaded: by field, by dtype, compressed, and as it goes to the disk
CHECKPOINT_COPIES = 4
# of a worker's memory, what may be filled before Dask begins to move results to disk, and of the part of that which
# nothing needs, what is taken: chunks are never spread quite evenly
UNSPILLED, SPREAD = 0.6, 0.8
# of a worker's memory, what may be filled before Dask hands it no more tasks
UNPAUSED = 0.8


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

    Where rows are transformed as they are read, other than by scaling, ``n_columns`` is what they have before it; else
    it is 0.
    ``read_bytes`` are those that the read of a chunk holds beside it, such as lines of text; ``output_bytes`` those of
    what is computed and written for each row. ``copies_rows`` tells whether some of a chunk's rows are copied, as rows
    are held out or resampled, ``search_effort`` the effort of a search for starts on a subsample
    (``init_params="auto"``), 0 if there is none. ``n_components`` are those of the largest mixture, of which a block of
    rows has the log densities. ``gaps`` tells whether rows may have missing values, ``fills`` whether these are drawn
    block by block.
    """

    n_features: int
    n_chunks: int
    chunk_rows: int
    read_bytes: int = 0
    output_bytes: int = 0
    copies_rows: bool = False
    search_effort: float = 0.0
    n_components: int = 1
    n_columns: int = 0
    gaps: bool = False
    fills: bool = False

    @property
    def as_read(self) -> Shape:
        """The shape before the transform: that of pass 0."""
        return replace(self, n_features=max(self.n_features, self.n_columns))

    @property
    def chunk_bytes(self) -> int:
        """A chunk as float64, before or after the transform, whichever is more."""
        return 8 * self.chunk_rows * max(self.n_features, self.n_columns)

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


def program_bytes() -> int:
    """What is resident before the data: imports and kernels, and the compiler where it leaves no machine code."""
    return IMPORTS_BYTES + (0 if is_kept() else COMPILER_BYTES)


def compiler_notes() -> list[str]:
    """Return what to know where a job compiles its kernels itself."""
    if is_kept():
        return []
    return [
        f"no folder can be written in which compiled kernels are kept: each run compiles them itself, for which "
        f"{COMPILER_BYTES >> 20} MiB are projected. Set NUMBA_CACHE_DIR to one that can"
    ]


def spare_bytes(machine: Machine, needed: int) -> int:
    """What a worker has left for chunks that it keeps, if its work needs so many bytes."""
    return max(0, int(SPREAD * (UNSPILLED * machine.memory_limit - needed)))


def reads_ahead(shape: Shape, machine: Machine, needed: int) -> bool:
    """Whether each thread of a worker may hold the next chunk of its run, too, if the work needs so many bytes."""
    return machine.runs and needed + busy_threads(shape, machine) * shape.chunk_bytes <= UNPAUSED * machine.memory_limit


def model_bytes(candidate: Candidate, n_features: int, gaps: bool = False) -> int:
    """Bytes of the sums that one fit of a candidate takes from a chunk, with gaps those of incomplete rows, too."""
    columns = fit_columns(candidate, n_features)
    n_columns: int = columns.stop - columns.start
    if gaps:
        complete = get_family(candidate.covariance_type).density_columns(n_features)
        n_columns += complete.stop - complete.start
    return 8 * (candidate.n_components + candidate.noise) * n_columns


def fit_columns(candidate: Candidate, n_features: int) -> slice:
    """Part of the feature map that a fit of a candidate needs."""
    family = get_family(candidate.covariance_type)
    return family.density_columns(n_features) if candidate.noise else family.fit_columns(n_features)


def reading_bytes(chunk_bytes: int, read_bytes: int) -> int:
    """What a thread holds while it reads a chunk, and holds ``read_bytes`` beside it."""
    return max(CHUNK_COPIES * chunk_bytes, READ_COPIES * chunk_bytes + read_bytes)


def thread_bytes(shape: Shape) -> int:
    """What a thread works on: a chunk as it is read, decoded and computed, a block of it, its rows' outputs."""
    block = block_bytes(shape.n_features + 2, shape.n_components)
    # the mask of the rows that are fitted, their positions, their weights and themselves
    copied = 8 * shape.chunk_rows * (shape.n_features + 3) if shape.copies_rows else 0
    if shape.gaps:
        # complete rows and the others, those of a pattern, what each row has and where it is
        copied += 2 * shape.chunk_bytes + shape.chunk_rows * (shape.n_features + POSITION_BYTES)
    if shape.fills:
        filled = shape.n_features + shape.n_columns + shape.n_components + 1
        copied += FILLED_COPIES * 8 * min(FILLED_ROWS, shape.chunk_rows) * filled
    reading = reading_bytes(shape.chunk_bytes, shape.read_bytes)
    if shape.n_columns:  # the chunk after the transform, and blocks of rows on their way through its steps
        reading += 8 * shape.n_features * shape.chunk_rows + 4 * 8 * shape.n_columns * min(8192, shape.chunk_rows)
    return reading + copied + 2 * block + 3 * shape.output_bytes * shape.chunk_rows


def busy_threads(shape: Shape, machine: Machine) -> int:
    """How many threads have a chunk at a time."""
    return min(machine.threads, shape.n_chunks)


def working_bytes(shape: Shape, machine: Machine) -> int:
    """What all threads work on; a thread without a chunk holds nothing."""
    return busy_threads(shape, machine) * thread_bytes(shape)


def affordable_threads(shape: Shape, memory_limit: int, most: int) -> int:
    """How many threads, up to ``most``, leave a quarter of the memory that data may use to sums and states."""
    idle, one = (summary_bytes(shape, Machine(threads, memory_limit)) for threads in (0, 1))
    available = memory_limit - program_bytes() - idle
    return max(1, min(most, int(0.75 * available) // (thread_bytes(shape) + one - idle)))


def state_bytes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> int:
    """The states of all fits, each with covariances and their Cholesky factors."""
    means = sum(one.n_components * (shape.n_features + 1) for one in candidates)
    return 8 * n_init * (2 * sum(covariance_values(shape, candidate) for candidate in candidates) + means)


def covariance_values(shape: Shape, candidate: Candidate) -> int:
    """How many numbers the covariances of a candidate are."""
    family = get_family(candidate.covariance_type)
    return math.prod(family.covariance_shape(candidate.n_components, shape.n_features))


def step_bytes(shape: Shape, candidates: Sequence[Candidate]) -> int:
    """What one step takes, of the candidate with the most covariances."""
    return STEP_COPIES * 8 * max(covariance_values(shape, candidate) for candidate in candidates)


def resting_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """What a pass needs whatever is in its batch: imports, tables, the threads' work, a step, all states twice.

    The step comes after the pass, and does not use again what the threads have freed.
    """
    tables = PAIR_TABLES * shape.matrix_bytes
    states = 2 * state_bytes(shape, candidates, n_init)
    working = working_bytes(shape, machine) + machine.threads * pattern_bytes(shape, candidates)
    return program_bytes() + tables + working + step_bytes(shape, candidates) + states


def pattern_bytes(shape: Shape, candidates: Sequence[Candidate]) -> int:
    """What a thread holds of a pattern of gaps: the marginal mixture with its factors, coefficients and sums."""
    if not shape.gaps:
        return 0
    of_one = (model_bytes(one, shape.n_features) + 8 * covariance_values(shape, one) for one in candidates)
    return PATTERN_COPIES * max(of_one)


def saving_bytes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> int:
    """What a checkpoint takes between two passes."""
    states = state_bytes(shape, candidates, n_init)
    saved = CHECKPOINT_COPIES * (states + shape.matrix_bytes)
    return program_bytes() + PAIR_TABLES * shape.matrix_bytes + states + saved


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
    shape = shape.as_read
    scatters = copies_of_sums(shape, machine) + SCATTER_TERMS * machine.threads
    scatters *= PAIR_MOMENTS if shape.gaps else 1
    return SAMPLE_COPIES * 8 * _sampled(shape) * (shape.n_features + 3) + scatters * shape.matrix_bytes


def initialization_bytes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> int:
    """The sample of rows, two copies that k-means makes of it, a start's responsibilities and step, and all states."""
    copies = 3 + (COMPLETED_COPIES if shape.gaps else 0)
    sample = 8 * _sampled(shape) * (copies * shape.n_features + 2 * max(one.n_components for one in candidates))
    sample += 8 * _sampled(shape) * shape.n_columns
    return (
        sample
        + step_bytes(shape, candidates)
        + PAIR_TABLES * shape.matrix_bytes
        + state_bytes(shape, candidates, n_init)
    )


def noise_bytes(shape: Shape, machine: Machine, candidates: Sequence[Candidate], n_init: int) -> int:
    """What the starts beside noise take: copies of their rows, the neighbours of each, and the sums of all fits."""
    sizes = _sizes(shape, [one for one in candidates if one.noise], n_init)
    if not sizes:
        return 0
    rows = min(_sampled(shape), NOISE_ROWS)
    return 8 * rows * (NOISE_COPIES * shape.n_features + 2 * NEAREST) + (2 * machine.threads + 3) * sum(sizes)


def _sampled(shape: Shape) -> int:
    return min(sample_limit(max(shape.n_features, shape.n_columns)), shape.n_chunks * shape.chunk_rows)


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
    initialization = initialization_bytes(shape, candidates, n_init) + noise_bytes(shape, machine, candidates, n_init)
    if shape.search_effort:
        candidates = list(dict.fromkeys(one._replace(noise=False) for one in candidates))  # both take one search
        # the rows that the best fits were compared on, and those with the least likely ones: raw, whitened and as given
        initialization += 2 * 3 * 8 * _sampled(shape) * shape.n_features
        affordable = BUDGET.affords_search(candidates, _sampled(shape), shape.n_features, shape.search_effort)
        searched = searched_candidates(candidates) if affordable else candidates
        initialization += BUDGET.search_bytes(searched, _sampled(shape), shape.n_features, n_init, machine.threads)
    summary = working_bytes(replace(shape, n_components=1), machine) + summary_bytes(shape, machine)
    return program_bytes() + max(summary, initialization)


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
    return _cut(sizes, copies, machine.memory_limit - resting)


def _cut(sizes: Sequence[int], copies: int, available: int) -> tuple[int, ...]:
    """Fill waves up in the order of the fits, so that the same limit gives the same waves, and the same bits."""
    waves, used = [0], 0
    for size in sizes:
        if used + copies * size > available:
            waves.append(0)
            used = 0
        waves[-1] += 1
        used += copies * size
    return tuple(waves)


@dataclass(frozen=True)
class Resamples:
    """The fits to resamples: ``n_resamples`` of each of ``candidates``, which had ``n_init`` starts before."""

    candidates: tuple[Candidate, ...]
    n_init: int
    n_resamples: int

    def resting_bytes(self, shape: Shape, machine: Machine) -> int:
        """What a pass of theirs needs whatever is in its batch: each resample has a scatter of its own, kept twice."""
        fits = resting_bytes(shape, machine, self.candidates, self.n_init + self.n_resamples)
        return fits + 2 * self.n_resamples * shape.matrix_bytes

    def other_bytes(self, shape: Shape, machine: Machine) -> int:
        """What the pass needs that sums up the resamples' moments, or a checkpoint if that is more."""
        scatters = (copies_of_sums(shape, machine) + CHECKPOINT_COPIES) * self.n_resamples * shape.matrix_bytes
        saving = saving_bytes(shape, self.candidates, self.n_init + self.n_resamples)
        return max(resting_bytes(shape, machine, self.candidates, self.n_init), saving) + scatters

    def projected_bytes(self, shape: Shape, machine: Machine, fits: Sequence[Candidate], waves: Iterable[int]) -> int:
        """Projected peak, of waves of ``fits`` (the candidate of each): a pass, or a checkpoint."""
        sizes = iter([model_bytes(candidate, shape.n_features) for candidate in fits])
        heaviest = max((sum(islice(sizes, n_fits)) for n_fits in waves), default=0)
        passing = self.resting_bytes(shape, machine) + copies_of_sums(shape, machine) * heaviest
        return max(passing, self.other_bytes(shape, machine))

    def plan_waves(self, shape: Shape, machine: Machine, fits: Sequence[Candidate]) -> tuple[int, ...]:
        """Cut ``fits``, the candidate of each, into waves whose sums fit the memory.

        Raises
        ------
        UserError
            If one fit, or the resamples' scatters, are too much.
        """
        copies, resting = copies_of_sums(shape, machine), self.resting_bytes(shape, machine)
        sizes = [model_bytes(candidate, shape.n_features) for candidate in fits]
        needed = max(resting + copies * max(sizes, default=0), self.other_bytes(shape, machine))
        if needed > machine.memory_limit:
            error = _too_small(shape, machine, needed)
            raise UserError(f"for {self.n_resamples} resamples (search.resamples) {error}")
        return _cut(sizes, copies, machine.memory_limit - resting)


def _sizes(shape: Shape, candidates: Sequence[Candidate], n_init: int) -> list[int]:
    return [model_bytes(candidate, shape.n_features, shape.gaps) for candidate in candidates for _ in range(n_init)]


def _too_small(shape: Shape, machine: Machine, needed: int) -> UserError:
    mib = 1 << 20
    return UserError(
        f"the memory limit is {machine.memory_limit / mib:,.0f} MiB, and {needed / mib:,.0f} MiB are needed: "
        f"{program_bytes() / mib:,.0f} for the program, {working_bytes(shape, machine) / mib:,.0f} for "
        f"{busy_threads(shape, machine)} thread(s) at work on chunks of {shape.chunk_rows:,} rows (to read one takes "
        f"{(shape.chunk_bytes + shape.read_bytes) / mib:,.0f}), the rest for starts, sums and states. Raise "
        "cluster.memory_limit, search fewer components or columns, or use smaller chunks: data.chunk_rows, and in the "
        "data smaller storage chunks, pages or lines."
    )
