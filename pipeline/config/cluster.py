"""The configuration's section ``cluster``: where Dask computes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from pydantic import AfterValidator, Field, ValidationInfo

from pipeline.config.fields import Count, HiddenInJson, LocalPath, Memory, Seconds, Section, Text, Whole

# the kinds of cluster that each key applies to; other keys apply to all
_KINDS = {
    "workers": ("local", "class"),
    "threads_per_worker": ("local",),
    "local_directory": ("local",),
    "address": ("address",),
    "tls": ("address",),
    "class_path": ("class",),
    "kwargs": ("class",),
    "adaptive": ("class",),
    "min_workers": ("address", "class"),
    "timeout": ("local", "address", "class"),
}
# Dask imports and calls what is named under such a key, at any depth: a class, a module, a kind of TLS settings
_NAMES_CODE = re.compile(r"(^|_)(cls|class|plugins?|security)$", re.IGNORECASE)
# Dask's workers run the files and modules that stand under such a key, or that such a variable of theirs names
_LOADS_CODE = re.compile(r"preload", re.IGNORECASE)
# variables of a worker process, through which Python and Dask load code
_ENVIRONMENT = re.compile(r"^(env|environment)$", re.IGNORECASE)
# keys that a kind requires
_REQUIRED = {"address": "address", "class_path": "class"}


def _without_code(value: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by which Dask loads no code, which would evade the check of ``cluster.class_path``."""
    for key in _named_code(value):
        raise ValueError(
            f"expected nothing that names code to load, such as a class, a preload or variables of the workers; {key} "
            "does: leave it to the class at cluster.class_path, and set variables where the command runs"
        )
    return value


def _named_code(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            place = f"{key}.{name}" if key else str(name)
            if _names_code(str(name), inner):
                yield place
            yield from _named_code(inner, place)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _named_code(inner, f"{key}[{number}]")


def _names_code(name: str, value: Any) -> bool:
    if _ENVIRONMENT.search(name):
        return isinstance(value, Mapping)  # a list is that of a container, which may hold any program as it is
    return bool(_LOADS_CODE.search(name) and value) or bool(_NAMES_CODE.search(name) and isinstance(value, str))


class TlsFiles(Section):
    """PEM files for a connection to the scheduler over TLS."""

    ca_file: LocalPath = Field(description="Certificate of the authority that signed the scheduler's certificate.")
    cert_file: LocalPath = Field(description="Certificate of this client.")
    key_file: LocalPath = Field(description="Private key of that certificate.")


class AdaptiveBounds(Section):
    """Bounds within which the number of workers follows the load."""

    minimum: Whole = Field(default=0, description="Smallest number of workers.")
    maximum: Count = Field(default=1, description="Largest number of workers.")

    @pydantic.field_validator("maximum")
    @classmethod
    def _not_below(cls, maximum: int, info: ValidationInfo) -> int:
        if maximum < info.data.get("minimum", 0):
            raise ValueError("expected a number of at least cluster.adaptive.minimum")
        return maximum


class ClusterConfig(Section):
    """Where Dask computes."""

    kind: Literal["threads", "local", "address", "class"] = Field(
        default="threads",
        description="threads: threads of this process; local: worker processes on this machine, started for the job; "
        "address: the workers of a running Dask scheduler; class: a cluster that a class such as "
        "dask_jobqueue.SLURMCluster starts for the job.",
    )
    memory_limit: Memory = Field(default="1GiB", description="Memory limit of one worker process, imports included.")
    workers: Count | None = Field(
        default=None,
        description="local: worker processes, null for one per core. class: workers to request, null for the class's "
        "own default.",
    )
    threads_per_worker: Count | None = Field(
        default=None,
        description="local: threads of a worker, each of which computes one chunk at a time; null divides the cores "
        "among the workers, as far as the memory allows.",
    )
    local_directory: LocalPath | None = Field(
        default=None, description="local: folder for data that workers spill to disk; null takes the system's default."
    )
    address: Annotated[Text, HiddenInJson] | None = Field(
        default=None,
        description="address: address of the scheduler, such as tcp://10.0.0.5:8786 or tls://10.0.0.5:8786.",
    )
    tls: TlsFiles | None = Field(
        default=None,
        description="address: certificates for a scheduler at tls://; null takes those of Dask's own configuration, "
        "such as DASK_DISTRIBUTED__COMM__TLS__CA_FILE in the environment.",
    )
    class_path: Text | None = Field(
        default=None,
        description="class: import path of a subclass of distributed.deploy.cluster.Cluster, such as "
        "dask_jobqueue.SLURMCluster or dask_kubernetes.operator.KubeCluster; not distributed.SpecCluster itself, whose "
        "arguments can call anything. Many of these classes run programs by design, such as the prologue of a batch "
        "job or the image of a container: trust a configuration with cluster.kind: class as you would trust a script.",
    )
    kwargs: Annotated[dict[str, Any], AfterValidator(_without_code), HiddenInJson] = Field(
        default={},
        description="class: arguments of the class. Secrets come from the environment, as '${NAME}': they are filled "
        "in when the cluster is started. A value that is written out is stored and shown as ***, with a note, unless "
        "its key is known to be harmless, as cores is. No argument may name another class, or code for the workers to "
        "load (preload).",
    )
    adaptive: AdaptiveBounds | None = Field(
        default=None,
        description="class: scale the number of workers with the load, between these bounds; null keeps it fixed.",
    )
    min_workers: Count | None = Field(
        default=None,
        description="address, class: number of workers to wait for before the job begins; null waits for 1.",
    )
    timeout: Seconds = Field(
        default=60.0,
        description="local, address, class: how long to wait for the scheduler, for min_workers, and for a new worker "
        "after all were lost, in seconds or with a unit such as 5min.",
    )
    persist: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether the workers of a cluster persist the chunks in memory after the first pass of the fit: "
        "auto persists them if the projected memory allows, always spills to disk where needed, never reads the data "
        "in each pass, as threads do.",
    )

    @pydantic.field_validator(*_KINDS)
    @classmethod
    def _for_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind, name = info.data.get("kind"), str(info.field_name)
        if kind is None:  # the kind itself is not valid, which is reported already
            return value
        if value != cls.model_fields[name].default and kind not in _KINDS[name]:
            raise ValueError(f"expected no value, as it applies to cluster.kind: {' or '.join(_KINDS[name])}")
        if value is None and _REQUIRED.get(name) == kind:
            raise ValueError(f"expected a value, as cluster.kind is {kind}")
        return value

    @pydantic.field_validator("persist")
    @classmethod
    def _of_processes(cls, persist: str, info: ValidationInfo) -> str:
        if persist == "always" and info.data.get("kind") == "threads":
            raise ValueError("expected auto or never, as threads read the data in each pass")
        return persist

    @property
    def n_local_workers(self) -> int:
        """Worker processes of a cluster of kind ``local``."""
        return int(self.workers or CPU_COUNT)

    @property
    def memory_bytes(self) -> int:
        """``memory_limit`` in bytes."""
        return int(parse_bytes(self.memory_limit))
