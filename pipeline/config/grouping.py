"""Which settings go together with ``data.by``, a search for each group: the others are refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from gmm_dask.errors import UserError

if TYPE_CHECKING:
    from pipeline.config.job import JobConfig

# keys that apply to each group as they do to a whole job; any other key must have its default
TAKEN = {
    "data": {
        *("source", "storage_options", "dataset", "version", "columns", "weights", "filter", "by", "chunk_rows"),
        *("missing", "missing_chunks", "cache", "scale", "transform"),
    },
    "search": {
        *("n_components", "covariance_types", "noise", "inference", "prior", "criterion", "held_out", "n_init"),
        *("init_params", "start_effort", "tol", "max_iter", "reg_covar", "accelerate", "random_state"),
    },
    "output": {
        *("store", "labels", "log_density", "responsibilities", "rows", "key_columns", "report", "metrics", "keep"),
    },
}
# keys of which some values do
_VALUES = {("data", "missing"): ("error", "drop"), ("output", "report"): (True, False)}
# characters of a value that a message shows
_SHOWN = 80
_REFUSED_FLOWS = ("refresh",)


def require_groupable(config: JobConfig) -> None:
    """Raise :class:`UserError` for a setting that does not go together with ``data.by``; nothing without it."""
    if config.data.by is None:
        return
    for section, taken in TAKEN.items():
        values = getattr(config, section)
        for name, field in type(values).model_fields.items():
            value, allowed = getattr(values, name), _VALUES.get((section, name))
            is_refused = value not in allowed if allowed else name not in taken and value != field.default
            if is_refused:
                expected = " or ".join(map(_in_yaml, allowed or (field.default,)))
                raise UserError(
                    f"{section}.{name}: expected {expected}, got {_in_yaml(value)}: this does not go together with "
                    "data.by, a search for each group. Leave it out, or fit the groups as jobs of their own, with "
                    "data.filter."
                )
    if config.score is not None:
        raise UserError(
            "score: expected no section, as the flow score-batch does not go together with data.by, a search for each "
            "group. 'gmm-dask score' labels new rows by the models of their groups."
        )
    if config.schedule is not None and config.schedule.flow in _REFUSED_FLOWS:
        raise UserError(
            f"schedule.flow: expected bic-sweep, got {config.schedule.flow}: it follows the components of one model, "
            "and data.by makes one for each group. The flow bic-sweep fits all groups anew."
        )


def _in_yaml(value: Any) -> str:
    """Return a value as a configuration has it, on one line."""
    if value is None or value == ():
        return "no value"
    if isinstance(value, str):
        return value
    found = json.dumps(to_jsonable_python(value, exclude_none=True), ensure_ascii=False)
    return found if len(found) <= _SHOWN else found[: _SHOWN - 3] + "..."
