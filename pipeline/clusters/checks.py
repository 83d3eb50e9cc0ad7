"""Whether a cluster can do a job: its workers' packages, and whether they see what the job reads and writes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gmm_dask.errors import FaultError, UserError

# without these a worker can compute nothing
NEEDED = ("gmm-dask", "numba", "numpy", "pyarrow", "scikit-learn", "scipy", "zarr")
# what must be alike here and there: what they send each other is made by the first, the numbers' last bits by the rest
ALIKE = ("python", "dask", "distributed", "cloudpickle", "msgpack", "gmm-dask", "numba", "numpy", "scipy")
# what Dask tells of besides its own
PACKAGES = ("gmm-dask", "numba", "pyarrow", "scikit-learn", "scipy", "zarr")
# workers that a message names
NAMED = 3


class ClusterError(FaultError):
    """A cluster does not answer, or was lost: whoever tries again must find or start one anew."""


def versions_of(client: Any) -> Mapping[str, Any]:
    """The packages here, at the scheduler, and on all workers that answer, as ``distributed.Client.get_versions``."""
    versions: Mapping[str, Any] = client.get_versions(packages=list(PACKAGES))
    return versions


def require_packages(versions: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` if packages are missing on workers, or of other versions than here.

    Parameters
    ----------
    versions : mapping
        As of :func:`versions_of`.
    """
    here = versions["client"]["packages"]
    workers = {address: found["packages"] for address, found in versions["workers"].items()}
    missing = {name: [at for at, found in workers.items() if found.get(name) is None] for name in NEEDED}
    missing = {name: places for name, places in missing.items() if places}
    if missing:
        raise UserError(
            f"cluster: workers lack what they need: {'; '.join(f'{n} on {_some(at)}' for n, at in missing.items())}. "
            "Install gmm-dask, in the version that is here, into the environment that the workers are started from."
        )
    found = {"the scheduler": versions["scheduler"]["packages"], **workers}
    differing = list(filter(None, (_difference(name, here, found) for name in ALIKE)))
    if differing:
        raise UserError(
            f"cluster: versions differ between this program and the cluster: {'; '.join(differing)}. Install the same "
            "versions on both sides."
        )


def _difference(name: str, here: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> str | None:
    """In words where a package has another version than here; the scheduler need not have all."""
    mine = _version(name, here)
    theirs: dict[str, list[str]] = {}
    for place, packages in found.items():
        version = _version(name, packages)
        if version is not None and version != mine:
            theirs.setdefault(version, []).append(place)
    there = ", ".join(f"{version} on {_some(places)}" for version, places in theirs.items())
    return f"{name} is {mine} here and {there}" if there else None


def _version(name: str, packages: Mapping[str, str]) -> str | None:
    version = packages.get(name)
    # patch releases of Python understand each other
    return ".".join(version.split(".")[:2]) if name == "python" and version else version


def require_visible(client: Any, path: str, key: str) -> None:
    """Raise :class:`UserError` if a local path is not there for some workers; of a glob, the folder that it is in."""
    place = path
    while glob.has_magic(place) and not os.path.exists(place):
        place = os.path.dirname(place)
    found = client.run(os.path.exists, place or ".", on_error="ignore")  # of a worker that has just gone
    missing = [address for address, is_there in found.items() if not is_there]
    if missing:
        relative = not os.path.isabs(path)
        raise UserError(
            f"{key}: {path} is here, and {len(missing)} of {len(found)} workers do not see it ({_some(missing)}). Put "
            "it where all machines find it under the same path"
            + (f", and give that in full: here it is {Path(path).absolute()}." if relative else ".")
        )


def _some(places: Iterable[str]) -> str:
    """A few places, and how many more there are."""
    every = list(places)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more
