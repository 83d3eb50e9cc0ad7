"""Scores: the row outputs of a stored model for other rows, as a Zarr v3 group like a result store.

::

    OUT/              attributes: format, format_version, status, model, config, data, software, token, summary
      rows/           a value for each row, as in a result store
    OUT.lock          beside it: held by the command that writes it
    OUT.fresh/        beside complete scores: what --fresh builds to put in their place

``status: complete`` is written last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmm_dask.errors import UserError
from pipeline.store.arrays import writing
from pipeline.store.attributes import Attributes, RunStatus
from pipeline.store.integrity import DamagedError, read_manifest, reading, write_manifest
from pipeline.store.places import StorePath, place_of
from pipeline.store.places.base import METADATA
from pipeline.store.replacement import replacement_of
from pipeline.store.root import read_root, require_sealed, write_root

FORMAT = {"format": "gmm-dask-scores", "format_version": 1}
_GROUPS = ("rows", "manifest")
_MARKS = ("rows/unfinished", "manifest")
ELSEWHERE = "Choose another path (-o; in a configuration score.out, with a date in it)"


@dataclass(frozen=True, kw_only=True)
class ScoreAttributes(Attributes):
    """The attributes of scores.

    Attributes
    ----------
    model : dict
        The path of its store (``store``) and its ``name``.
    config, data, software : dict
        As in a result store, of the rows that are scored.
    token : str
        Tells these scores from those of any other model, data or settings.
    summary : dict or None
        Of the rows; None until the scores are complete.
    status : RunStatus
    manifest : str or None
        SHA-256 of the manifest of complete scores.
    """

    model: dict[str, str]
    config: dict[str, Any]
    data: dict[str, Any]
    software: dict[str, str]
    token: str
    summary: dict[str, Any] | None = None
    status: RunStatus = RunStatus.RUNNING
    manifest: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all rows are scored."""
        return self.status is RunStatus.COMPLETE


def prepare_scores(path: StorePath, attributes: ScoreAttributes, fresh: bool) -> bool:
    """Make the group, or find what an earlier call left; returns whether that is complete.

    Call it while :func:`pipeline.store.lock` is held.

    Parameters
    ----------
    path : str or Path
    attributes : ScoreAttributes
    fresh : bool
        Replace other scores that are there.

    Raises
    ------
    UserError
        If something else lies at the path, which is never touched, or other scores that are complete, unless
        ``fresh``.
    """
    found = _scores_to_replace(path) if fresh else _scores_at(path)
    if found is not None and not fresh:
        if found.token == attributes.token:
            if found.is_complete:
                _require_whole(path, found)
            return found.is_complete
        if found.is_complete:
            raise UserError(
                f"{path} holds the scores of another model, of other data or with other settings. {ELSEWHERE}, or "
                "replace them (gmm-dask score --fresh)."
            )
    with writing(path):
        _write_attributes(path, attributes)
        place_of(path).remove(*_GROUPS)
    return False


def scores_working_path(path: StorePath, token: str, fresh: bool) -> str:
    """Return where scores are written: at their path, or at the replacement of complete ones.

    A replacement that an earlier call completed is put in place; with ``fresh``, one that is not complete is removed.
    Parameters are as of :func:`prepare_scores`.
    """
    new = replacement_of(path)
    begun = _scores_at(new)
    if begun is not None and begun.is_complete:
        place_of(path).take(place_of(new))
        begun = None
    if not fresh:
        return new if begun is not None and begun.token == token else str(path)
    found = _scores_to_replace(path)
    place_of(new).remove_at_once()
    return new if found is not None and found.is_complete else str(path)


def find_unfinished(paths: Sequence[str], token: str) -> str | None:
    """Find the scores that an earlier call has begun and not finished.

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
            found = _scores_at(path)
        except UserError:  # something else
            continue
        if found is not None and found.is_complete:
            return None
        if found is not None and found.token == token:
            return path
    return None


def complete_scores(path: StorePath, summary: dict[str, Any], out: StorePath) -> None:
    """Mark scores complete, as the last thing that is written, and put them at ``out`` if they replace others."""
    found = _scores_at(path)
    assert found is not None
    with writing(path):
        manifest = write_manifest(path)
        place_of(path).sync("")
        _write_attributes(path, replace(found, summary=summary, status=RunStatus.COMPLETE, manifest=manifest))
        if path != out:
            place_of(out).take(place_of(path))


def read_scores(path: StorePath) -> ScoreAttributes:
    """Read the attributes of complete scores.

    Raises
    ------
    UserError
        If there are none, or they are not complete, or not whole.
    """
    found = _scores_at(path)
    if found is None:
        raise UserError(f"there are no scores {path}; 'gmm-dask score' writes them.")
    if not found.is_complete:
        raise UserError(
            f"the scores {path} are not complete (status '{found.status}'): a command is at work on them, or was "
            "stopped. Run the same gmm-dask score again to finish them."
        )
    _require_whole(path, found)
    return found


def _require_whole(path: StorePath, found: ScoreAttributes) -> None:
    """Raise :class:`DamagedError` if complete scores have lost something."""
    manifest = read_manifest(path, str(found.manifest))
    manifest.require(path, "rows", set())
    manifest.require_rows(path)


def _scores_at(path: StorePath) -> ScoreAttributes | None:
    """The attributes of scores; None where there is nothing, and anything else is an error."""
    attributes = read_root(path, _GROUPS, _MARKS)
    if attributes is None:
        return None
    if {name: attributes.get(name) for name in FORMAT} != FORMAT:
        raise UserError(
            f"{path} exists and does not hold scores that this gmm-dask knows, so it is left as it is. {ELSEWHERE}."
        )
    require_sealed(path, attributes)
    with reading(path, METADATA):
        return ScoreAttributes.from_dict(attributes)


def _scores_to_replace(path: StorePath) -> ScoreAttributes | None:
    """As :func:`_scores_at`; None of damaged scores, too."""
    try:
        return _scores_at(path)
    except DamagedError:
        return None


def _write_attributes(path: StorePath, attributes: ScoreAttributes) -> None:
    write_root(path, {**FORMAT, **attributes.to_dict()})
