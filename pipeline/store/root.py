"""The root of a store: one file with its attributes and their hash, written whole and synchronized each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.store.arrays import HALF_WRITTEN, StorePath, as_json
from pipeline.store.durable import write_file
from pipeline.store.integrity import METADATA, DamagedError, damaged, group_metadata, reading

_HASH = "sha256"


def write_root(path: StorePath, attributes: dict[str, Any]) -> None:
    """Write all attributes in one write, which happens or does not; NaN and infinity are an error."""
    plain = as_json(attributes)
    place = Path(path)
    place.mkdir(parents=True, exist_ok=True)
    write_file(place / METADATA, group_metadata({**plain, _HASH: _hash(plain)}))


def read_root(path: StorePath, groups: Iterable[str], marks: Iterable[str]) -> dict[str, Any] | None:
    """Read the attributes at a path: None where nothing lies, none where something else lies.

    Parameters
    ----------
    path : str or Path
    groups : iterable of str
        The groups that a store of this kind may have.
    marks : iterable of str
        Groups by which a store of this kind is known if its root is lost, as after a loss of power.

    Raises
    ------
    DamagedError
        If a store of this kind has lost its root.
    """
    place = Path(path)
    if not place.exists() or (place.is_dir() and all(file.match(HALF_WRITTEN) for file in place.iterdir())):
        return None
    try:
        with reading(path, METADATA):
            attributes = json.loads((place / METADATA).read_bytes())["attributes"]
            return dict(attributes)
    except DamagedError:
        if _has_lost_root(place, groups, marks):
            raise
        return {}


def require_sealed(path: StorePath, attributes: dict[str, Any]) -> None:
    """Raise :class:`DamagedError` unless attributes are as :func:`write_root` wrote them."""
    plain = {name: value for name, value in attributes.items() if name != _HASH}
    if attributes.get(_HASH) != _hash(plain):
        raise damaged(path, f"the attributes in {METADATA} are not as they were written")


def _hash(attributes: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


def _has_lost_root(place: Path, groups: Iterable[str], marks: Iterable[str]) -> bool:
    """Whether a folder without a root that can be read is a store: nothing else is in it, and it is known by a group.

    One in which nothing was written yet is known by its lock, if the root is there and empty.
    """
    if not place.is_dir():
        return False
    root = place / METADATA
    others = {file.name for file in place.iterdir() if not file.match(HALF_WRITTEN)} - {METADATA}
    if not others <= set(groups):
        return False
    if others:
        return any((place / mark / METADATA).is_file() for mark in marks)
    return not root.read_bytes().strip(b"\0") and Path(f"{place.resolve()}.lock").is_file()
