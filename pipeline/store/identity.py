"""Whether a stored result is of the same job: its configuration, and what its data's header tells."""

from __future__ import annotations

from typing import Any

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig
from pipeline.store.arrays import as_json

Values = dict[str, Any]

# what does not change the result: what the job is called, how its data are reached, what computes and when, where the
# store lies, and whether there is a report
_FREE_KEYS = (
    "name",
    "cluster.",
    "data.storage_options",
    "output.store",
    "output.report",
    "tasks.",
    "schedule",
    "score",
    "refresh",
)
# what the run looks into when it differs: a file's time may change without its contents
_LOOSE_DATA = ("chunks", "modified", "contents", "missing", "notes")


def require_same(path: str, configs: tuple[Values, Values], data: tuple[Values, Values]) -> None:
    """Compare a store's configuration and data, there, with a job's, here.

    Raises
    ------
    UserError
        If they differ in what changes the result.
    """
    remedy = "Choose another output.store, or replace this one with --fresh."
    changed = _differences(*map(_with_defaults, configs))
    if changed:
        raise UserError(f"the result store {path} is of another configuration: {'; '.join(changed)}. {remedy}")
    strict = [{key: value for key, value in d.items() if key not in _LOOSE_DATA} for d in data]
    changed = _differences(*strict)
    if changed:
        raise UserError(
            f"the result store {path} is of other data, or its data has changed: {'; '.join(changed)}. {remedy}"
        )


def is_same_job(configs: tuple[Values, Values], data: tuple[Values, Values]) -> bool:
    """Whether a store's configuration and data, there, are a job's, here, and nobody has touched the data since."""
    there, here = data
    known = {key: value for key, value in there.items() if key in here}
    return not (_differences(*map(_with_defaults, map(as_json, configs))) or _differences(known, as_json(here)))


def _with_defaults(config: Values) -> Values:
    """A configuration with the defaults of keys that are newer than it is."""
    return _filled(config, JobConfig.model_validate({"data": {"source": "-"}}).model_dump(mode="json"))


def _filled(values: Values, defaults: Values) -> Values:
    """Values, with defaults for the keys that they lack, section by section."""
    filled = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(filled[key], dict):
            filled[key] = _filled(filled[key], default)
    return filled


def _differences(there: Values, here: Values) -> list[str]:
    """Where two nested mappings differ, each with its dotted key and both values; free keys aside."""
    before, now = _flat(there), _flat(here)
    return [
        f"{key} is {before.get(key, 'absent')} there and {now.get(key, 'absent')} here"
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key) and not key.startswith(_FREE_KEYS)
    ]


def _flat(values: Values, prefix: str = "") -> Values:
    flat: Values = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
