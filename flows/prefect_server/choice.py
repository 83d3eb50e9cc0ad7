"""The Prefect server of a flow: the one that the user has set, or an embedded one."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
from prefect import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    PREFECT_SERVER_API_AUTH_STRING,
    temporary_settings,
)

from flows.prefect_server.embedded import EmbeddedServer, ServerError
from flows.prefect_server.outages import reason, without_losses
from gmm_dask.errors import FaultError, UserError
from pipeline.config.secrets import shown

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DATABASE_BYTES = 1 << 20  # a new database takes about as much
EMBEDDED_RETRIES = 3  # an embedded server is busy for a moment or gone for good: minutes of waiting are of no use
_LOST = "its embedded server has ended. The job goes on, and its result is stored; the record of the run ends here"
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


@contextmanager
def prefect_api(verbose: bool = False, report: Callable[[str], object] = str) -> Iterator[None]:
    """Connect Prefect to the user's server, or to an embedded one if none is set.

    Parameters
    ----------
    verbose : bool
        Let an embedded server write its log to standard error.
    report : callable
        Receives a sentence as soon as an embedded server ends, while the job goes on.
    """
    with direct_to_this_machine(), _server(verbose, report):
        yield


@contextmanager
def direct_to_this_machine() -> Iterator[None]:
    """Let no proxy of the environment come between this process, or those that it starts, and a server on loopback.

    Variables with a SOCKS proxy are left out for a server on loopback: no client that a run uses can do without such a
    proxy where one is set, and few can use it.
    """
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    apart = ",".join(filter(None, [proxies.get("no_proxy") or proxies.get("NO_PROXY"), *LOOPBACK]))
    os.environ.update(no_proxy=apart, NO_PROXY=apart)
    if urlsplit(PREFECT_API_URL.value() or "").hostname in (None, *LOOPBACK):
        for name, value in proxies.items():
            if value.lower().startswith("socks"):
                del os.environ[name]
    try:
        yield
    finally:
        for name in ("no_proxy", "NO_PROXY"):
            del os.environ[name]
        os.environ.update(proxies)


@contextmanager
def _server(verbose: bool, report: Callable[[str], object]) -> Iterator[None]:
    if url := _printable_url():
        _require_answer(url, "Start it, unset PREFECT_API_URL, or add --no-prefect.")
        with _report_lost_server(url):
            yield
        return
    _require_home()
    server = EmbeddedServer(verbose=verbose)
    import pipeline.fit.job  # noqa: F401 (takes seconds, as the server's start does: both at the same time)

    connection = {
        PREFECT_API_URL: _url_of(server),
        PREFECT_API_AUTH_STRING: PREFECT_SERVER_API_AUTH_STRING.value(),  # which the child has inherited
        PREFECT_CLIENT_MAX_RETRIES: EMBEDDED_RETRIES,
    }
    server.watch(partial(report, _LOST))
    with temporary_settings(connection):
        try:
            yield
        except Exception as error:
            server.require_alive(error)
            raise


def _require_home() -> None:
    """Raise :class:`UserError` if an embedded server cannot have its database: its log says that at great length."""
    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(bytes(DATABASE_BYTES))
    except OSError as error:
        raise UserError(
            f"Prefect keeps its database in PREFECT_HOME, {home}, which cannot be written: {error.strerror}. Set it to "
            "a folder that can be written and has free space, or add --no-prefect."
        ) from error


def _url_of(server: EmbeddedServer) -> str:
    """Return the URL of an embedded server when it answers."""
    try:
        return server.wait_until_ready()
    except ServerError as error:
        raise FaultError(f"{error} To run without it, add --no-prefect.") from error


@contextmanager
def _report_lost_server(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise FaultError(
            f"the Prefect server at {url} failed during the run ({reason(error)}). The finished part of the job is "
            "in the result store: run the command again once the server answers, or with --no-prefect."
        ) from None  # the cause may contain the URL with its password


def require_server() -> str:
    """Return the URL of the user's Prefect server, with any password hidden.

    Raises
    ------
    UserError
        If no server is set, since an embedded one ends with its job and keeps no schedules, or if it does not answer.
    """
    url = _printable_url()
    if not url:
        raise UserError(
            "schedules need a Prefect server that keeps running, and none is set. Start one in another terminal with "
            "'prefect server start', and set its URL here: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    _require_answer(url, "Start it with 'prefect server start', or set PREFECT_API_URL to one that runs.")
    return url


def _printable_url() -> str | None:
    """Return the URL of the user's server with any password hidden, or None if none is set."""
    url = PREFECT_API_URL.value()
    return str(shown(url)) if url else None


def _require_answer(url: str, remedy: str) -> None:
    expected = f"expected a Prefect server at {url}, as PREFECT_API_URL or the Prefect profile says"
    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)  # not the health check, which answers without a password
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise FaultError(f"{expected}; it failed (status {status}). Its log says why.") from None
        raise UserError(f"{expected}; {_refusal(status)}") from None
    except ImportError as error:  # of a package for the proxy
        raise UserError(f"{expected}; {error}, or unset the proxy (ALL_PROXY, HTTP_PROXY, HTTPS_PROXY).") from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError) as error:
        raise UserError(f"{expected}; that is no URL of one ({reason(error)}). {remedy}") from None
    except httpx.HTTPError as error:
        raise FaultError(f"{expected}; it does not answer ({reason(error)}). {remedy}") from None


def _refusal(status: int) -> str:
    if status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"another server answers there (status {status}). The URL of a Prefect API ends in /api."
    password = "none is set" if PREFECT_API_AUTH_STRING.value() is None else "the one that is set is wrong"
    return (
        f"it requires a password (status {status}), and {password}. Set PREFECT_API_AUTH_STRING to the server's "
        "PREFECT_SERVER_API_AUTH_STRING; Prefect Cloud takes PREFECT_API_KEY."
    )


def quiet_console() -> None:
    """Keep Prefect's log of a run off the terminal: its API receives it, and the job's errors are raised.

    Warnings of other origin are still shown.
    """
    logging.raiseExceptions = False
    without_losses()
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING and record.name not in RUN_LOGGERS)
