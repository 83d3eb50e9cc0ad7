"""The configuration's section ``search``: the candidates, how each is fitted, and how one is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo

from gmm_dask.em.prior import PRIORS
from gmm_dask.families import DEFAULT_TYPES, MCLUST, NAMES, family_names
from gmm_dask.init.starts import INIT_PARAMS, STARTS
from gmm_dask.selection.criteria import CRITERIA, criteria_of
from gmm_dask.selection.grid import noise_choices
from gmm_dask.variational.inference import INFERENCES
from pipeline.config.fields import Count, Positive, Real, Section, Share, Switch, Whole, distinct, each_once


class ComponentRange(Section):
    """A range of numbers of components, both ends included."""

    min: Count = Field(default=1, description="The smallest number of components.")
    max: Count = Field(default=9, description="The largest number of components.")


def _component_counts(value: Any) -> Any:
    """Return all numbers of components of a range, a list or one number, ascending."""
    if _is_count(value):
        return (value,)
    if isinstance(value, Mapping):
        unknown = set(value) - set(ComponentRange.model_fields)
        ends = [value.get(key, field.default) for key, field in ComponentRange.model_fields.items()]
        if unknown or not all(_is_count(end) for end in ends) or ends[0] > ends[1]:
            raise ValueError("expected {min: 1, max: 9} with whole numbers, 1 <= min <= max")
        return tuple(range(ends[0], ends[1] + 1))
    if not isinstance(value, list | tuple) or not all(_is_count(count) for count in value):
        raise ValueError("expected {min: 1, max: 9}, a whole number from 1, or a list of some, such as [2, 3, 5]")
    return tuple(sorted(distinct(tuple(value))))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


ComponentCounts = Annotated[
    tuple[int, ...],
    BeforeValidator(_component_counts, json_schema_input_type=ComponentRange | list[Count] | Count),
]
# choices that pydantic checks and lists, derived from what the library registers
if TYPE_CHECKING:
    CriterionName: TypeAlias = str
    InferenceName: TypeAlias = str
    PriorName: TypeAlias = str
    FamilyName: TypeAlias = str
    InitParams: TypeAlias = str
else:
    CriterionName, InferenceName = Literal[tuple(CRITERIA)], Literal[INFERENCES]
    PriorName = Literal["none", *PRIORS]
    FamilyName, InitParams = Literal[(*NAMES, MCLUST)], Literal[INIT_PARAMS]


def _noise(value: Any) -> bool | float | tuple[bool, ...]:
    """Return what ``search.noise`` may be: a switch, a volume, or both switches."""
    choices = value if isinstance(value, list | tuple) else [value]
    if choices and all(isinstance(choice, bool) for choice in choices):
        return value if isinstance(value, bool) else each_once(tuple(choices))
    if isinstance(value, int | float) and 0.0 < value < math.inf:
        return float(value)
    raise ValueError("expected true, false, [false, true] to try both, or the volume of the noise, a number above 0")


def _own_names(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of covariance types that the program itself uses, each of which must occur once."""
    found = family_names(values)
    repeated = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if repeated:
        named = ", ".join(f"{name!r} (mclust's {NAMES[name].structure})" for name in repeated)
        raise ValueError(f"expected each covariance type once; {named} is repeated")
    return tuple(found)


CovarianceTypes = Annotated[
    tuple[FamilyName, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value,
        json_schema_input_type=FamilyName | Annotated[list[FamilyName], Field(min_length=1)],
    ),
    AfterValidator(distinct),
    AfterValidator(_own_names),
]


NoiseChoices = Annotated[
    bool | float | tuple[bool, ...],
    BeforeValidator(_noise, json_schema_input_type=Switch | Positive | Annotated[list[Switch], Field(min_length=1)]),
]


class SearchConfig(Section):
    """The candidates, how each is fitted, and how one is chosen."""

    n_components: ComponentCounts = Field(
        default=tuple(range(1, 10)),
        description="Numbers of components to try: a range {min: 1, max: 9}, a list, or one number.",
    )
    covariance_types: CovarianceTypes = Field(
        default=DEFAULT_TYPES,
        description="Covariance types to try with each number of components: a list, or one. Capital letters are "
        "mclust's names, of which VVV, EEE, VVI and VII are full, tied, diag and spherical; mclust stands for all "
        "fourteen.",
    )
    inference: InferenceName = Field(
        default="em",
        description="How the candidates are estimated. em: by maximum likelihood. variational: posteriors in place of "
        "parameters (Bishop 2006, section 10.2), with scikit-learn's default priors and a Dirichlet distribution of "
        "the weights; the numbers of components are upper bounds, as components that the data do not need lose their "
        "weight.",
    )
    prior: PriorName = Field(
        default="none",
        description="Prior of the means and covariances, with search.inference: em and the types full, tied, diag and "
        "spherical. default: the conjugate one that mclust calls defaultPrior (Fraley and Raftery 2007); no covariance "
        "becomes singular unless that of the data is, and few components are spurious. search.reg_covar is added "
        "before the prior is, and may be 0.",
    )
    noise: NoiseChoices = Field(
        default=False,
        description="Whether a uniform component stands beside the others, for rows that belong to none of them: true, "
        "false, or [false, true] to try each candidate without and with it. It is uniform in the bounding box of the "
        "fitted rows, along the columns or along their principal axes, whichever is smaller, which takes one more "
        "pass; a number is its volume instead, in the columns' units. Behind a data.transform that does more than "
        "scale columns, box and volume are of the features that it makes, so that the noise is uniform in these. Its "
        "weight is one more parameter. Rows of the noise have the label -1, and rows that are left out -2. The density "
        "of the noise is the same everywhere, for new rows outside the box, too.",
    )
    criterion: CriterionName = Field(
        default="bic",
        description="The criterion to minimise. "
        + " ".join(f"{name}: {criterion.description}" for name, criterion in CRITERIA.items())
        + " Of variational mixtures the default is elbo, and there is no other.",
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
    resamples: Annotated[int, Strict(), Field(ge=0, le=10_000)] = Field(
        default=0,
        description="Number of resamples of the rows that each candidate's best fit is fitted to again, to show how "
        "sure the choice is: how much the labels agree, how often each candidate wins, and standard errors. All share "
        "each read of the data, and each takes about as much computing as one more start. A row counts 0, 1, 2, ... "
        "times, drawn by the seed and its number among all rows. 50 to 200 are usual; 0: none.",
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
        description="A fit has converged when its mean log-likelihood, or of variational mixtures the bound per row, "
        "changes by less than this.",
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

    @property
    def has_noise(self) -> bool:
        """Whether any candidate has noise."""
        return any(noise_choices(self.noise)[0])

    @property
    def has_prior(self) -> bool:
        """Whether fits have a prior, so that they are not those of maximum likelihood."""
        return self.inference == "variational" or self.prior != "none"

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_criterion(cls, values: Any) -> Any:
        """Take the inference's own criterion where none is given."""
        if isinstance(values, Mapping) and values.get("inference") == "variational":
            return {"criterion": criteria_of(False)[0], **values}
        return values

    @pydantic.field_validator("inference", "prior")
    @classmethod
    def _is_of_types(cls, value: str, info: ValidationInfo) -> str:
        others = [name for name in info.data.get("covariance_types", ()) if name not in DEFAULT_TYPES]
        if value not in ("em", "none") and others:
            expected = "em" if info.field_name == "inference" else "none"
            raise ValueError(f"expected {expected}, as search.covariance_types names {', '.join(others)}")
        return value

    @pydantic.field_validator("criterion")
    @classmethod
    def _is_of_inference(cls, criterion: str, info: ValidationInfo) -> str:
        inference = info.data.get("inference")
        if inference is None:  # which is wrong itself
            return criterion
        known = criteria_of(True) if inference == "em" else criteria_of(False)[:1]
        if criterion not in known:
            raise ValueError(f"expected {' or '.join(known)}, as search.inference is {inference}")
        return criterion

    @pydantic.field_validator("accelerate", "resamples", "prior", "noise")
    @classmethod
    def _is_of_likelihood(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in (False, 0, "none", (False,)) and info.data.get("inference", "em") != "em":
            raise ValueError(f"expected no value, as search.inference is {info.data['inference']}")
        return value

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
