"""Checks of a cluster: the packages of its workers, and that they see what the job reads and writes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gmm_dask.errors import FaultError, UserError
from gmm_dask.formatting import counted
from pipeline.store.places import place_of

# packages that a worker needs
NEEDED = ("gmm-dask", "numba", "numpy", "pyarrow", "scikit-learn", "scipy", "zarr")
# versions that must be equal on both sides: the first of these serialize messages, the rest decide the last bits
EQUAL = ("python", "dask", "distributed", "cloudpickle", "msgpack", "gmm-dask", "numba", "numpy", "scipy")
# packages that Dask reports only on request
PACKAGES = ("gmm-dask", "numba", "pyarrow", "scikit-learn", "scipy", "zarr")
# workers that a message lists by name
LISTED = 3


class ClusterError(FaultError):
    """A cluster does not answer, or was lost; a retry must connect to one, or start one, again."""


def versions_of(client: Any) -> Mapping[str, Any]:
    """Return the packages of this process, the scheduler and all workers, by ``distributed.Client.get_versions``."""
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
    missing = {name: addresses for name, addresses in missing.items() if addresses}
    if missing:
        raise UserError(
            f"cluster: workers lack packages: {'; '.join(f'{n} on {_some(at)}' for n, at in missing.items())}. "
            "Install the same version of gmm-dask as here into the environment of the workers."
        )
    found = {"the scheduler": versions["scheduler"]["packages"], **workers}
    differing = list(filter(None, (_difference(name, here, found) for name in EQUAL)))
    if differing:
        raise UserError(
            f"cluster: versions differ between this program and the cluster: {'; '.join(differing)}. Install the same "
            "versions on both sides."
        )


def _difference(name: str, here: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> str | None:
    """Return a message about the workers whose version of a package differs; the scheduler need not have it."""
    mine = _version(name, here)
    theirs: dict[str, list[str]] = {}
    for address, packages in found.items():
        version = _version(name, packages)
        if version is not None and version != mine:
            theirs.setdefault(version, []).append(address)
    there = ", ".join(f"{version} on {_some(addresses)}" for version, addresses in theirs.items())
    return f"{name} is {mine} here and {there}" if there else None


def _version(name: str, packages: Mapping[str, str]) -> str | None:
    version = packages.get(name)
    # patch releases of Python are compatible
    return ".".join(version.split(".")[:2]) if name == "python" and version else version


def require_visible(client: Any, path: str, key: str) -> None:
    """Raise :class:`UserError` if some workers do not see a local path; for a glob, the folder that it is in."""
    seen = path
    while glob.has_magic(seen) and not os.path.exists(seen):
        seen = os.path.dirname(seen)
    found = client.run(os.path.exists, seen or ".", on_error="ignore")  # a worker may leave meanwhile
    missing = [address for address, exists in found.items() if not exists]
    if missing:
        relative = not os.path.isabs(path)
        raise UserError(
            f"{key}: {path} exists here, but is not seen by {len(missing)} of {counted(len(found), 'worker')} "
            f"({_some(missing)}). "
            "Put it where all machines find it under the same path"
            + (f", and give the absolute path: here it is {Path(path).absolute()}." if relative else ".")
        )


def require_reachable(client: Any, url: str, key: str) -> None:
    """Raise :class:`UserError` if some workers cannot write to a result in a bucket."""
    found = client.run(_difficulty, url, on_error="ignore")
    failed = {address: difficulty for address, difficulty in found.items() if difficulty}
    if failed:
        raise UserError(
            f"{key}: {url} is not reached by {len(failed)} of {counted(len(found), 'worker')} ({_some(failed)}): "
            f"{next(iter(failed.values()))} Workers that write rows need the package obstore, and credentials of their "
            "own."
        )


def _difficulty(url: str) -> str:
    """What keeps this process from a result in a bucket; empty if nothing does."""
    try:
        place_of(url).exists()
    except (UserError, FaultError) as error:
        return str(error)
    return ""


def _some(addresses: Iterable[str]) -> str:
    """Return the first few addresses, and the number of the others."""
    every = list(addresses)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more
