"""The configuration's section ``cluster``: what computes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic
from dask.utils import parse_bytes
from pydantic import AfterValidator, Field, Strict, ValidationInfo

from pipeline.config.environment import without_secrets
from pipeline.config.fields import Count, Section, Text, Whole

Seconds = Annotated[float, Strict(), Field(gt=0.0, allow_inf_nan=False)]

# the kinds of cluster that each key is for; those not listed are for all kinds
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
# under such a key Dask takes the name of a class, which it imports and calls
_CLASS_KEY = re.compile(r"(^|_)(cls|class)$", re.IGNORECASE)
# without these a kind cannot be
_REQUIRED = {"address": "address", "class_path": "class"}


def _positive_bytes(value: str) -> str:
    try:
        positive = parse_bytes(value) > 0
    except ValueError:
        positive = False
    if not positive:
        raise ValueError("expected an amount of memory such as 1GiB or 500MB")
    return value


def _without_classes(value: dict[str, Any]) -> dict[str, Any]:
    """Arguments that name nothing for Dask to import and call, past the check of ``cluster.class_path``."""
    named = list(_named_classes(value))
    if named:
        raise ValueError(
            f"expected no class by its name, and {named[0]} is one: leave it to the class at cluster.class_path"
        )
    return value


def _named_classes(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            place = f"{key}.{name}" if key else str(name)
            if isinstance(inner, str) and _CLASS_KEY.search(str(name)):
                yield place
            yield from _named_classes(inner, place)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _named_classes(inner, f"{key}[{number}]")


class TlsFiles(Section):
    """Certificates with which this program talks to a scheduler over TLS, as PEM files."""

    ca_file: Text = Field(description="Certificate of the authority that has signed the scheduler's certificate.")
    cert_file: Text = Field(description="Certificate that this program shows.")
    key_file: Text = Field(description="Private key of that certificate.")


class AdaptiveBounds(Section):
    """How many workers a cluster starts and ends as there is work."""

    minimum: Whole = Field(default=0, description="The fewest workers.")
    maximum: Count = Field(default=1, description="The most workers.")

    @pydantic.field_validator("maximum")
    @classmethod
    def _not_below(cls, maximum: int, info: ValidationInfo) -> int:
        if maximum < info.data.get("minimum", 0):
            raise ValueError("expected a number of at least cluster.adaptive.minimum")
        return maximum


class ClusterConfig(Section):
    """What computes."""

    kind: Literal["threads", "local", "address", "class"] = Field(
        default="threads",
        description="Where to compute: threads of this process; local, worker processes on this machine, for the time "
        "of the job; address, the workers of a Dask scheduler that is running; class, a cluster that a class such as "
        "dask_jobqueue.SLURMCluster starts for the time of the job.",
    )
    memory_limit: Annotated[str, AfterValidator(_positive_bytes)] = Field(
        default="1GiB", description="Memory that one worker process may use, imports included."
    )
    workers: Count | None = Field(
        default=None,
        description="local: worker processes, null for one a core. class: workers to ask for, null for as many as the "
        "class starts by itself.",
    )
    threads_per_worker: Count | None = Field(
        default=None,
        description="local: chunks that a worker computes at a time; null shares the cores among the workers, as far "
        "as the memory allows.",
    )
    local_directory: Text | None = Field(
        default=None, description="local: folder for what does not fit the memory; null takes the system's."
    )
    address: Text | None = Field(
        default=None, description="address: the scheduler's, such as tcp://10.0.0.5:8786 or tls://10.0.0.5:8786."
    )
    tls: TlsFiles | None = Field(
        default=None,
        description="address: files for a scheduler at tls://; null takes what Dask's own configuration says, such as "
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE in the environment.",
    )
    class_path: Text | None = Field(
        default=None,
        description="class: import path of a subclass of distributed.deploy.cluster.Cluster, such as "
        "dask_jobqueue.SLURMCluster or dask_kubernetes.operator.KubeCluster; not distributed.SpecCluster, which would "
        "call anything. Some of these classes run shell commands by design, such as the prologue of a batch job: trust "
        "a configuration as you would trust a script.",
    )
    kwargs: Annotated[dict[str, Any], AfterValidator(without_secrets), AfterValidator(_without_classes)] = Field(
        default={},
        description="class: what the class is called with. Secrets come from the environment, as '${NAME}': they are "
        "filled in when the cluster is started, and neither printed nor stored. No class may be named in it.",
    )
    adaptive: AdaptiveBounds | None = Field(
        default=None, description="class: start and end workers between these bounds as there is work; null does not."
    )
    min_workers: Count | None = Field(
        default=None, description="address, class: workers that must be there before the job begins; null takes 1."
    )
    timeout: Seconds = Field(
        default=60.0,
        description="local, address, class: seconds to wait for the scheduler, for min_workers, and for a worker to "
        "come when all were lost.",
    )
    persist: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether the workers of a cluster keep the chunks in memory after the first pass of the fit: auto "
        "does if the projected memory allows, always spills to disk if it must, never reads them anew each pass, as "
        "threads do.",
    )

    @pydantic.field_validator(*_KINDS)
    @classmethod
    def _for_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind, name = info.data.get("kind"), str(info.field_name)
        if kind is None:  # there is an error in it already
            return value
        if value != cls.model_fields[name].default and kind not in _KINDS[name]:
            raise ValueError(f"expected nothing, as it is for cluster.kind: {' or '.join(_KINDS[name])}")
        if value is None and _REQUIRED.get(name) == kind:
            raise ValueError(f"expected a value, as cluster.kind is {kind}")
        return value

    @pydantic.field_validator("persist")
    @classmethod
    def _of_processes(cls, persist: str, info: ValidationInfo) -> str:
        if persist == "always" and info.data.get("kind") == "threads":
            raise ValueError("expected auto or never, as threads read the data anew each pass")
        return persist

    @property
    def memory_bytes(self) -> int:
        """``memory_limit`` in bytes."""
        return int(parse_bytes(self.memory_limit))
