"""Compilation of a job's kernels before its rows are read, in processes beside it, so that its own memory is data's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gmm_dask.passes.row_outputs import IMPUTED
from pipeline.config.job import JobConfig
from pipeline.progress import Message, Progress
from pipeline.sources import Source

if TYPE_CHECKING:
    from gmm_dask.families.candidate import Candidate
    from gmm_dask.kernels.compilation.jit import Missing

# a job that has opened its data, measured with some room
BEGUN_BYTES = 300 << 20


@contextmanager
def kernels_made(config: JobConfig, wanted: Callable[[], list[Missing]], progress: Progress) -> Iterator[None]:
    """Compile what is wanted and not on disk, and within it what is wanted beside, in processes of their own.

    Parameters
    ----------
    config : JobConfig
        Of whose memory limit the processes take what the program leaves; at least one does, if need be beyond it.
    wanted : callable
        Returns what the job calls.
    progress : callable
    """
    # imported late: the command line's help needs no Numba
    from gmm_dask.kernels.compilation import processes
    from gmm_dask.kernels.compilation.jit import compilation_reported, made_by

    def make(missing: list[Missing], n_processes: int) -> None:
        beside = "a process" if n_processes == 1 else f"{n_processes} processes"
        text = f"kernels for this processor, in {beside}, for up to half a minute (later runs load them)"
        progress(Message("compile", text))
        for failure in processes.make(missing, n_processes):
            progress(Message("compile", f"{failure}; this process compiles instead", is_warning=True))

    def report(is_kept: bool) -> None:
        kept = "later runs load them" if is_kept else "in every run: no folder can be written; set NUMBA_CACHE_DIR"
        progress(Message("compile", f"kernels for this processor, up to half a minute ({kept})"))

    if missing := processes.missing_of(wanted()):
        make(missing, min(_n_processes(config.cluster.memory_bytes), len(missing)))
    with made_by(lambda one: make([one], 1)), compilation_reported(report):
        yield


def _n_processes(memory_limit: int) -> int:
    """Return how many processes the cores and the memory limit have room for; at least one."""
    import dask
    from dask.system import CPU_COUNT

    from gmm_dask.kernels.compilation.processes import MOST_PROCESSES, PROCESS_BYTES

    cores = int(dask.config.get("num_workers", None) or CPU_COUNT)
    return max(1, min(MOST_PROCESSES, cores, (memory_limit - BEGUN_BYTES) // PROCESS_BYTES))


def kernels_of_job(config: JobConfig, source: Source) -> list[Missing]:
    """Return the kernels of a job.

    Two processes that take them in this order compile next to nothing twice: a fit takes what the kernels before it
    are made of.
    """
    from gmm_dask.init.budget import BUDGET
    from gmm_dask.init.starts import STARTS
    from gmm_dask.init.subsample import screening_dtype
    from gmm_dask.kernels.compilation.signatures import (
        DOUBLE,
        of_draws,
        of_fits,
        of_mixtures_from_parts,
        of_predictions,
        of_priors,
        of_sums,
        of_whole_fit,
    )
    from gmm_dask.selection.grid import check_candidates

    search, rows = config.search, source.array.dtype
    candidates, n_features = check_candidates(search.n_components, search.covariance_types), len(source.columns)
    # the sample of rows is in double precision
    found, others = [of_predictions(DOUBLE), of_sums(DOUBLE, DOUBLE)], of_fits()
    if STARTS[search.init_params].is_search:
        assemble, fill = of_mixtures_from_parts()
        n_rows = BUDGET.n_rows(candidates, n_features)
        screening = screening_dtype(n_features * (n_rows if source.n_rows is None else min(source.n_rows, n_rows)))
        fits = [of_whole_fit(precision) for precision in dict.fromkeys([DOUBLE, screening])]
        found, others = [assemble, *found, *fits], [*others, fill]
    elif search.has_noise or config.data.by is not None:  # of starts over the sample, of the rows of a group
        found.append(of_whole_fit(DOUBLE))
    found += others
    if search.has_noise and search.prior != "none":
        found += of_priors()
    if rows != DOUBLE:  # models that need it are computed in double precision
        found += [of_predictions(rows), of_sums(rows, rows), of_sums(rows, DOUBLE)]
    found += [*_of_constraints(candidates), *_of_gaps(config, source)]
    return [*found, *([of_draws()] if config.data.has_gaps else [])]


def kernels_of_scores(config: JobConfig, source: Source) -> list[Missing]:
    """Return the kernels of the scores of rows."""
    from gmm_dask.kernels.compilation.signatures import DOUBLE, of_draws, of_predictions, of_sums
    from gmm_dask.selection.grid import check_candidates

    candidates = check_candidates(config.search.n_components, config.search.covariance_types)
    dtypes = dict.fromkeys([source.array.dtype, DOUBLE])
    found = [one for rows in dtypes for one in (of_predictions(rows), of_sums(rows, DOUBLE))]
    found += [*_of_constraints(candidates), *_of_gaps(config, source)]
    return [*found, *([of_draws()] if config.data.has_gaps else [])]


def _of_constraints(candidates: Sequence[Candidate]) -> list[Missing]:
    """Return the kernels of candidates whose components have something in common, fitted or read from a store."""
    from gmm_dask.families import get_family
    from gmm_dask.kernels.compilation.signatures import of_constraints

    constrained = any(get_family(candidate.covariance_type).is_constrained for candidate in candidates)
    return of_constraints() if constrained else []


def _of_gaps(config: JobConfig, source: Source) -> list[Missing]:
    """Return the kernels of the rows of a source and of the sample in which values are missing, if any may be."""
    from gmm_dask.kernels.compilation.signatures import (
        DOUBLE,
        of_imputation,
        of_incomplete_predictions,
        of_incomplete_sums,
    )

    if not config.data.has_gaps:
        return []
    rows = source.array.dtype
    dtypes = dict.fromkeys([rows, DOUBLE])
    found = [one for dtype in dtypes for one in (of_incomplete_sums(dtype), *of_incomplete_predictions(dtype))]
    return found + ([of_imputation(rows)] if IMPUTED.name in config.output.row_outputs else [])
