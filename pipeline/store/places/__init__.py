"""Where a result lies: a folder of this machine, or a prefix of an object store, behind one interface."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gmm_dask.errors import UserError
from pipeline.store.places.base import Place, StorePath
from pipeline.store.places.local import LocalPlace

__all__ = ["Place", "StorePath", "is_url", "place_of"]

# pathlib makes s3:/ of s3://
_URL = re.compile(r"(s3|gs|az):/{1,2}(?=[^/])")


def place_of(path: StorePath) -> Place:
    """Return the place of a path of this machine, or of a URL of an object store.

    Raises
    ------
    UserError
        If it is no path, or the package for object stores is not installed.
    """
    if not (isinstance(path, str | os.PathLike) and str(path)):
        raise UserError(f"expected a path, such as results/night.zarr, or a URL of an object store; got {path!r}.")
    if not is_url(path):
        return LocalPlace(path)
    from pipeline.store.places.objects.place import ObjectPlace

    return ObjectPlace(_URL.sub(r"\1://", str(path), count=1))


def is_url(path: StorePath) -> bool:
    """Whether a path leads to an object store."""
    found = _URL.match(str(path))
    return found is not None and not Path(f"{found.group(1)}:").is_dir()
