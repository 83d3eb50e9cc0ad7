"""What a report says, all of it read from the result store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.em.loop import Status
from gmm_dask.em.regularization import AUTO, automatic_reg_covar
from gmm_dask.em.spurious import held_open_shares
from gmm_dask.families import get_family
from gmm_dask.families.noise import gaussians_of
from gmm_dask.passes.resolution import Resolution
from gmm_dask.passes.row_outputs import LABEL, RESPONSIBILITY
from gmm_dask.plotting.feature_pairs import Components
from gmm_dask.selection.cluster_tree import ClusterTree
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.distinct import distinct
from pipeline.printable import printable
from pipeline.store import Result, RowSummary, Sample, StoredModel, of_group, open_result
from pipeline.store.contents.criteria import names_of
from pipeline.store.contents.models import titled
from pipeline.store.integrity import damaged

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

# of the stored sample, so many rows are shown that their responsibilities are at most so many values, and at least so
# many
MOST_VALUES, FEWEST_ROWS = 10_000_000, 2_000


@dataclass(frozen=True, eq=False)
class ReportContents:
    """What a complete result store holds, as a report needs it.

    Attributes
    ----------
    store : Result
    table : DataFrame
        One row per candidate, with its name and ``delta``, the distance of the criterion from the smallest.
    components : Components
        The model's components in the units of the data.
    name : str
        Of the model that the report is about.
    """

    store: Result
    table: pd.DataFrame
    components: Components
    name: str

    @property
    def is_winner(self) -> bool:
        """Whether the model is the chosen one."""
        return self.name == self.best

    @cached_property
    def model(self) -> StoredModel:
        """The model that the report is about."""
        return self.store.best_model if self.is_winner else self.store.model(self.name)

    @property
    def titles(self) -> tuple[str, ...]:
        """The components' numbers, with their names as they may be shown."""
        names = self.model.component_names
        return tuple(printable(titled(number, names.get(number))) for number in self.components.numbers)

    @property
    def slim_component(self) -> str:
        """Title of the model's slim component; empty if it has none. The table of candidates ranks it by weight."""
        rank = self.row["slim_component"]
        return self.titles[np.argsort(-self.components.weights, kind="stable")[rank]] if rank >= 0 else ""

    @cached_property
    def cluster_tree(self) -> ClusterTree | None:
        """How components are merged into clusters, where some are; None otherwise, and for a model that lost."""
        tree = self.store.cluster_tree if self.is_winner else None
        return tree if tree is not None and tree.n_clusters < tree.n_components else None

    @property
    def identity_note(self) -> str:
        """Which components continue those of an earlier store; empty if none could."""
        return printable(self.store.identity.note) if self.store.identity and self.is_winner else ""

    @cached_property
    def sample(self) -> Sample:
        """Rows drawn at random, in the units of the features, with the labels of the model."""
        found, transform = self.source_sample, self.model.transform
        return found if transform.folds else replace(found, rows=transform.rows(found.rows))

    @cached_property
    def source_sample(self) -> Sample:
        """The same rows as the data have them; fewer of very many components."""
        sample = self.store.sample
        assert sample is not None
        step = -(-len(sample.rows) // max(FEWEST_ROWS, MOST_VALUES // len(self.components.weights)))
        sample = replace(sample, **{name: getattr(sample, name)[::step] for name in ("rows", "label", "uncertainty")})
        return sample if self.is_winner else _labelled(sample, self.model)

    @property
    def rows(self) -> RowSummary | None:
        """The summary of the row outputs, if the store has any of this model."""
        return self.store.row_summary if self.is_winner else None

    def require_labels(self, labels: NDArray[Any]) -> None:
        """Raise :class:`DamagedError` if a stored label is the number of no component; negative ones are of none."""
        unknown = labels[(labels >= 0) & ~np.isin(labels, self.components.numbers)]
        if unknown.size:
            raise damaged(self.store.store, f"rows/{LABEL.name} holds {unknown.flat[0]}, the number of no component")

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
    def bound_words(self) -> str:
        """What the fit made larger with each iteration."""
        return "mean log-likelihood per row" if self.model.priors is None else "bound on the log evidence per row"

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that are known; that of rows held out is if there were any."""
        return tuple(name for name in CRITERIA if self.table[name].notna().any())

    @cached_property
    def winner(self) -> dict[str, Any]:
        """The winner's row."""
        return next(row for row in rows_of(self.table) if row["name"] == self.best)

    @cached_property
    def row(self) -> dict[str, Any]:
        """The row of the model that the report is about."""
        return next(row for row in rows_of(self.table) if row["name"] == self.name)

    @property
    def reg_covar(self) -> float | Array:
        """The value added to the covariances' diagonals, in the units of the fit; one for each feature if automatic."""
        reg_covar = self.store.config["search"]["reg_covar"]
        if reg_covar != AUTO:
            return float(reg_covar)
        if not self.model.transform.folds:
            x = self.sample.rows
            ends = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
            return automatic_reg_covar(*ends, np.nanvar(x, axis=0), Resolution.of(x))
        contents, scaling = self.store.data["contents"], self.model.transform.scaling
        unit = np.ones(len(contents["means"])) if scaling is None else scaling.scale
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
        family, parameters = gaussians_of(*self.model.model)
        try:
            shares = held_open_shares(parameters, family.full_covariances(parameters), self.reg_covar)
        except np.linalg.LinAlgError:  # so close to singular that nothing can be said
            return {}
        return {int(k): np.flatnonzero(shares[k] > 0.5).tolist() for k in np.flatnonzero(shares.any(axis=1))}

    @property
    def sizes(self) -> Array:
        """The rows that each component stands for; with weights, its part of their sum."""
        sizes: Array = self.components.weights * self._total_weight
        return sizes

    @property
    def noise_size(self) -> float:
        """The rows that the noise stands for; with weights, its part of their sum."""
        noise = self.components.noise
        return 0.0 if noise is None else noise.weight * self._total_weight

    @property
    def _total_weight(self) -> float:
        return self.store.total_weight or float(self.n_rows)

    @property
    def size_unit(self) -> str:
        """The unit of the sizes."""
        return "of weight" if self.store.config["data"].get("weights") else "rows"

    @property
    def n_rows(self) -> int:
        """Rows of the fit."""
        return int(self.store.n_rows or 0)

    @cached_property
    def ranking(self) -> list[dict[str, Any]]:
        """The models that may win: the chosen one, and then the others, the best first.

        Candidates that are one model in several forms are one row, that of the best fit, with their names in ``also``.
        """
        may_win = self.table[self.table["delta"].notna() | (self.table["name"] == self.best)]
        models = distinct(may_win, self.criterion, self.n_features).sort_values("delta", kind="stable")
        return sorted(rows_of(models), key=lambda row: self.best not in (row["name"], *row["also"]))

    @property
    def n_features(self) -> int:
        """Number of the features."""
        return len(self.components.names)

    @property
    def runner_up(self) -> dict[str, Any] | None:
        """The best candidate that is another model than the winner; None if there is none."""
        return next(iter(self.ranking[1:]), None)

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


def _labelled(sample: Sample, model: StoredModel) -> Sample:
    """Return a sample with the labels of another model than the chosen one."""
    from gmm_dask.passes.predict import predict_rows  # with Numba, which the report of the winner does without
    from gmm_dask.passes.rows import sampled_rows

    x = model.transform.rows(sample.rows)
    found = predict_rows(sampled_rows(x), *model.model, [LABEL.name, RESPONSIBILITY.name])
    return replace(sample, label=found[LABEL.name], uncertainty=1.0 - found[RESPONSIBILITY.name].max(axis=1))


def read_contents(path: str, model: str | None = None, group: str | None = None) -> ReportContents:
    """Read what a complete store, or one of its groups, holds of a model, by default the chosen one.

    Raises :class:`UserError` of a store that is not complete, or has no such model or group.
    """
    store = of_group(open_result(path), group)
    stored = store.best_model if model is None else store.model(model)
    kind, parameters = stored.in_units
    covariances = get_family(kind).full_covariances(parameters)
    names = tuple(map(printable, stored.columns))
    return ReportContents(
        store=store,
        table=store.table.assign(name=names_of(store.table)),
        components=Components(
            parameters.weights, parameters.means, covariances, names, stored.numbers, parameters.noise
        ),
        name=stored.candidate.name,
    )
