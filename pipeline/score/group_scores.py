"""Scores of new rows by the models of a search for each group: each row by the winner of its group."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.formatting import counted, listed
from pipeline import store
from pipeline.compilation import kernels_made, kernels_of_scores
from pipeline.config.secrets import secrets_hidden
from pipeline.progress import Message, Progress, StageStarted, report_notes, silent
from pipeline.score.group_rows import GroupPredictors, plan_rows, write_rows
from pipeline.score.inputs import open_new_rows, require_outputs, require_place, require_unwritten
from pipeline.score.new_rows import prepare_writer
from pipeline.score.settings import ScoreSettings, score_config
from pipeline.sources.fingerprint import header_of
from pipeline.sources.group_keys import NO_GROUP, KeyColumn, open_group_keys
from pipeline.sources.retries import repeated_reads_reported
from pipeline.store import GroupsResult, RowSummary

# groups without a model that the summary names: those of the most rows
MOST_NAMED = 100
# values that a warning has as examples
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """The result of a score run over groups.

    Attributes
    ----------
    out : str
        Path of the scores.
    store : str
        Path of the result store that has the models.
    by : str
        Name of the column of groups.
    data : str
        Where the rows were read, without secrets.
    rows : RowSummary
        Of all rows; those of a group without a model have no label.
    n_groups : int
        Groups with a model that have rows.
    examples : tuple of str
        Some groups with a model.
    n_without : int
        Rows without a value in the column.
    unknown : dict of str to int
        Rows of each group that the store does not have, or has no model of; the largest of many.
    n_unknown, unknown_rows : int
        How many such groups there are, and their rows.
    seconds : float
    reused : bool
        Whether the scores were complete before, so that nothing was computed.
    """

    out: str
    store: str
    by: str
    data: str
    rows: RowSummary
    n_groups: int
    examples: tuple[str, ...]
    n_without: int
    unknown: dict[str, int]
    n_unknown: int
    unknown_rows: int
    seconds: float
    reused: bool

    @property
    def warning(self) -> str:
        """That no row is of a group with a model, and what to do; empty if some are."""
        if self.n_groups or not self.rows.n_rows:
            return ""
        here = f"has values such as {listed(list(self.unknown)[:_NAMED])}" if self.unknown else "is empty"
        return (
            f"no row has a label, as none is of a group with a model. In {self.data} the column {self.by} {here}; "
            f"groups with a model are {listed(list(self.examples))}. Write the column as the groups were written, or "
            "score rows of these groups."
        )

    @property
    def notes(self) -> list[str]:
        """What to know of rows without a label."""
        notes = []
        if self.n_unknown:
            named = [f"{key} ({count:,})" for key, count in self.unknown.items()]
            notes.append(
                f"{self.unknown_rows:,} rows are of {counted(self.n_unknown, 'group')} without a model, and have "
                f"no label: {listed(named)}"
            )
        if self.n_without:
            notes.append(f"{counted(self.n_without, 'row')} without a value in {self.by}, and without a label")
        return notes


def score_groups(
    path: str | Path,
    data: str,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    settings: ScoreSettings | None = None,
    fresh: bool = False,
    progress: Progress = silent,
) -> GroupScores:
    """Compute the row outputs of new rows, each with the winner of its group.

    Parameters
    ----------
    path : str or Path
        A result store with a search for each group (``data.by``). The column of groups has the same name in the rows.
    data, out, columns, settings, fresh, progress
        As in :func:`pipeline.score.new_rows.score`.

    Returns
    -------
    GroupScores
        Rows of groups that the store has no model of have no label; they are counted.

    Raises
    ------
    UserError
        If the store is not complete, the data lack a feature or the column of groups, or hold values that are missing;
        if the scores and the data or the store lie within each other.
    """
    begin = time.monotonic()
    result = store.open_result(store.place_of(path).resolved().path)
    assert isinstance(result, GroupsResult)
    first = next(key for key, one in zip(result.found.keys, result.found.results, strict=True) if one.model)
    config = score_config(result, result.group(first).model(), data, str(out), columns, settings or ScoreSettings())
    with secrets_hidden(*config.secret_values), repeated_reads_reported(progress):
        if config.data.has_gaps:
            raise UserError(
                "data.missing: expected error or drop, got likelihood: it does not go together with data.by, by which "
                "the result has a search for each group."
            )
        require_outputs(config)
        require_place(config, path, result)
        progress(StageStarted("open", f"{config.data.shown}, for the groups of {result.store}"))
        features = result.found.columns
        source = open_new_rows(config.data, features, "the models'")
        keys = open_group_keys(config.data, source)
        report_notes((*config.notes, *source.notes), progress)
        header, source = header_of(source), source.counted()
        predictors = GroupPredictors.of(result.found, config.data.missing == "drop")
        plan, place = plan_rows(config, source, predictors), config.output.store

        def conclude(rows: RowSummary) -> dict[str, Any]:
            require_unwritten(config.data, source, features, header)
            counted = _count_groups(keys, len(source.chunks.pieces), predictors)
            return {"job": config.name, **rows.to_dict(), "groups": counted}

        with store.lock(place, waiting=lambda text: progress(Message("lease", text))):
            as_files = config.output.rows == "parquet"
            working = place if as_files else store.scores_working_path(place, plan.token, fresh)
            complete, writer = prepare_writer(config, source, plan, result, f"by {result.by}", fresh, working)
            if not complete:
                with kernels_made(config, partial(kernels_of_scores, config, source), progress):
                    write_rows(config, source, keys, predictors, writer, progress, conclude)
            stored = writer.summary()
            if not (complete or as_files):
                store.complete_scores(working, stored, place)
    return GroupScores(
        out=place,
        store=result.store,
        by=str(result.by),
        data=config.data.shown,
        rows=RowSummary.from_dict(stored),
        **stored["groups"],
        examples=tuple(list(predictors.models)[:_NAMED]),
        seconds=time.monotonic() - begin,
        reused=complete,
    )


def _count_groups(keys: KeyColumn, n_chunks: int, predictors: GroupPredictors) -> dict[str, Any]:
    """Count the rows of each group, by another read of its column."""
    counts: Counter[str] = Counter()
    n_without = 0
    for number in range(n_chunks):
        found = keys(number)
        of_each = np.bincount(found.codes[found.codes != NO_GROUP], minlength=len(found.keys)).tolist()
        for value, count in zip(found.keys, of_each, strict=True):
            if count:
                counts[predictors.name(value)] += count
        n_without += int(np.count_nonzero(found.codes == NO_GROUP))
    unknown = {key: count for key, count in counts.items() if key not in predictors.models}
    largest = dict(sorted(unknown.items(), key=lambda pair: -pair[1])[:MOST_NAMED])
    return {
        "n_groups": len(counts) - len(unknown),
        "n_without": n_without,
        "unknown": largest,
        "n_unknown": len(unknown),
        "unknown_rows": sum(unknown.values()),
    }
