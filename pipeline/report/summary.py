"""How a job ended, read from its complete store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from gmm_dask.selection.results import with_delta
from pipeline import store
from pipeline.config.job import JobConfig
from pipeline.report import report_folder
from pipeline.store.show import position_of, stored_notes, stored_remarks


@dataclass(frozen=True, eq=False)
class Summary:
    """What a job ends with.

    Attributes
    ----------
    store, report : str
        Paths of the result store and of the folder for its report.
    table : DataFrame
        A row a candidate, with the columns of :attr:`gmm_dask.GaussianMixtureSearch.results_` but for ``start``.
    best : str
        Name of the winner's model, such as ``tied-k3``.
    criterion : str
    weights : tuple of float
        The winner's mixing weights, the largest first.
    mean_log_likelihood : float
        The winner's log-likelihood a row, over the fitted rows.
    held_out_log_likelihood : float
        The same over the rows held out; NaN if none were.
    held_out_rows : int
        How many these are.
    rows : dict
        Shape of each array that the store holds about the rows.
    row_totals : dict
        What is known of the rows as a whole, as :func:`pipeline.store.read_summary` reads it; empty if nothing is.
    passes : int
        Reads of the data.
    bytes_read : int
        That the passes read.
    seconds : float
        That this run took.
    reused : bool
        Whether the store was complete already and nothing was computed.
    remarks, notes : list of str
        As :class:`pipeline.store.show.StoredResult` has them.
    """

    store: str
    report: str
    table: pd.DataFrame
    best: str
    criterion: str
    weights: tuple[float, ...]
    mean_log_likelihood: float
    held_out_log_likelihood: float
    held_out_rows: int
    rows: dict[str, tuple[int, ...]]
    row_totals: dict[str, Any]
    passes: int
    bytes_read: int
    seconds: float
    reused: bool
    remarks: list[str]
    notes: list[str]


def summarise(config: JobConfig, seconds: float, reused: bool) -> Summary:
    """What a complete store holds."""
    path, criterion = config.output.store, config.search.criterion
    found = store.open_store(path)
    assert found.best is not None
    assert found.total_weight is not None
    table = with_delta(store.read_criteria(path), criterion)
    state = store.read_model(path, found.best)
    assert state.parameters is not None
    winner = table.iloc[position_of(table, found.best)]
    return Summary(
        store=path,
        report=str(report_folder(path)),
        table=table,
        best=found.best,
        criterion=criterion,
        weights=tuple(state.parameters.weights.tolist()),
        mean_log_likelihood=float(winner["log_likelihood"]) / found.total_weight,
        held_out_log_likelihood=float(winner["held_out_log_likelihood"]),
        held_out_rows=found.held_out_rows,
        rows=store.row_shapes(path),
        row_totals=store.read_summary(path) or {},
        passes=found.passes,
        bytes_read=found.bytes_read,
        seconds=seconds,
        reused=reused,
        remarks=stored_remarks(found, table, found.best),
        notes=stored_notes(found, table, found.best),
    )
