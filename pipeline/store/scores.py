"""Scores: what a stored model says about other rows, as a Zarr v3 group like a result store.

::

    OUT/              attributes: format, format_version, status, model, config, data, software, token, summary
      rows/           a value for each row, as in a result store
    OUT.lock          beside it: held by the command that writes it

``status: complete`` is written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zarr

from gmm_dask.errors import UserError
from pipeline.store.arrays import StorePath, as_json, open_root
from pipeline.store.zarr_rows import writing

FORMAT = "gmm-dask-scores"
FORMAT_VERSION = 1
RUNNING = "running"
COMPLETE = "complete"
ELSEWHERE = "Choose another path (-o; in a configuration score.out, with a date in it)"


def prepare_scores(path: StorePath, attributes: dict[str, Any], fresh: bool) -> bool:
    """Make the group, or find what an earlier call left; returns whether that is whole.

    Call it while :func:`pipeline.store.lock` is held.

    Parameters
    ----------
    path : str or Path
    attributes : dict
        With ``token``, which tells these scores from those of any other model, data or settings.
    fresh : bool
        Replace other scores that are there.

    Raises
    ------
    UserError
        If something else lies at the path, which is never touched, or other scores that are complete, unless
        ``fresh``.
    """
    found = _attributes(path)
    if found is not None and not fresh:
        complete, same = bool(found["status"] == COMPLETE), found["token"] == attributes["token"]
        if same:
            return complete
        if complete:
            raise UserError(
                f"{path} holds the scores of another model, of other data or with other settings. {ELSEWHERE}, or "
                "replace them (gmm-dask score --fresh)."
            )
    with writing(str(path)):
        zarr.create_group(
            str(path),
            zarr_format=3,
            overwrite=found is not None,
            attributes=as_json(
                {"format": FORMAT, "format_version": FORMAT_VERSION, "status": RUNNING, "summary": None, **attributes}
            ),
        )
    return False


def find_unfinished(paths: Sequence[str], token: str) -> str | None:
    """The scores that an earlier call has begun and not finished.

    Parameters
    ----------
    paths : sequence of str
        Where they may be, the newest first.
    token : str
        Of the model, the data and the settings.

    Returns
    -------
    path : str or None
        None if there are none that are newer than all that are complete.
    """
    for path in paths:
        try:
            found = _attributes(path)
        except UserError:  # something else
            continue
        if found is not None and found["status"] == COMPLETE:
            return None
        if found is not None and found["token"] == token:
            return path
    return None


def complete_scores(path: StorePath, summary: dict[str, Any]) -> None:
    """Mark scores complete, as the last thing that is written."""
    with writing(str(path)):
        open_root(path, "r+").update_attributes(as_json({"summary": summary, "status": COMPLETE}))


def read_scores(path: StorePath) -> dict[str, Any]:
    """The attributes of scores, for reading them.

    Raises
    ------
    UserError
        If there are none, or they are not complete.
    """
    found = _attributes(path)
    if found is None:
        raise UserError(f"there are no scores {path}; 'gmm-dask score' writes them.")
    if found["status"] != COMPLETE:
        raise UserError(
            f"the scores {path} are not complete (status {found['status']!r}): a command is at work on them, or was "
            "stopped. Run the same gmm-dask score again to finish them."
        )
    return found


def _attributes(path: StorePath) -> dict[str, Any] | None:
    """Attributes of scores that are there; nothing or an empty folder has none, and anything else is an error."""
    place = Path(path)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    try:
        attributes: dict[str, Any] = open_root(path).attrs.asdict()
    except (OSError, ValueError, KeyError):
        attributes = {}
    if (attributes.get("format"), attributes.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise UserError(
            f"{path} exists and does not hold scores that this gmm-dask knows, so it is left as it is. {ELSEWHERE}."
        )
    return attributes
