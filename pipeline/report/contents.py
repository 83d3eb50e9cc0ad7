"""What a report says, all of it read from the result store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gmm_dask.em.loop import Status
from gmm_dask.em.regularization import AUTO, automatic_reg_covar
from gmm_dask.em.spurious import held_open_shares
from gmm_dask.families import get_family
from gmm_dask.passes.resolution import Resolution
from gmm_dask.plotting.feature_pairs import Components
from gmm_dask.selection.criteria import CRITERIA, TIE
from pipeline.printable import printable
from pipeline.store import Result, RowSummary, Sample, StoredModel, open_result
from pipeline.store.criteria import names_of

Array = NDArray[np.float64]

# pictures show so many rows of the store's sample
DRAWN_ROWS = 2000


@dataclass(frozen=True, eq=False)
class ReportContents:
    """What a complete result store holds, as a report needs it.

    Attributes
    ----------
    store : Result
    table : DataFrame
        One row per candidate, with its name and ``delta``, the distance of the criterion from the smallest.
    components : Components
        The winner's components in the units of the data.
    """

    store: Result
    table: pd.DataFrame
    components: Components

    @property
    def model(self) -> StoredModel:
        """The winner."""
        return self.store.best_model

    @cached_property
    def sample(self) -> Sample:
        """Rows drawn at random, as many as pictures show."""
        sample = self.store.sample
        assert sample is not None
        step = -(-len(sample.rows) // DRAWN_ROWS)
        return replace(sample, **{name: getattr(sample, name)[::step] for name in ("rows", "label", "uncertainty")})

    @property
    def rows(self) -> RowSummary | None:
        """The summary of the row outputs, if the store has any."""
        return self.store.row_summary

    @property
    def best(self) -> str:
        """The winner's name."""
        assert self.store.best is not None
        return self.store.best

    @property
    def criterion(self) -> str:
        """The criterion that decided."""
        return self.store.criterion

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that are known; that of rows held out is if there were any."""
        return tuple(name for name in CRITERIA if self.table[name].notna().any())

    @cached_property
    def winner(self) -> dict[str, Any]:
        """The winner's row."""
        return next(row for row in rows_of(self.table) if row["name"] == self.best)

    @property
    def reg_covar(self) -> float | Array:
        """The value added to the covariances' diagonals, in the units of the fit; one for each feature if automatic."""
        reg_covar = self.store.config["search"]["reg_covar"]
        if reg_covar != AUTO:
            return float(reg_covar)
        contents, scale = self.store.data["contents"], self.model.scale
        unit = np.ones(len(contents["means"])) if scale is None else scale
        minima, maxima, deviations = (np.array(contents[name]) / unit for name in ("minima", "maxima", "deviations"))
        return automatic_reg_covar(minima, maxima, deviations**2, self.resolution.scaled(np.zeros_like(unit), unit))

    @property
    def resolution(self) -> Resolution:
        """The resolution of the columns, and what repeats, in the units of the data."""
        return Resolution.from_dict(self.store.data["contents"]["resolution"])

    @property
    def held_open(self) -> dict[int, list[int]]:
        """The components that only ``reg_covar`` keeps from collapsing, each with the columns in which it does.

        There are none where the direction is that of no column.
        """
        family, parameters = self.model.model
        try:
            shares = held_open_shares(parameters, family.full_covariances(parameters), self.reg_covar)
        except np.linalg.LinAlgError:  # so close to singular that nothing can be said
            return {}
        return {int(k): np.flatnonzero(shares[k] > 0.5).tolist() for k in np.flatnonzero(shares.any(axis=1))}

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

    @cached_property
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
        return bool(abs(row["delta"] - self.winner["delta"]) <= TIE * max(1.0, abs(row[self.criterion])))

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
        return self.store.chosen_by(criterion) or "none"


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def read_contents(path: str) -> ReportContents:
    """Read what a complete store holds; raises :class:`UserError` of one that is not."""
    store = open_result(path)
    kind, parameters = store.best_model.in_units
    covariances = get_family(kind).full_covariances(parameters)
    names = tuple(map(printable, store.best_model.columns))
    components = Components(parameters.weights, parameters.means, covariances, names)
    return ReportContents(store=store, table=store.table.assign(name=names_of(store.table)), components=components)
