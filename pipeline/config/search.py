"""The configuration's section ``search``: the candidates, how each is fitted, and how one is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo

from gmm_dask.families import FAMILIES
from gmm_dask.init.starts import INIT_PARAMS, STARTS
from gmm_dask.selection.criteria import CRITERIA
from pipeline.config.fields import Count, Real, Section, Share, Switch, Whole, distinct


class ComponentRange(Section):
    """A range of numbers of components, both ends included."""

    min: Count = Field(default=1, description="The smallest number of components.")
    max: Count = Field(default=9, description="The largest number of components.")


def _component_counts(value: Any) -> Any:
    """Return all numbers of components of a range or a list, ascending."""
    if isinstance(value, Mapping):
        unknown = set(value) - set(ComponentRange.model_fields)
        ends = [value.get(key, field.default) for key, field in ComponentRange.model_fields.items()]
        if unknown or not all(_is_count(end) for end in ends) or ends[0] > ends[1]:
            raise ValueError("expected {min: 1, max: 9} with whole numbers, 1 <= min <= max")
        return tuple(range(ends[0], ends[1] + 1))
    if not isinstance(value, list | tuple) or not all(_is_count(count) for count in value):
        raise ValueError("expected {min: 1, max: 9} or a list of whole numbers from 1, such as [2, 3, 5]")
    return tuple(sorted(distinct(tuple(value))))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


ComponentCounts = Annotated[
    tuple[int, ...],
    BeforeValidator(_component_counts, json_schema_input_type=ComponentRange | list[Count]),
]
# choices that pydantic checks and lists, derived from what the library registers
if TYPE_CHECKING:
    CriterionName: TypeAlias = str
    FamilyName: TypeAlias = str
    InitParams: TypeAlias = str
else:
    CriterionName, FamilyName, InitParams = Literal[tuple(CRITERIA)], Literal[tuple(FAMILIES)], Literal[INIT_PARAMS]
CovarianceTypes = Annotated[tuple[FamilyName, ...], Field(json_schema_extra={"minItems": 1}), AfterValidator(distinct)]


class SearchConfig(Section):
    """The candidates, how each is fitted, and how one is chosen."""

    n_components: ComponentCounts = Field(
        default=tuple(range(1, 10)),
        description="Numbers of components to try: a range {min: 1, max: 9}, or a list.",
    )
    covariance_types: CovarianceTypes = Field(
        default=tuple(FAMILIES), description="Covariance types to try with each number of components."
    )
    criterion: CriterionName = Field(
        default="bic",
        description="The criterion to minimise. "
        + " ".join(f"{name}: {criterion.description}" for name, criterion in CRITERIA.items()),
    )
    held_out: Share = Field(
        default=0.0,
        description="Share of the rows, below 1, that are held out of the fits and of the other criteria. The closing "
        "pass computes each candidate's log-likelihood of them, without another read. A row is drawn by the seed and "
        "its number among all rows. All rows are labelled.",
    )
    extend: Switch = Field(
        default=False,
        description="Whether to widen the grid while the best candidate has its largest number of components, or its "
        "smallest if that is above 1. Each time half as many numbers of components are added, at the grid's own step "
        "and for every covariance type. It stops when the best candidate lies inside, when no new candidate is usable, "
        "at as many components as rows, and at cluster.memory_limit. Each time costs two passes beside those of the "
        "new fits, and with init_params: auto up to two more. With init_params: auto the new candidates are searched "
        "without the earlier ones, and may end elsewhere than in a grid that has them from the beginning.",
    )
    n_init: Count = Field(default=1, description="Number of starts of each candidate, of which the best is retained.")
    init_params: InitParams = Field(
        default="auto",
        description="How a start is made, from the sample of rows. "
        + "; ".join(f"{start.name}: {start.description}" for start in STARTS.values())
        + ". All but auto are those of scikit-learn.",
    )
    start_effort: Annotated[float, Strict(), Field(gt=0.0, allow_inf_nan=False)] = Field(
        default=1.0,
        description="How long init_params: auto may search for the starts: 1 is up to about five seconds a candidate "
        "on a core, 0.1 a tenth of it. Small data take less. Where even the first runs would take much more, as with "
        "full covariances of 1,000 columns, the start is that of kmeans. The other starts take no search.",
    )
    tol: Real = Field(
        default=1e-3,
        description="A fit has converged when its mean log-likelihood changes by less than this.",
    )
    max_iter: Whole = Field(default=100, description="EM iterations after which a fit stops.")
    reg_covar: Real | Literal["auto"] = Field(
        default="auto",
        description="Regularization: added to the diagonal of every covariance, in the columns' squared units, or in "
        "those of the scaled columns with data.scale: standard. auto adds a millionth of each column's variance, so "
        "that the result does not depend on units, and not less than a twelfth of the square of the column's step, the "
        "variance of what rounding to the step leaves out.",
    )
    accelerate: Switch = Field(
        default=False,
        description="Whether to extrapolate EM steps, which reaches the same likelihood in fewer passes where tol is "
        "small. A step that would lower the likelihood is replaced by the plain one.",
    )
    random_state: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = Field(
        default=0, description="Seed of the random numbers; the same seed gives the same result."
    )

    @pydantic.field_validator("start_effort")
    @classmethod
    def _applies_to_searches(cls, effort: float, info: ValidationInfo) -> float:
        start = STARTS.get(info.data.get("init_params", ""))
        if effort != 1.0 and start and not start.is_search:
            raise ValueError(f"expected no value, as search.init_params is {start.name}, which does not search")
        return effort

    @pydantic.field_validator("held_out")
    @classmethod
    def _enough_for_criterion(cls, held_out: float, info: ValidationInfo) -> float:
        criterion = CRITERIA.get(info.data.get("criterion", ""))
        if not held_out and criterion and criterion.needs_held_out:
            raise ValueError(f"expected a share above 0, such as 0.2, as search.criterion is {criterion.name}")
        return held_out
