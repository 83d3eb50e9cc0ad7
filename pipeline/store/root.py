"""The root of a store: one file with its attributes and their hash, written whole and synchronized each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pipeline.store.arrays import as_json
from pipeline.store.integrity import DamagedError, damaged, group_metadata, reading
from pipeline.store.places import Place, StorePath, place_of
from pipeline.store.places.base import METADATA

_HASH = "sha256"


def write_root(path: StorePath, attributes: dict[str, Any]) -> None:
    """Write all attributes in one write, which happens or does not; NaN and infinity are an error."""
    plain = as_json(attributes)
    place_of(path).publish(group_metadata({**plain, _HASH: _hash(plain)}))


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
    place = place_of(path)
    try:
        with reading(path, METADATA):
            place, data = place.read_root()
            attributes = json.loads(data)["attributes"]
            return dict(attributes)
    except DamagedError:
        if not place.names():
            return None
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


def _has_lost_root(place: Place, groups: Iterable[str], marks: Iterable[str]) -> bool:
    """Whether a place without a root that can be read is a store: nothing else is in it, and it is known by a group.

    One in which nothing was written yet is known by its lock, if the root is there and empty.
    """
    others = place.names() - {METADATA}
    if not others <= set(groups):
        return False
    if others:
        return any(place.has(f"{mark}/{METADATA}") for mark in marks)
    return place.has_lock() and not place.read(METADATA).strip(b"\0")
