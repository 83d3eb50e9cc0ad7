"""The reader of a store with a search for each group: all groups as a table, and each one as a result of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gmm_dask.errors import UserError
from gmm_dask.formatting import counted, listed
from gmm_dask.passes.bounding_box import Box
from gmm_dask.selection.cluster_tree import ClusterTree
from gmm_dask.selection.diagnostics import WIDEN
from gmm_dask.selection.results import AXES, COLUMNS, EFFORT_COLUMNS
from gmm_dask.selection.stability import StandardErrors
from pipeline.store.attributes import Identity, RowSummary, StoreAttributes
from pipeline.store.checkpoint import load_group_checkpoint
from pipeline.store.contents.criteria import Effort
from pipeline.store.contents.models import Sample, StoredModel
from pipeline.store.groups.models import FACTS, FAILED, NUMBERS, FoundGroups, GroupCheckpoint, GroupResult, read_groups
from pipeline.store.groups.values import GroupValues
from pipeline.store.result import Result
from pipeline.transforms import Chain

if TYPE_CHECKING:
    import pandas as pd

# of the columns of a table of candidates, those that are whole numbers
_WHOLE = frozenset(column.name for column in (*COLUMNS, *EFFORT_COLUMNS) if column.dtype is np.int64)
# numbers of a group's winner that the table of all groups has
_SHOWN = ("bic", "aic", "icl", "elbo", "held_out", "log_likelihood", "n_parameters", "n_iter")
# groups that a message names
_NAMED = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupsResult(Result):
    """A store with a search for each group; what is of one model alone is refused."""

    @cached_property
    def found(self) -> FoundGroups:
        """All groups with their results."""
        with self._reading("groups"):
            return read_groups(self.store)

    @cached_property
    def values(self) -> GroupValues:
        """Finds the group of a value."""
        return GroupValues.of(self.found.keys)

    @cached_property
    def overview(self) -> pd.DataFrame:
        """A row per group: ``group, n_rows, n_left_out, status, best, n_components``, the criteria, ``message``."""
        import pandas as pd

        found, rows = self.found, []
        for key, result in zip(found.keys, found.results, strict=True):
            row: dict[str, Any] = {"group": key, "n_rows": result.n_rows, "n_left_out": result.n_left_out}
            best = None if result.best < 0 else found.candidates[result.best]
            row |= {"status": result.status, "best": best.name if best else ""}
            row["n_components"] = best.n_components if best else 0
            numbers = result.numbers[result.best].tolist() if best else [np.nan] * len(NUMBERS)
            row |= {name: value for name, value in zip(NUMBERS, numbers, strict=True) if name in _SHOWN}
            rows.append(row | {"message": result.message})
        return pd.DataFrame(rows)

    @cached_property
    def _so_far(self) -> GroupCheckpoint | None:
        """What an unfinished run has saved."""
        return None if self.is_complete or self.checkpoint is None else load_group_checkpoint(self.store)

    @property
    def n_done(self) -> int:
        """Groups whose search has ended."""
        if self.is_complete:
            return self.groups.n_groups if self.groups else 0
        return len(self._so_far.results) if self._so_far else 0

    @property
    def without_model(self) -> list[tuple[str, str]]:
        """Groups without a model, each with the reason; of an unfinished run, those that it has saved."""
        found = self.found if self.is_complete else self._so_far
        results = sorted(found.results, key=lambda one: one.group) if found else []
        return [(found.keys[one.group], one.message) for one in results if one.model is None] if found else []

    @property
    def has_failed(self) -> bool:
        """Whether all searches of an unfinished store have ended, none with a model: no run can complete it."""
        total = self.groups.n_groups if self.groups else 0
        return not self.is_complete and len(self.without_model) == total > 0

    @property
    def statuses(self) -> dict[str, int]:
        """How many groups have each status."""
        counts = self.overview["status"].value_counts()
        return {str(name): int(count) for name, count in counts.items()}

    def group(self, key: Any) -> GroupView:
        """Return a group as a result of its own.

        Raises
        ------
        UserError
            If there is no such group, or it has no model.
        """
        found, text = self.found, str(key)
        position = self.values.position(key)
        if position is None:
            close = get_close_matches(text, found.keys, n=_NAMED) or list(found.keys[:_NAMED])
            more = "" if len(close) == len(found.keys) else f", among {len(found.keys):,}"
            raise UserError(f"the result store {self.store} has no group {text!r}; it has {listed(close)}{more}.")
        text, result = found.keys[position], found.results[position]
        if result.model is None:
            raise UserError(f"the group {text} of {self.store} has no model: {result.message}")
        best, contents = found.candidates[result.best].name, dict(zip(FACTS, result.facts.tolist(), strict=True))
        resolution = {name: contents.pop(name) for name in FACTS[4:]} | {"copies": result.copies}
        contents |= {"n_rows": result.n_rows, "total_weight": result.total_weight, "resolution": resolution}
        if result.n_held_out:
            contents["held_out"] = {"n_rows": result.n_held_out}
        changed = {
            "data": {**self.data, "contents": contents, "missing": {"rows": result.n_left_out, "columns": {}}},
            "best": best,
            "n_rows": result.n_rows,
            "total_weight": result.total_weight,
            "identity": Identity(f"{self.store}, {self.by} {text}", result.model.state.n_components),
        }
        attributes = {name: getattr(self, name) for name in StoreAttributes.__dataclass_fields__} | changed
        return GroupView(**attributes, store=self.store, key=text, candidates=found.candidates, result=result)

    # -- what is of one model --------------------------------------------------------------------------------
    @property
    def leader(self) -> str | None:
        """None: each group has one."""
        return None

    @property
    def headline(self) -> str:
        """How many groups have a model: ``12 of 13 groups of store_id have a model``."""
        total = self.groups.n_groups if self.groups else 0
        groups = f"{counted(total, 'group')} of {self.by}"
        if not self.is_complete:
            return f"{self.n_done:,} of {groups} done" if total else "no group is done"
        return f"{total - self.statuses.get(FAILED, 0):,} of {groups} {'has' if total == 1 else 'have'} a model"

    def _require_best(self) -> str:
        raise self._no_single_model()

    def _no_single_model(self) -> UserError:
        return UserError(
            f"{self.store} has a model for each value of {self.by}: name one, with --group VALUE of the command or "
            "group= of the function."
        )

    @cached_property
    def criteria(self) -> pd.DataFrame:
        """Refused: each group has its own."""
        raise self._no_single_model()

    @cached_property
    def table(self) -> pd.DataFrame:
        """Refused: each group has its own."""
        raise self._no_single_model()

    @cached_property
    def sample(self) -> Sample | None:
        """Refused: each group has its own."""
        raise self._no_single_model()

    def model(self, name: str | None = None) -> StoredModel:
        """Refuse: each group has its own."""
        raise self._no_single_model()

    @cached_property
    def row_summary(self) -> RowSummary | None:
        """What is known of the rows as a whole; None if their values have not been written, or not all of them."""
        with self._reading("rows"):
            return self._stored_row_summary()

    @property
    def _read_later(self) -> tuple[str, ...]:
        return "found", "overview", "row_summary", "row_shapes"


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupView(Result):
    """One group of a store as a result of its own: its candidates, its model, a sample of its rows.

    Attributes
    ----------
    key : str
        Value of the column of groups, as text.
    candidates : tuple of Candidate
    result : GroupResult
    """

    key: str
    candidates: tuple[Any, ...]
    result: GroupResult

    @property
    def title(self) -> str:
        """What the group is called: ``store_id 12``."""
        return f"{self.by} {self.key}"

    @cached_property
    def criteria(self) -> pd.DataFrame:
        """The group's candidates, as :func:`pipeline.store.contents.criteria.read_criteria` gives them."""
        import pandas as pd

        columns: dict[str, Any] = {name: [getattr(one, name) for one in self.candidates] for name in AXES}
        columns["status"] = list(self.result.statuses)
        for i, name in enumerate(NUMBERS):
            values = self.result.numbers[:, i]
            columns[name] = values.astype(np.int64).tolist() if name in _WHOLE else values.tolist()
        starts = range(self.result.agreeing.shape[1])
        agreeing = [tuple(i for i in starts if each[i]) for each in self.result.agreeing]
        return pd.DataFrame({**columns, "agreeing": agreeing})

    @property
    def remarks(self) -> list[str]:
        """As of any result; the grid of a group is not extended."""
        return [remark.replace(WIDEN, "Widen n_components.") for remark in super().remarks]

    @property
    def models(self) -> list[str]:
        """Name of the only model that is stored of a group: the winner."""
        return [str(self.best)]

    @property
    def fitted_models(self) -> list[StoredModel]:
        """The winner."""
        return [self.model()]

    def model(self, name: str | None = None) -> StoredModel:
        """Return the winner; raises :class:`UserError` for another name."""
        if name is not None and name != self.best:
            raise UserError(
                f"of the group {self.key} {self.store} has no model {name!r}: of each group the winner is stored, here "
                f"{self.best}."
            )
        model = self.result.model
        assert model is not None
        return StoredModel(
            **vars(model.state),
            columns=model.transform.labels(self.data["columns"]),
            sources=tuple(self.data["columns"]),
            transform=model.transform,
            numbers=tuple(range(model.state.n_components)),
            priors=model.priors,
        )

    @cached_property
    def noise_box(self) -> Box | None:
        """What the noise of the winner is uniform in; None if it has none."""
        return None if self.result.model is None else self.result.model.noise_box

    @cached_property
    def _stored_transform(self) -> Chain | None:
        return None if self.result.model is None else self.result.model.transform

    @cached_property
    def errors(self) -> StandardErrors | None:
        """None: groups have no resamples."""
        return None

    def _cluster_tree_of(self, best: str) -> ClusterTree | None:
        return None

    @cached_property
    def effort(self) -> Effort:
        """What the fits of all starts took."""
        return Effort(*self.result.effort.astype(np.int64).tolist())

    @cached_property
    def row_summary(self) -> RowSummary | None:
        """None: the rows' values are those of all groups."""
        return None

    @cached_property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Nothing: the rows' values are those of all groups."""
        return {}

    @cached_property
    def sample(self) -> Sample | None:
        """Some rows of the group, with the winner's labels."""
        sample = self.result.sample
        assert sample is not None
        return Sample(sample.rows, sample.label, sample.uncertainty, 1, self.result.n_rows)

    @contextmanager
    def _reading(self, part: str) -> Iterator[None]:
        yield


def of_group(result: Result, group: Any | None) -> Result:
    """Return a result, or that of one of its groups.

    Raises
    ------
    UserError
        If a group is named and the store has none of its value, or none at all.
    """
    if group is None:
        return result
    if not isinstance(result, GroupsResult):
        raise UserError(
            f"{result.store} has one model for all rows, and no groups (data.by): leave out the group {group}."
        )
    return result.group(group)


__all__ = ["FAILED", "GroupView", "GroupsResult", "of_group"]
