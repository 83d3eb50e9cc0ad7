"""The facts of a report, all read from the result store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gmm_dask.em.loop import Status
from gmm_dask.em.regularization import AUTO, automatic_reg_covar
from gmm_dask.em.spurious import is_bounded_by_reg_covar
from gmm_dask.families import get_family
from gmm_dask.families.candidate import Candidate
from gmm_dask.plotting.feature_pairs import Components
from gmm_dask.selection.criteria import CRITERIA, TIE, best_position
from gmm_dask.selection.results import with_delta
from pipeline.score.row_summary import RowSummary
from pipeline.store import (
    ResultStore,
    Sample,
    StoredModel,
    open_store,
    read_criteria,
    read_model,
    read_sample,
    read_summary,
)
from pipeline.store.show import position_of

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Facts:
    """What a complete result store holds, as a report needs it.

    Attributes
    ----------
    store : ResultStore
    table : DataFrame
        A row a candidate, with its name and ``delta``, the distance of the criterion from the smallest.
    model : StoredModel
        The winner.
    components : Components
        Its components in the units of the data.
    sample : Sample
        Rows drawn at random.
    rows : RowSummary or None
        Of the row outputs, if the store has any.
    """

    store: ResultStore
    table: pd.DataFrame
    model: StoredModel
    components: Components
    sample: Sample
    rows: RowSummary | None

    @property
    def best(self) -> str:
        """The winner's name."""
        assert self.store.best is not None
        return self.store.best

    @property
    def criterion(self) -> str:
        """The criterion that decided."""
        return str(self.store.config["search"]["criterion"])

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that are known; that of rows held out is if there were any."""
        return tuple(name for name in CRITERIA if self.table[name].notna().any())

    @property
    def winner(self) -> dict[str, Any]:
        """The winner's row."""
        return rows_of(self.table)[position_of(self.table, self.best)]

    @property
    def mean_log_likelihood(self) -> float:
        """The winner's log-likelihood per fitted row."""
        return float(self.winner["log_likelihood"]) / (self.store.total_weight or 1.0)

    @property
    def reg_covar(self) -> float | Array:
        """The value added to the covariances' diagonals, in the units of the fit; one for each feature if automatic."""
        reg_covar = self.store.config["search"]["reg_covar"]
        if reg_covar != AUTO:
            return float(reg_covar)
        contents, scale = self.store.data["contents"], self.model.scale
        names = ("minima", "maxima", "deviations")
        minima, maxima, deviations = (np.array(contents[name]) / (1.0 if scale is None else scale) for name in names)
        return automatic_reg_covar(minima, maxima, deviations**2)

    @property
    def held_open(self) -> list[int]:
        """The components that only ``reg_covar`` keeps from collapsing, in some direction."""
        family, parameters = self.model.model
        try:
            held = is_bounded_by_reg_covar(parameters, family.full_covariances(parameters), self.reg_covar)
        except np.linalg.LinAlgError:  # so close to singular that nothing can be said
            return []
        return np.flatnonzero(held).tolist()

    @property
    def sizes(self) -> Array:
        """The rows that each component stands for; with weights, its part of their sum."""
        sizes: Array = self.components.weights * (self.store.total_weight or self.n_rows)
        return sizes

    @property
    def size_unit(self) -> str:
        """The unit of the sizes."""
        return "of weight" if self.store.config["data"].get("weights") else "rows"

    @property
    def n_rows(self) -> int:
        """Rows of the fit."""
        return int(self.store.n_rows or 0)

    @property
    def others(self) -> list[dict[str, Any]]:
        """The candidates that may win, without the winner, the best first."""
        others = self.table[(self.table["name"] != self.best) & self.table["delta"].notna()]
        return rows_of(others.sort_values("delta", kind="stable"))

    @property
    def equals(self) -> list[dict[str, Any]]:
        """Candidates that are the winner in another form: their criterion differs by rounding alone."""
        return [row for row in self.others if self._is_equal(row)]

    @property
    def runner_up(self) -> dict[str, Any] | None:
        """The best candidate that is another mixture than the winner; None if there is none."""
        return next((row for row in self.others if not self._is_equal(row)), None)

    def _is_equal(self, row: dict[str, Any]) -> bool:
        return bool(row["delta"] <= TIE * max(1.0, abs(row[self.criterion])))

    @property
    def troubled(self) -> dict[Status, list[str]]:
        """Names of the candidates that did not converge, by their status."""
        found: dict[Status, list[str]] = {}
        for row in rows_of(self.table):
            if row["status"] != Status.CONVERGED.value:
                found.setdefault(Status(row["status"]), []).append(row["name"])
        return found

    def choice(self, criterion: str) -> str:
        """Name of the candidate that a criterion chooses."""
        trusted = [Status(status).trusted for status in self.table["status"]]
        position = best_position(self.table[criterion].tolist(), self.table["n_parameters"].tolist(), trusted)
        return "none" if position is None else str(self.table["name"].iloc[position])


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def read_facts(path: str) -> Facts:
    """Read what a complete store holds; raises :class:`UserError` of one that is not."""
    store = open_store(path)
    assert store.best is not None
    table = with_delta(read_criteria(path), store.config["search"]["criterion"])
    table = table.assign(name=[Candidate.of(row).name for row in table.to_dict("records")])
    model = read_model(path, store.best)
    kind, parameters = model.in_units
    covariances = get_family(kind).full_covariances(parameters)
    sample, rows = read_sample(path), read_summary(path)
    assert sample is not None
    components = Components(parameters.weights, parameters.means, covariances, model.columns)
    return Facts(
        store=store,
        table=table,
        model=model,
        components=components,
        sample=sample,
        rows=None if rows is None else RowSummary.from_dict(rows),
    )
