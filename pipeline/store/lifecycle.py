"""The life of a result store: made, held by one run, found again, completed, opened for reading."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from typing import Any

import gmm_dask
from gmm_dask.errors import UserError
from pipeline.store.arrays import as_json, writing
from pipeline.store.attributes import RunStatus, StoreAttributes, unknown_keys
from pipeline.store.integrity import DamagedError, damaged, reading, write_manifest
from pipeline.store.places import Place, StorePath, place_of
from pipeline.store.places.base import METADATA
from pipeline.store.root import read_root, require_sealed, write_root
from pipeline.store.rows import scores

FORMAT = "gmm-dask-result"
FORMAT_VERSION = 1
_GROUPS = (
    *("criteria", "models", "groups", "clusters", "resamples", "noise", "sample", "transform", "rows", "checkpoint"),
    "manifest",
)
# of these at least one is in every store that a run had saved anything in
_MARKS = ("criteria", "models", "groups", "checkpoint")

_SOFTWARE = ("dask", "numpy", "scikit-learn", "scipy", "zarr")
# keys that do not change the result: the job's name, how its data are reached, what computes and when, where the store
# lies, and whether there is a report
_FREE_KEYS = (
    "name",
    "cluster.",
    "data.cache",
    "data.storage_options",
    "output.store",
    "output.report",
    "output.metrics",
    "output.keep",
    "tasks.",
    "schedule",
    "score",
    "refresh",
)
# what the run looks into when it differs: a file's time may change without its contents
_LOOSE_DATA = ("chunks", "files", "contents", "missing", "notes")


# what to do about a path where something else lies: to write there, or to read
_ELSEWHERE = ", so it is left as it is. Choose another path."
_LISTED = "'gmm-dask ls FOLDER' lists the result stores of a folder."

Values = dict[str, Any]


class StoreStatus(StrEnum):
    """What :func:`prepare_store` found."""

    NEW = "new"
    UNFINISHED = "unfinished"
    COMPLETE = "complete"


# -- making and finding --------------------------------------------------------------------------------------


def prepare_store(path: StorePath, config: dict[str, Any], data: dict[str, Any], fresh: bool = False) -> StoreStatus:
    """Make a result store, or find the one that an earlier run of the same job left.

    Call it while :func:`lock` is held.

    Parameters
    ----------
    path : str or Path
    config : dict
        The job's configuration.
    data : dict
        What tells the data from any other: values that differ mean other data. ``files`` and ``contents`` are
        kept, and left to the caller to compare. No NaN.
    fresh : bool
        Replace a result that is there.

    Returns
    -------
    StoreStatus
        NEW if there is nothing to go on from, UNFINISHED if there is a checkpoint, COMPLETE if the result is there.
        A store of ours in which nothing was saved is made anew, for whatever configuration and data; its attempts
        are counted on.

    Raises
    ------
    UserError
        If something else lies at the path, which is never touched, or the result of another configuration or of
        other data (unless ``fresh``).
    """
    config, data = as_json(config), as_json(data)
    status = StoreStatus.NEW if fresh else find_store(path)
    if status is StoreStatus.NEW:
        exists = _is_ours(path, damaged_too=fresh)
        attempts = 1 + (read_attributes(path).attempts if exists and not fresh else 0)
        _create(place_of(path), _first_attributes(config, data, attempts), exists)
        return StoreStatus.NEW
    store = read_attributes(path)
    _require_same(str(path), (store.config, config), (store.data, data))
    _tidy(place_of(path), store)
    if status is StoreStatus.UNFINISHED:
        update_attributes(path, attempts=store.attempts + 1)
    return status


def find_store(path: StorePath) -> StoreStatus:
    """What :func:`prepare_store` would find at a path, which is left as it is.

    Raises
    ------
    UserError
        If something else lies at the path.
    """
    root = _own_root(path)
    if root is None:
        return StoreStatus.NEW
    store = _parsed(path, root)
    if store.is_complete:
        return StoreStatus.COMPLETE
    return StoreStatus.NEW if store.checkpoint is None else StoreStatus.UNFINISHED


def remove_empty(path: StorePath) -> None:
    """Remove a store in which a run has saved nothing that another could resume; call it while :func:`lock` is held."""
    with suppress(UserError):
        if _is_ours(path) and find_store(path) is StoreStatus.NEW:
            place_of(path).remove_at_once()


def _first_attributes(config: dict[str, Any], data: dict[str, Any], attempts: int) -> StoreAttributes:
    return StoreAttributes(
        status=RunStatus.RUNNING,
        config=config,
        data=data,
        software=_software(),
        best=None,
        passes=0,
        bytes_read=0,
        n_rows=None,
        total_weight=None,
        attempts=attempts,
        checkpoint=None,
        started=_now(),
        finished=None,
        seconds=None,
    )


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def _software() -> dict[str, str]:
    """What decides the last bits of the result."""
    versions = {name: version(name) for name in _SOFTWARE}
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return {"gmm-dask": gmm_dask.__version__, "python": python, **versions}


def _create(place: Place, first: StoreAttributes, replaces: bool) -> None:
    """Write the root's attributes, at once; what an earlier result left goes after that."""
    place.remove_half_written()
    with writing(place.path):
        _write_attributes(place.path, first)
        if replaces:
            place.remove(*place.folders())


def _tidy(place: Place, store: StoreAttributes) -> None:
    """Remove what a killed run may have left: half-written files, and checkpoints that are not the current one."""
    place.remove_half_written()
    if store.is_complete:
        place.remove("checkpoint")
    elif store.checkpoint is None:
        place.remove(*place.folders())
    else:
        others = set(place.folders("checkpoint")) - {str(store.checkpoint)}
        place.remove(*(f"checkpoint/{number}" for number in others))


# -- the same job or another -----------------------------------------------------------------------------------


def _require_same(path: str, configs: tuple[Values, Values], data: tuple[Values, Values]) -> None:
    """Compare a store's configuration and data, there, with a job's, here.

    Raises
    ------
    UserError
        If they differ in what changes the result.
    """
    remedy = "Choose another output.store, or replace this one with --fresh."
    changed = _differences(*_at_versions(configs, data))
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
    configs = as_json(configs[0]), as_json(configs[1])
    return not (_differences(*_at_versions(configs, data)) or _differences(known, as_json(here)))


def _at_versions(configs: tuple[Values, Values], data: tuple[Values, Values]) -> tuple[Values, Values]:
    """Return the configurations, there with the version of a table that was read, where here names one."""
    there, here = configs
    if here["data"]["version"] is not None and there["data"]["version"] is None:
        there = {**there, "data": {**there["data"], "version": data[0].get("version")}}
    return there, here


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


# -- ours or not ---------------------------------------------------------------------------------------------


def is_store(path: StorePath) -> bool:
    """Whether a result store that this version knows is at a path."""
    try:
        return _is_ours(path)
    except UserError:
        return False


def _is_ours(path: StorePath, *, damaged_too: bool = False) -> bool:
    """Whether a result store is there; nothing or an empty folder is not, and anything else is an error."""
    try:
        return _own_root(path) is not None
    except DamagedError:
        if damaged_too:
            return True
        raise


def _own_root(path: StorePath, remedy: str = _ELSEWHERE) -> dict[str, Any] | None:
    """The attributes of a result store as they lie there; None where nothing does, and anything else is an error.

    ``remedy`` is what to do about something else.
    """
    attributes = read_root(path, _GROUPS, _MARKS)
    if attributes is None:
        return None
    found = attributes.get("format")
    if found != FORMAT:
        but = ", but scores of new rows" if found == scores.FORMAT["format"] else ""
        raise UserError(f"{path} exists and is not a result store of gmm-dask{but}{remedy}")
    _require_known(path, attributes)
    return attributes


def _require_known(path: StorePath, attributes: dict[str, Any]) -> None:
    """Raise :class:`UserError` for a store of a version whose format, or whose settings, are not known here."""
    number, wrong = attributes.get("format_version"), ""
    if number != FORMAT_VERSION:
        wrong = f"has the format version {number}, and this gmm-dask knows version {FORMAT_VERSION}"
    elif unknown := unknown_keys(attributes.get("config")):
        wrong = f"has settings that this gmm-dask does not know: {', '.join(unknown)}"
    if wrong:
        software = attributes.get("software")
        writer = software.get("gmm-dask") if isinstance(software, dict) else None
        raise UserError(
            f"the result store {path} {wrong}. Use the gmm-dask that wrote it ({writer or 'unknown'}; this is "
            f"{gmm_dask.__version__}) or a newer one, or choose another path."
        )


# -- reading and completing ----------------------------------------------------------------------------------


def require_store(path: StorePath, *, unfinished: bool = False) -> StoreAttributes:
    """Read the attributes of a store.

    Raises
    ------
    UserError
        If there is no result store, or one that is not complete (unless ``unfinished``).
    """
    root = _own_root(path, f". {_LISTED}")
    if root is None:
        raise UserError(f"there is no result store {path}; 'gmm-dask run' writes one. {_LISTED}")
    store = _parsed(path, root)
    if not (unfinished or store.is_complete):
        raise UserError(
            f"the result store {path} is not complete (status '{store.status}' after {store.passes} passes): a run is "
            "at work on it, or was stopped. Run the same configuration again to finish it."
        )
    return store


def read_attributes(path: StorePath) -> StoreAttributes:
    """Read the attributes of a store that is there; :class:`DamagedError` if they are not as they were written."""
    attributes = read_root(path, _GROUPS, _MARKS)
    if attributes is None:
        raise damaged(path, f"{METADATA} is missing")
    return _parsed(path, attributes)


def _parsed(path: StorePath, attributes: dict[str, Any]) -> StoreAttributes:
    require_sealed(path, attributes)
    with reading(path, METADATA):
        return StoreAttributes.from_dict(attributes)


def update_attributes(path: StorePath, **changes: Any) -> None:
    """Change some of :class:`StoreAttributes` in one write, which happens or does not."""
    _write_attributes(path, replace(read_attributes(path), **changes))


def _write_attributes(path: StorePath, attributes: StoreAttributes) -> None:
    write_root(path, {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes.to_dict()})


def add_bytes_read(path: StorePath, n_bytes: int) -> None:
    """Raise the count of bytes that the runs of a store have read."""
    update_attributes(path, bytes_read=read_attributes(path).bytes_read + n_bytes)


def complete(path: StorePath, **found: Any) -> None:
    """Mark a store complete, as the last thing that is written; its checkpoint is removed after that.

    Before that its parts are listed with their hashes, and everything is on the disk.

    Parameters
    ----------
    path : str or Path
    **found
        The attributes ``best, passes, n_rows, total_weight, seconds`` of :class:`StoreAttributes`.
    """
    manifest = write_manifest(path)
    place_of(path).sync("")
    update_attributes(path, **found, manifest=manifest, finished=_now(), checkpoint=None, status=RunStatus.COMPLETE)
    _tidy(place_of(path), read_attributes(path))
