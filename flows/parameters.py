"""The configuration of a job as a parameter of its flow, which Prefect stores: without what may be secrets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from prefect import Flow, get_client
from prefect.context import FlowRunContext

from gmm_dask.errors import UserError
from pipeline.config.job import JobConfig, load_config, validated
from pipeline.config.secrets import HIDDEN
from pipeline.config.yaml_file import Document

P = ParamSpec("P")
ConfigParameter = str | dict[str, Any] | JobConfig  # the path of a job's YAML file, its content, or what was read


def read_job(config: ConfigParameter) -> JobConfig:
    """Return the configuration of a job; raise :class:`UserError` if it has a mistake or its file cannot be read."""
    if isinstance(config, JobConfig):
        return config
    return load_config(config) if isinstance(config, str) else validated(Document(config), "of the flow run")


class JobFlow(Flow[P, Any]):
    """A flow with a parameter ``config``, whose secrets are hidden in what is stored of a call in this process."""

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters as Prefect stores them."""
        return super().serialize_parameters({**parameters, "config": shown_config(parameters["config"])})


def hide_in_server(flow_function: Callable[P, Any]) -> Callable[P, Any]:
    """Decorate a flow's function so that it replaces a configuration with secrets that was sent to the server."""

    @functools.wraps(flow_function)
    def hiding(*arguments: P.args, **options: P.kwargs) -> Any:
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        if run is not None and run.deployment_id and isinstance(run.parameters["config"], dict):
            with get_client(sync_client=True) as client:
                config = shown_config(run.parameters["config"])
                client.update_flow_run(run.id, parameters={**run.parameters, "config": config})
        return flow_function(*arguments, **options)

    return hiding


def shown_config(config: ConfigParameter) -> Any:
    """Return a configuration without secrets, as JSON; of one with a mistake nothing, as the run's error names it."""
    if isinstance(config, str):
        return config
    try:
        return read_job(config).model_dump(mode="json")
    except UserError:
        return HIDDEN
