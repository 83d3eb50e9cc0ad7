"""The steps of ``data.transform``: what is done to the columns before the fit, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, Strict

from gmm_dask.formatting import did_you_mean
from pipeline.config.fields import Count, Positive, Section, Switch, Text, distinct


def _as_tuple(value: Any) -> Any:
    """Within a step a stored list is Python's already, which strict reading takes for no tuple."""
    return tuple(value) if isinstance(value, list) else value


ColumnNames = Annotated[
    tuple[Text, ...],
    BeforeValidator(_as_tuple, json_schema_input_type=list[Text]),
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
    AfterValidator(distinct),
]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
# of the variance, less than all of it
VarianceShare = Annotated[float, Strict(), Field(gt=0.0, lt=1.0)]


class OfColumns(Section):
    """A step that may be of some columns only."""

    columns: ColumnNames | None = Field(
        default=None, description="Names of the columns that the step is of; null is all. The others stay as they are."
    )


class ScaleStep(OfColumns):
    """Subtract a centre from each column, and divide it by a scale."""

    key: ClassVar[str] = "data.transform"

    method: Literal["standard", "robust"] = Field(
        default="standard",
        description="standard takes the mean and the standard deviation of all rows, robust the median and the range "
        "between the quartiles of the sample of rows.",
    )


class ScaleOfData(ScaleStep):
    """The step that ``data.scale`` is short for."""

    key: ClassVar[str] = "data.scale"


class LogStep(OfColumns):
    """Natural logarithm, of values greater than 0."""


class Log1pStep(OfColumns):
    """Natural logarithm of 1 + x, of values greater than -1."""


class LogitStep(OfColumns):
    """log(x / (1 - x)), of values between 0 and 1."""


class ArcsinhStep(OfColumns):
    """arcsinh(x / cofactor): linear near 0, logarithmic far from it."""

    cofactor: Positive | dict[Text, Positive] = Field(
        default=1.0,
        description="What a value is divided by; or one number for each column, by name, which are then the columns.",
    )

    @pydantic.model_validator(mode="after")
    def _one_list_of_columns(self) -> ArcsinhStep:
        if isinstance(self.cofactor, dict) and (self.columns is not None or not self.cofactor):
            raise ValueError("expected a cofactor for each column, such as {CD4: 5, CD8: 150}, and columns left out")
        return self


class ClipStep(OfColumns):
    """Values beyond an end become the end."""

    minimum: Number | None = Field(default=None, description="The lower end; null is none.")
    maximum: Number | None = Field(default=None, description="The upper end; null is none.")

    @pydantic.model_validator(mode="after")
    def _has_ends(self) -> ClipStep:
        if self.minimum is None and self.maximum is None:
            raise ValueError("expected a minimum, a maximum, or both")
        if self.minimum is not None and self.maximum is not None and not self.minimum < self.maximum:
            raise ValueError("expected a minimum that is less than the maximum")
        return self


class PcaStep(OfColumns):
    """Principal components, in the place of the columns."""

    n_components: Count | VarianceShare | None = Field(
        default=None,
        description="How many are kept; or the share of the variance that they have at least, such as 0.95; null "
        "keeps all.",
    )
    whiten: Switch = Field(default=False, description="Whether they are divided by their standard deviations.")
    prefix: Text = Field(default="pc", description="What their names begin with: pc1, pc2, ...")


def _scale_of(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else {} if value is None else value


def _cofactor_of(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"cofactor": float(value)} if is_number else {} if value is None else value


def _number_of(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"n_components": value} if is_number else {} if value is None else value


def _settings(value: Any) -> Any:
    return {} if value is None else value


_NONE: Any = None


class TransformStep(Section):
    """One step: a mapping of its name to its settings."""

    scale: Annotated[
        ScaleStep, BeforeValidator(_scale_of, json_schema_input_type=ScaleStep | Literal["standard", "robust"] | None)
    ] = Field(default=_NONE, description=ScaleStep.__doc__)
    log: Annotated[LogStep, BeforeValidator(_settings, json_schema_input_type=LogStep | None)] = Field(
        default=_NONE, description=LogStep.__doc__
    )
    log1p: Annotated[Log1pStep, BeforeValidator(_settings, json_schema_input_type=Log1pStep | None)] = Field(
        default=_NONE, description=Log1pStep.__doc__
    )
    logit: Annotated[LogitStep, BeforeValidator(_settings, json_schema_input_type=LogitStep | None)] = Field(
        default=_NONE, description=LogitStep.__doc__
    )
    arcsinh: Annotated[
        ArcsinhStep, BeforeValidator(_cofactor_of, json_schema_input_type=ArcsinhStep | float | None)
    ] = Field(default=_NONE, description=ArcsinhStep.__doc__)
    clip: ClipStep = Field(default=_NONE, description=ClipStep.__doc__)
    pca: Annotated[PcaStep, BeforeValidator(_number_of, json_schema_input_type=PcaStep | float | None)] = Field(
        default=_NONE, description=PcaStep.__doc__
    )

    model_config = pydantic.ConfigDict(validate_default=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _one_step(cls, value: Any) -> Any:
        names = ", ".join(cls.model_fields)
        if isinstance(value, str):
            value = {value: None}
        if isinstance(value, Mapping) and (len(value) != 1 or not set(value) <= set(cls.model_fields)):
            unknown = next((str(name) for name in value if name not in cls.model_fields), "")
            hint = did_you_mean(unknown, cls.model_fields)
            raise ValueError(f"expected one step, such as {{log: {{columns: [a]}}}}: one of {names}{hint}")
        return value

    @pydantic.model_serializer
    def _only_the_step(self) -> dict[str, Any]:
        return {self.name: self.settings}

    @property
    def name(self) -> str:
        """Name of the step."""
        return next(iter(self.model_fields_set))

    @property
    def settings(self) -> OfColumns:
        """What the step is to do."""
        found: OfColumns = getattr(self, self.name)
        return found

    @property
    def shown(self) -> str:
        """The step as it is written: ``log of income``, ``pca (n_components: 7)``."""
        values = {
            key: value
            for key, value in self.settings.model_dump(exclude_defaults=True).items()
            if key != "columns" and not isinstance(value, dict)
        }
        listed = self.settings.columns
        if isinstance(self.settings, ArcsinhStep) and isinstance(self.settings.cofactor, dict):
            listed = tuple(f"{name} / {value:g}" for name, value in self.settings.cofactor.items())
        of = f" of {', '.join(listed)}" if listed else ""
        with_values = f" ({', '.join(f'{key}: {_plain(value)}' for key, value in values.items())})" if values else ""
        return f"{self.name}{of}{with_values}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


# steps whose domain is that of the data's values, and those that learn from the data
OF_VALUES, LEARNING = ("log", "log1p", "logit"), ("scale", "pca")


def check_order(steps: tuple[TransformStep, ...]) -> tuple[TransformStep, ...]:
    """Raise ValueError where a logarithm comes after a step whose values follow from the data."""
    learned = ""
    for step in steps:
        if learned and step.name in OF_VALUES:
            raise ValueError(
                f"expected {step.name} before {learned}: whether values are in its domain would depend on the rows"
            )
        learned = learned or (step.name if step.name in LEARNING else "")
    return steps


Steps = Annotated[tuple[TransformStep, ...], AfterValidator(check_order)]
