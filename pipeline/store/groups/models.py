"""The results of a search for each group (``data.by``): a value each, as the checkpoint has them and as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from gmm_dask.em.loop import State
from gmm_dask.families import Family, Noise, Parameters
from gmm_dask.families.candidate import Candidate
from gmm_dask.families.noise import family_of
from gmm_dask.passes.bounding_box import Box
from gmm_dask.selection.diagnostics import AGREEMENT_NUMBERS
from gmm_dask.selection.results import COLUMNS, EFFORT_COLUMNS
from gmm_dask.variational.priors import Priors
from pipeline.store.arrays import as_json, get, new_group, open_root, put
from pipeline.store.dataclass_arrays import from_columns, pack, to_columns, unpack
from pipeline.store.places import StorePath, place_of
from pipeline.transforms import Chain
from pipeline.transforms.arcsinh import Arcsinh
from pipeline.transforms.clip import Clip
from pipeline.transforms.log import Log
from pipeline.transforms.log1p import Log1p
from pipeline.transforms.logit import Logit
from pipeline.transforms.pca import Pca
from pipeline.transforms.scale import Scale

Array = NDArray[np.float64]

# of a group whose fit gave no model
FAILED = "failed"
# columns of numbers of the table of candidates, in the order in which a result has them
NUMBERS = tuple(column.name for column in (*COLUMNS, *EFFORT_COLUMNS) if column.name != "status") + AGREEMENT_NUMBERS
# what the rows of a group are like, by column
FACTS = ("means", "deviations", "minima", "maxima", "step", "spread", "ties", "frequent", "frequent_share")


@dataclass(frozen=True, eq=False)
class GroupModel:
    """The winner of a group, with its components by weight, as :class:`~pipeline.store.contents.models.StoredModel`.

    Attributes
    ----------
    state : State
    steps : tuple of transforms
        By which rows come to the units of the parameters, as they were fitted to the rows of the group.
    priors : Priors or None
        Of a variational mixture.
    noise_box : Box or None
        What its noise is uniform in, in the units of the parameters; None of a mixture without noise.
    """

    state: State
    steps: tuple[Scale | Log | Log1p | Logit | Arcsinh | Clip | Pca, ...] = ()
    priors: Priors | None = None
    noise_box: Box | None = None

    @property
    def transform(self) -> Chain:
        """How rows come to the units of the parameters."""
        return Chain(self.steps)

    @property
    def in_units(self) -> tuple[Family, Parameters]:
        """Family and parameters, in the user's units where columns are scaled only."""
        (family, parameters), scaling = self.state.model, self.transform.scaling
        if scaling is None:
            return family, parameters
        name, parameters = family.unscaled(parameters, scaling.center, scaling.scale)
        return family_of(name, parameters), parameters

    @property
    def shown(self) -> tuple[Array, Array, Array]:
        """Weights, means and full covariances of :attr:`in_units`."""
        family, parameters = self.in_units
        return parameters.weights, parameters.means, family.full_covariances(parameters)


@dataclass(frozen=True, eq=False)
class GroupSample:
    """Some rows of a group, in the units of the data, with the label and its uncertainty."""

    rows: Array
    label: NDArray[np.int64]
    uncertainty: Array


@dataclass(frozen=True, eq=False)
class GroupResult:
    """What the search of a group found.

    Attributes
    ----------
    group : int
        Its position among the groups.
    n_rows, n_left_out, n_held_out : int
        Rows of the fits, rows that were left out as values are missing, and those that were held out. Of a group whose
        rows could not be summarised, all are in ``n_rows``.
    total_weight : float
    message : str
        Why there is no model; empty if there is one.
    facts : ndarray of shape (n_facts, n_features)
        :data:`FACTS`; empty if the rows could not be summarised.
    copies : float
        Share of the rows that are copies of others.
    statuses : tuple of str
        Of each candidate.
    numbers : ndarray of shape (n_candidates, n_numbers)
        :data:`NUMBERS` of each.
    agreeing : ndarray of shape (n_candidates, n_starts)
        1 where a start agrees with the best one of its candidate.
    effort : ndarray of shape (5,)
        :class:`pipeline.store.contents.criteria.Effort` of all fits.
    best : int
        Position of the winner among the candidates; -1 without one.
    model : GroupModel or None
    sample : GroupSample or None
    """

    group: int
    n_rows: int = 0
    n_left_out: int = 0
    n_held_out: int = 0
    total_weight: float = 0.0
    message: str = ""
    facts: Array = field(default_factory=lambda: np.zeros((0, 0)))
    copies: float = 0.0
    statuses: tuple[str, ...] = ()
    numbers: Array = field(default_factory=lambda: np.zeros((0, len(NUMBERS))))
    agreeing: Array = field(default_factory=lambda: np.zeros((0, 0)))
    effort: Array = field(default_factory=lambda: np.zeros(5))
    best: int = -1
    model: GroupModel | None = None
    sample: GroupSample | None = None

    @property
    def status(self) -> str:
        """The status of the winner; :data:`FAILED` without one."""
        return FAILED if self.model is None else str(self.model.state.status)


@dataclass(frozen=True, eq=False)
class GroupCheckpoint:
    """The state of a run over groups.

    Attributes
    ----------
    keys : tuple of str
        Of all groups, in their order: the value of the column as text.
    is_whole : bool
        Whether the values are whole numbers.
    digest : str
        A hash of all rows and their groups.
    results : tuple of GroupResult
        Of the groups that are done.
    passes : int
        Reads of the data so far.
    """

    keys: tuple[str, ...]
    is_whole: bool
    digest: str
    results: tuple[GroupResult, ...] = ()
    passes: int = 1


def nothing_found(group: int, message: str, **known: Any) -> GroupResult:
    """Return the result of a group that has no model, with the reason."""
    return GroupResult(group, message=message, **known)


# -- of a complete store -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FoundGroups:
    """All groups of a run with their results, in the order of the groups.

    Attributes
    ----------
    keys : tuple of str
        Value of the column of groups, as text.
    is_whole : bool
        Whether the values are whole numbers.
    columns : tuple of str
        Names of the features.
    candidates : tuple of Candidate
        In the order of each result's numbers.
    results : tuple of GroupResult
    """

    keys: tuple[str, ...]
    is_whole: bool
    columns: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    results: tuple[GroupResult, ...]

    @property
    def has_noise(self) -> bool:
        """Whether candidates have noise: the label -1 is that of the noise then, and -2 that of rows without one."""
        return any(candidate.noise for candidate in self.candidates)

    @property
    def features(self) -> tuple[str, ...]:
        """What the features of the models are called; the most that a group has."""
        labels = [one.model.transform.labels(self.columns) for one in self.results if one.model is not None]
        return max(labels, key=len, default=self.columns)


def write_groups(path: StorePath, found: FoundGroups) -> None:
    """Write the results of all groups: arrays over the groups for every reader, and exact results for this program."""
    place_of(path).remove("groups")
    with new_group(path, "groups") as group:
        put(group, "group", _stored_keys(found), ("group",))
        put(group, "feature", list(found.columns), ("feature",))
        _put_facts(group, found)
        _put_winners(group, found)
        _put_candidates(group.create_group("candidates"), found)
        arrays, layout = pack(to_columns(found))
        exact = group.create_group("results", attributes=as_json({"layout": layout}))
        for name, values in arrays.items():
            put(exact, name, values, (f"{name}_value",))


def _stored_keys(found: FoundGroups) -> Any:
    """Return the groups' values as int64 or uint64, whichever has room for all; else as texts."""
    keys = [int(key) for key in found.keys] if found.is_whole else []
    for dtype in (np.int64, np.uint64):
        if keys and np.iinfo(dtype).min <= min(keys) and max(keys) <= np.iinfo(dtype).max:
            return np.array(keys, dtype=dtype)
    return list(found.keys)


def read_groups(path: StorePath) -> FoundGroups:
    """Read the results of all groups; raises KeyError or ValueError if they are not as they were written."""
    exact = cast(zarr.Group, open_root(path)["groups/results"])
    arrays = {name: get(exact, name, shape=(None,)) for name in exact.array_keys()}
    layout: Any = exact.attrs["layout"]
    return from_columns(FoundGroups, unpack(arrays, layout))


def _put_facts(group: zarr.Group, found: FoundGroups) -> None:
    """Each group's rows, and its status."""
    for name in ("n_rows", "n_left_out", "total_weight", "status", "message"):
        put(group, name, [getattr(result, name) for result in found.results], ("group",))
    facts = np.full((len(found.results), len(FACTS), len(found.columns)), np.nan)
    for i, result in enumerate(found.results):
        if len(result.facts):
            facts[i] = result.facts
    for i, name in enumerate(FACTS):
        put(group, f"column_{name}", facts[:, i], ("group", "feature"))


def _put_winners(group: zarr.Group, found: FoundGroups) -> None:
    """Each group's model, with full covariances; NaN beyond its components and features.

    Where columns are scaled only, or not transformed, the features are the columns, in the user's units.
    """
    models = [result.model for result in found.results]
    most = max((model.state.n_components for model in models if model), default=1)
    n, d = len(models), len(found.features)
    weights, means = np.full((n, most), np.nan), np.full((n, most, d), np.nan)
    covariances = np.full((n, most, d, d), np.nan)
    for i, model in enumerate(models):
        if model is None:
            continue
        k, (of_weights, of_means, full) = model.state.n_components, model.shown
        own = of_means.shape[1]
        weights[i, :k], means[i, :k, :own], covariances[i, :k, :own, :own] = of_weights, of_means, full
    best = ["" if model is None else model.state.candidate.name for model in models]
    put(group, "best", best, ("group",))
    put(group, "n_components", [0 if model is None else model.state.n_components for model in models], ("group",))
    put(group, "component", np.arange(most), ("component",))
    put(group, "weights", weights, ("group", "component"))
    if found.has_noise:
        noise = [None if model is None else model.in_units[1].noise for model in models]
        for name in Noise._fields:
            put(group, f"noise_{name}", [np.nan if one is None else getattr(one, name) for one in noise], ("group",))
    feature = "feature"
    if found.features != found.columns:
        feature = "fitted_feature"
        put(group, feature, list(found.features), (feature,))
    put(group, "means", means, ("group", "component", feature))
    put(group, "covariances", covariances, ("group", "component", feature, f"{feature}_other"))


def _put_candidates(group: zarr.Group, found: FoundGroups) -> None:
    """The criteria of each group's candidates; NaN, and no status, of a group without a model."""
    names = [candidate.name for candidate in found.candidates]
    put(group, "candidate", names, ("candidate",))
    put(group, "n_components", [candidate.n_components for candidate in found.candidates], ("candidate",))
    if found.has_noise:
        put(group, "noise", np.array([candidate.noise for candidate in found.candidates]), ("candidate",))
    put(group, "covariance_type", [candidate.covariance_type for candidate in found.candidates], ("candidate",))
    statuses = [result.statuses or ("",) * len(names) for result in found.results]
    put(group, "status", np.array(statuses).reshape(len(statuses), len(names)), ("group", "candidate"))
    numbers = np.full((len(found.results), len(names), len(NUMBERS)), np.nan)
    for i, result in enumerate(found.results):
        if len(result.numbers):
            numbers[i] = result.numbers
    for i, name in enumerate(NUMBERS):
        put(group, name, numbers[..., i], ("group", "candidate"))
