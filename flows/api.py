"""The Prefect server that a flow talks to: the user's, or an embedded one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import httpx
from prefect import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_API_AUTH_STRING,
    temporary_settings,
)

from flows.server import EmbeddedServer
from gmm_dask.errors import FaultError, UserError
from pipeline.config.environment import redacted

LOCAL_RETRIES = 3  # a server of our own is busy for a moment or gone for good: no minutes of waiting
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


@contextmanager
def prefect_api(verbose: bool = False) -> Iterator[None]:
    """Within it, Prefect talks to the user's server, or to an embedded one if none is set."""
    if url := _shown_url():
        _require_answer(url, "Start it, unset PREFECT_API_URL, or add --no-prefect.")
        with _told_if_lost(url):
            yield
        return
    server = EmbeddedServer(verbose=verbose)
    import pipeline.fit.job  # noqa: F401 (takes seconds, as the server's start does: at the same time)

    found = {
        PREFECT_API_URL: server.wait_until_ready(),
        PREFECT_API_AUTH_STRING: PREFECT_SERVER_API_AUTH_STRING.value(),  # which the child has inherited
        PREFECT_CLIENT_MAX_RETRIES: LOCAL_RETRIES,
    }
    with temporary_settings(found):
        try:
            yield
        except Exception as error:
            server.require_alive(error)
            raise


@contextmanager
def _told_if_lost(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise FaultError(
            f"the Prefect server at {url} failed during the run ({_words(error)}). What the job had finished is in the "
            "result store: run the command again once the server answers, or with --no-prefect."
        ) from None  # the cause may name the URL with its password


def _words(error: Exception) -> str:
    """What an error says, as it may be printed."""
    return str(redacted(" ".join(str(error).split()))) or type(error).__name__


def require_server() -> str:
    """URL of the user's Prefect server, as it may be printed.

    Raises
    ------
    UserError
        If none is set, as nothing but a server of its own keeps schedules, or it does not answer.
    """
    url = _shown_url()
    if not url:
        raise UserError(
            "schedules need a Prefect server that lasts, and none is set. Start one in another terminal with 'prefect "
            "server start', and name it here: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    _require_answer(url, "Start it with 'prefect server start', or set PREFECT_API_URL to one that runs.")
    return url


def _shown_url() -> str | None:
    """The user's server as it may be printed; None if none is set."""
    url = PREFECT_API_URL.value()
    return str(redacted(url)) if url else None


def _require_answer(url: str, remedy: str) -> None:
    expected = f"expected a Prefect server at {url}, as PREFECT_API_URL or the Prefect profile says"
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)  # and not its health, which is told to anybody
    except httpx.HTTPStatusError as error:
        raise UserError(f"{expected}; {_refusal(error.response.status_code)}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(f"{expected}; it does not answer ({_words(error)}). {remedy}") from None


def _refusal(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"it fails (status {status}). Its log says why."
    if status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"what answers there is none (status {status}). The URL of a server's API ends in /api."
    given = "none is set" if PREFECT_API_AUTH_STRING.value() is None else "what is set is not the server's"
    return (
        f"it does not know who asks (status {status}): {given}. Set PREFECT_API_AUTH_STRING to what the server has as "
        "PREFECT_SERVER_API_AUTH_STRING; Prefect Cloud takes PREFECT_API_KEY."
    )


def keep_console_readable() -> None:
    """Leave the terminal to the job: what Prefect logs of the run reaches its API, and errors are raised.

    Warnings from elsewhere are still shown.
    """
    logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)  # whole events, when one cannot be sent
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING and record.name not in RUN_LOGGERS)
