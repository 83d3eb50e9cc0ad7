"""The stages of a job that makes a search for each group of rows (``data.by``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.threaded

from gmm_dask.errors import ChangedRowsError, UserError
from gmm_dask.formatting import counted, listed
from gmm_dask.memory import release_freed
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.dask_clusters import computing
from pipeline.fit.chunking import chunk_sizes, open_job
from pipeline.fit.groups.plan import IN_MEMORY_BYTES, WAVE_BYTES, GroupsPlan, plan_groups
from pipeline.fit.groups.search import GroupSearch
from pipeline.fit.plan import grid_of
from pipeline.progress import ChunksDone, GroupsDone, Message, Progress, StageStarted, report_notes
from pipeline.score.group_rows import write_group_rows
from pipeline.score.writers import read_keys
from pipeline.sources import Source
from pipeline.sources.base import no_rows
from pipeline.sources.cache import caching, make_cache
from pipeline.sources.fingerprint import header_of
from pipeline.sources.group_keys import KeyColumn, open_group_keys, require_groups
from pipeline.sources.partition import Partition, partition_rows
from pipeline.stages import Stage
from pipeline.store import StoreStatus
from pipeline.store.attributes import GroupCounts
from pipeline.store.groups.models import FoundGroups, GroupCheckpoint, GroupResult, read_groups, write_groups

# of a wave of groups that are searched side by side: about so long, at least so many for each thread
WAVE_SECONDS, LEAST_PER_THREAD = 2.0, 4
# a checkpoint has all results: it may take at most this share of the time
CHECKPOINT_SHARE = 0.05
# chunks of a group that is searched by passes have at least so many bytes
PIECE_BYTES = 4 << 20


def run_groups(
    config: JobConfig,
    begin: float,
    checkpoint_seconds: float,
    progress: Progress,
    as_task: Callable[[Stage], Stage],
) -> None:
    """Search all groups, label the rows and complete the store, or go on with what an earlier run left of that."""
    as_task(search_groups)(config, checkpoint_seconds, progress)
    as_task(write_rows)(config, progress)
    as_task(finish)(config, time.monotonic() - begin, progress)


# -- before the searches -------------------------------------------------------------------------------------------


def prepare(config: JobConfig, fresh: bool, progress: Progress) -> StoreStatus:
    """Read the data's header, and make the store or find what an earlier run left of it.

    A column that is not of groups, by its first chunk, and what cannot fit the memory limit are refused here.
    """
    source, path = open_job(config, fresh=fresh, first=True), config.output.store
    read_keys(config, source)
    keys = open_group_keys(config.data, source)
    header = header_of(source)
    report_notes((*config.notes, *source.notes), progress)
    if fresh or store.find_store(path) is StoreStatus.NEW:
        require_groups(keys, source)
        plan_groups(config, source)
    found = store.prepare_store(path, config.model_dump(mode="json"), header, fresh)
    if found is StoreStatus.COMPLETE:
        _require_unchanged(config, source, progress)
    elif found is StoreStatus.UNFINISHED:
        checkpoint = store.load_group_checkpoint(path)
        groups = store.open_result(path, unfinished=True).groups
        total = groups.n_groups if groups else 0
        progress(Message("resume", f"{path} after {len(checkpoint.results):,} of {counted(total, 'group')}"))
    return found


def _require_unchanged(config: JobConfig, source: Source, progress: Progress) -> None:
    """If the data's files are not those that the store knows, compare their rows by another read."""
    path, header = config.output.store, header_of(source)
    known = store.open_result(path, unfinished=True)
    if known.data["files"] == header["files"]:
        return
    progress(Message("compare", "the data files were changed after the run began: reading them to compare"))
    keys = open_group_keys(config.data, source)
    with _computing(config, source, plan_groups(config, source)):
        found = partition_rows(source, keys, keep=False)
    store.add_bytes_read(path, source.take_bytes_read())
    assert known.groups is not None
    _require_same_rows(path, known.groups.digest, found.digest)
    store.update_attributes(path, data={**known.data, "files": header["files"]})


def _require_same_rows(path: str, there: str, here: str) -> None:
    if there != here:
        raise ChangedRowsError(
            "the rows, or their groups, are others",
            f"the result store {path} belongs to other data, or its data have changed: their rows, or the groups of "
            "them, are others. Set another output.store, or replace this one with --fresh.",
        )


# -- the searches --------------------------------------------------------------------------------------------------


def search_groups(config: JobConfig, checkpoint_seconds: float, progress: Progress) -> None:
    """Take the rows apart by group, in one read, and search the groups that no earlier run has."""
    path, source = config.output.store, open_job(config)
    plan, keys = plan_groups(config, source), open_group_keys(config.data, source)
    if _is_searched(path):
        return
    progress(StageStarted("read", f"taking the rows apart by {config.data.by}{_kept_in(plan)}"))
    with caching(config), _computing(config, source, plan):
        if plan.folder is not None:
            make_cache(config)
        header = header_of(source)  # before the first row is read: a file that changes meanwhile has another time
        partition = _partition(config, source, keys, plan.folder, progress)
        plan.require_results(partition, config.search.max_iter)
        checkpoint = _begin(config, source, partition, header, progress)
        saver = _Saver(path, checkpoint, checkpoint_seconds)
        try:
            for results in _searched(config, plan, partition, {one.group for one in checkpoint.results}, progress):
                saver.add(results)
        finally:
            saver.save()
    release_freed()


def _is_searched(path: str) -> bool:
    result = store.open_result(path, unfinished=True)
    if result.checkpoint is None or result.groups is None:
        return False
    return len(store.load_group_checkpoint(path).results) == result.groups.n_groups


def _kept_in(plan: GroupsPlan) -> str:
    return "" if plan.folder is None else f", into {plan.folder}, which the run removes in the end"


@contextmanager
def _computing(config: JobConfig, source: Source, plan: GroupsPlan) -> Iterator[None]:
    """Compute where the configuration says; this process reads and takes rows apart by the threads of the plan."""
    with computing(config, source, plan.shape), dask.config.set(num_workers=plan.machine.threads):
        yield


def _partition(
    config: JobConfig, source: Source, keys: KeyColumn, folder: Path | None, progress: Progress
) -> Partition:
    begin, n_chunks, done, n_rows = time.monotonic(), len(source.chunks.pieces), 0, 0

    def on_chunk(rows: int) -> None:
        nonlocal done, n_rows
        done, n_rows = done + 1, n_rows + rows
        progress(ChunksDone(done, n_chunks, n_rows, time.monotonic() - begin))

    found = partition_rows(source, keys, folder, on_chunk)
    if not sum(found.chunk_rows):
        raise no_rows(source, config.data.filter)
    if not found.keys:
        raise UserError(f"data.by: no row of {source.path} has a value in the column {keys.by!r}. Name another column.")
    if config.data.missing != "drop":
        _require_usable(source, found)
    return found


def _require_usable(source: Source, found: Partition) -> None:
    bad = zip(source.selection.fields, found.unusable.tolist(), strict=True)
    counts = [f"{count:,} in {name!r}" for name, count in bad if count]
    if counts:
        raise UserError(
            f"data.missing: {source.path} has rows that cannot be used: NaN or infinite values, {listed(counts)}. "
            "Drop or impute them first. Or set data.missing: drop, which leaves them out of the fits; they keep their "
            "rows in the result."
        )


def _begin(
    config: JobConfig, source: Source, partition: Partition, header: dict[str, Any], progress: Progress
) -> GroupCheckpoint:
    """Return the last checkpoint if it is of the same rows, or save the first one."""
    path, n_groups = config.output.store, len(partition.keys)
    if store.find_store(path) is StoreStatus.UNFINISHED:
        checkpoint = store.load_group_checkpoint(path)
        _require_same_rows(path, checkpoint.digest, partition.digest)
        store.add_bytes_read(path, source.take_bytes_read())
        return checkpoint
    if partition.n_without:
        rows = counted(partition.n_without, "row")
        report_notes([f"{rows} without a value in {config.data.by} belong to no group"], progress)
    data = {**header, "chunks": chunk_sizes(config, source), "notes": list(source.notes)}
    groups = GroupCounts(n_groups, int(partition.n_rows.sum()), partition.n_without, partition.digest)
    store.update_attributes(path, data=data, groups=groups)
    is_whole = all(isinstance(key, int) for key in partition.keys)
    checkpoint = GroupCheckpoint(tuple(map(str, partition.keys)), is_whole, partition.digest)
    store.save_checkpoint(path, checkpoint, bytes_read=source.take_bytes_read())
    return checkpoint


class _Saver:
    """Saves the results so far as a checkpoint, not more often than they are worth."""

    def __init__(self, path: str, checkpoint: GroupCheckpoint, seconds: float) -> None:
        self._path, self._checkpoint, self._seconds = path, checkpoint, seconds
        self._pending: list[GroupResult] = []
        self._saved, self._took = time.monotonic(), 0.0

    def add(self, results: Sequence[GroupResult]) -> None:
        """Add results, and save them if it is time."""
        self._pending += results
        if time.monotonic() - self._saved >= max(self._seconds, self._took / CHECKPOINT_SHARE):
            self.save()

    def save(self) -> None:
        """Save all results."""
        if not self._pending:
            return
        begin = time.monotonic()
        self._checkpoint = replace(self._checkpoint, results=(*self._checkpoint.results, *self._pending))
        store.save_checkpoint(self._path, self._checkpoint)
        self._pending.clear()
        self._saved = time.monotonic()
        self._took = self._saved - begin


def _searched(
    config: JobConfig, plan: GroupsPlan, partition: Partition, done: set[int], progress: Progress
) -> Iterator[list[GroupResult]]:
    """Yield the results of groups, some at a time: small ones side by side, then large ones one after another."""
    n_groups, begin = len(partition.keys), 0.0
    progress(StageStarted("search", f"{counted(n_groups, 'group')}, {counted(len(plan.candidates), 'candidate')} each"))
    missing = [group for group in range(n_groups) if group not in done]
    small = [group for group in missing if partition.n_rows[group] <= plan.small_rows]
    large = sorted(set(missing) - set(small))
    search = GroupSearch(
        config.search,
        # how the data are reached is of no use to a group, and may be secret
        config.data.model_copy(update={"source": "-", "storage_options": {}}),
        partition.keys,
        partition.selection.columns,
        plan.candidates,
        plan.sample_rows(n_groups),
    )
    n_searched, n_first = 0, 0
    for results in _in_waves(config, plan, partition, search, small), _one_by_one(plan, partition, search, large):
        for some in results:
            n_searched += len(some)
            if not n_first:  # these wait for the compiled kernels, and tell nothing of the time that the others take
                n_first, begin = n_searched, time.monotonic()
            yield some
            timed = n_searched - n_first
            progress(GroupsDone(len(done) + n_searched, n_groups, timed, time.monotonic() - begin))


def _in_waves(
    config: JobConfig, plan: GroupsPlan, partition: Partition, search: GroupSearch, groups: Sequence[int]
) -> Iterator[list[GroupResult]]:
    """Search groups side by side; in a wave there are as many as take some seconds."""
    least = LEAST_PER_THREAD * plan.machine.threads
    position, wanted, row_bytes = 0, least, 8 * len(partition.selection.fields)
    while position < len(groups):
        stop, n_bytes = position, 0
        while stop < len(groups) and stop - position < wanted and n_bytes < WAVE_BYTES:
            n_bytes += int(partition.n_rows[groups[stop]]) * row_bytes
            stop += 1
        begin = time.monotonic()
        chosen = groups[position:stop]
        with_rows = [(group, *partition.rows(group)) for group in chosen]
        yield _side_by_side(config, search, with_rows, plan.machine.threads)
        each = max(1e-4, (time.monotonic() - begin) / len(chosen))
        position, wanted = stop, max(least, int(WAVE_SECONDS / each))


def _side_by_side(
    config: JobConfig, search: GroupSearch, groups: Sequence[tuple[Any, ...]], n_threads: int
) -> list[GroupResult]:
    """Search groups, each with its rows and weights, by threads of this process or by the cluster's workers."""
    if config.cluster.kind == "threads":
        # within a search everything runs on its thread
        with dask.config.set(scheduler="sync"), ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(lambda one: search.in_memory(*one), groups))
    # a task costs as much as the search of a small group: it takes several, of which each thread gets a few
    size = max(1, len(groups) // (LEAST_PER_THREAD * n_threads))
    several = dask.delayed(search.several, pure=False, traverse=False)
    found = dask.compute(*(several(groups[start : start + size]) for start in range(0, len(groups), size)))
    return [result for results in found for result in results]


def _one_by_one(
    plan: GroupsPlan, partition: Partition, search: GroupSearch, groups: Sequence[int]
) -> Iterator[list[GroupResult]]:
    """Search groups one after another, each by all threads of this process."""
    with dask.config.set(scheduler=dask.threaded.get):
        for group in groups:
            n_bytes = int(partition.n_rows[group]) * 8 * len(partition.selection.columns)
            if n_bytes <= IN_MEMORY_BYTES:
                yield [search.in_memory(group, *partition.rows(group))]
            else:
                chunks = partition.chunks(group, PIECE_BYTES)
                yield [search.by_passes(group, chunks, partition.selection, plan.waves_of)]


# -- after the searches --------------------------------------------------------------------------------------------


def write_rows(config: JobConfig, progress: Progress) -> None:
    """Write the results of the groups, and the row outputs that the configuration requests, in one read."""
    path, source = config.output.store, open_job(config)
    keys, found = open_group_keys(config.data, source), _found_groups(config, source)
    write_groups(path, found)
    if config.output.row_outputs:
        write_group_rows(config, source, keys, found, path, progress)
        store.add_bytes_read(path, source.take_bytes_read())


def _found_groups(config: JobConfig, source: Source) -> FoundGroups:
    """Return all groups with their results, in their order."""
    checkpoint = store.load_group_checkpoint(config.output.store)
    results = tuple(sorted(checkpoint.results, key=lambda one: one.group))
    if not any(result.model for result in results):
        raise UserError(
            f"no group could be fitted; the first of {len(results):,}, {checkpoint.keys[0]}: "
            f"{results[0].message} Then run it with --fresh: the store has these results."
        )
    return FoundGroups(checkpoint.keys, checkpoint.is_whole, source.columns, tuple(grid_of(config)), results)


def finish(config: JobConfig, seconds: float, progress: Progress) -> None:
    """Mark the store complete, as the last thing, if the data are still those that were taken apart."""
    source, path = open_job(config), config.output.store
    _require_unchanged(config, source, progress)
    known, found = store.open_result(path, unfinished=True), read_groups(path)
    assert known.groups is not None
    failed = sum(result.model is None for result in found.results)
    store.complete(
        path,
        best=None,
        passes=1 + bool(config.output.row_outputs),
        n_rows=sum(result.n_rows for result in found.results),
        total_weight=float(sum(result.total_weight for result in found.results)),
        seconds=seconds,
        groups=replace(known.groups, failed=failed),
    )
