"""The profile of data: what the first pass of a job would find in them, without the job."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.passes.data_summary import TASK
from pipeline.config.job import JobConfig, hiding_secrets
from pipeline.dask_clusters import computing
from pipeline.fit.chunking import open_job
from pipeline.fit.plan import data_shape
from pipeline.progress import Progress, StageStarted, chunks_reported, silent
from pipeline.sources.column_facts import ColumnFacts, column_facts
from pipeline.sources.fingerprint import contents_of
from pipeline.sources.preparation import column_notes, missing_of
from pipeline.sources.retries import repeated_reads_reported
from pipeline.sources.rows import read_data_summary


@dataclass(frozen=True)
class Profile:
    """What the data are like.

    Attributes
    ----------
    n_rows : int
        Rows of the data.
    left_out : int
        Rows with missing or infinite values, or weights; the facts are of the others.
    columns : tuple of ColumnFacts
    copies : float
        Share of the sample's rows that equal an earlier one in every column.
    notes : tuple of str
        What to know about the columns.
    """

    n_rows: int
    left_out: int
    columns: tuple[ColumnFacts, ...]
    copies: float
    notes: tuple[str, ...]


@hiding_secrets
def profile_job(config: JobConfig, progress: Progress = silent) -> Profile:
    """Read a job's data once: all rows that are usable, those that the job would hold out included.

    Raises
    ------
    UserError
        If the data cannot be opened, or fewer than two rows are usable.
    """
    config = config.model_copy(
        update={
            "data": config.data if config.data.has_gaps else config.data.model_copy(update={"missing": "drop"}),
            "search": config.search.model_copy(update={"held_out": 0.0}),
        }
    )
    source = open_job(config, first=True)
    progress(StageStarted("profile", f"reading {source.path} once"))
    reported = chunks_reported(progress, TASK, source.array.chunks[0])
    with computing(config, source, data_shape(config, source)), reported, repeated_reads_reported(progress):
        found = read_data_summary(config, source)
    missing = missing_of(found, source.columns)
    return Profile(
        n_rows=sum(found.read_rows),
        left_out=missing["rows"],
        columns=tuple(column_facts(source.columns, contents_of(found), missing)),
        copies=found.resolution.copies,
        notes=tuple(column_notes(found, source.columns)),
    )
