"""What of a configuration is stored and shown: all but what may be a secret, which is ``***``.

In the options of a file system, in the arguments of a cluster and in a URL, a secret may have any name. So the values
of the few keys that are known to be harmless are shown, and no others. ``${NAME}``, the name of a variable of the
environment, is shown everywhere: it is the way to write a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from gmm_dask.errors import FaultError, UserError
from pipeline.config.environment import VARIABLE, filled_in_where_set, variables_in

HIDDEN = "***"

# keys, at any depth of options, whose values say how and where, and not who
# fmt: off
_HARMLESS = frozenset({
    "account_name", "addressing_style", "allow_redirects", "anon", "api_version", "asynchronous", "block_size",
    "cache_check", "cache_regions", "cache_storage", "cache_type", "check_files", "client_kwargs", "compression",
    "config_kwargs", "connect_timeout", "consistency", "cores", "dashboard_address", "death_timeout",
    "default_block_size", "default_cache_type", "default_fill_cache", "encoded", "endpoint_url", "expiry_time",
    "fixed_upload_size", "host", "interface", "job_cpu", "job_mem", "listings_expiry_time", "local_directory",
    "log_directory", "max_attempts", "max_concurrency", "max_paths", "max_pool_connections", "memory",
    "memory_limit", "mode", "n_workers", "name", "namespace", "nthreads", "port", "processes", "profile", "project",
    "protocol", "queue", "read_timeout", "region", "region_name", "remote_options", "remote_protocol",
    "requester_pays", "requests_timeout", "retries", "s3", "same_names", "scheduler_kwargs", "scheduler_options",
    "shared_temp_directory", "shutdown_on_close", "signature_version", "silence_logs", "simple_links",
    "skip_instance_cache", "target_options", "target_protocol", "threads_per_worker", "timeout",
    "use_listings_cache", "use_ssl", "verify", "version_aware", "walltime", "worker_kwargs", "worker_options",
})
# fmt: on
_HARMLESS_IN_URL = frozenset({"version", "versionid", "generation", "snapshot"})
# words that file systems take in place of a token
_NO_TOKENS = frozenset({"", "anon", "browser", "cache", "cloud", "google_default"})
# variables alone, after the name of a scheme of HTTP, with punctuation between them
_VARIABLES = re.compile(rf"((Bearer|Basic|Token) )?{VARIABLE.pattern}([:/.,_-]*{VARIABLE.pattern})*", re.IGNORECASE)

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
# of a chain of file systems, such as simplecache::https://...
_CHAIN = re.compile(r"::(?=[a-z][a-z0-9+.-]*(?:::|://))", re.IGNORECASE)
# in a text; a full stop or a quote at the end belongs to the sentence
_URL_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://\S*[^\s.,:;)\]}'\"]", re.IGNORECASE)
# where ?, # and ; may be characters of a path
_FILE_SCHEMES = frozenset({"abfs", "abfss", "adl", "az", "file", "gcs", "gs", "hdfs", "local", "memory", "s3", "s3a"})
# CONTAINER@ACCOUNT
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "adl", "az"})
# where a value was hidden
_WITHOUT = re.compile(r"^\*\*\*$|://\*\*\*@|=\*\*\*([&;#]|$)")
# a shorter secret is replaced in a text only where it stands alone
_LONG = 4
# sections of a configuration in which no secret belongs, and the keys that hold options
_WITHOUT_SECRETS = frozenset({"name", "output", "refresh", "schedule", "search", "tasks"})
_OPTIONS = (["storage_options"], ["kwargs"])
# fmt: off
# keys of data, whose values are shown as they are alone; and of the steps of its transform
IN_DATA = frozenset({
    "by", "cache", "chunk_rows", "columns", "dataset", "feature_dims", "filter", "missing", "missing_chunks", "scale",
    "source", "storage_options", "transform", "variables", "version", "weights",
})
IN_TRANSFORM = frozenset({
    "arcsinh", "clip", "cofactor", "columns", "log", "log1p", "logit", "maximum", "method", "minimum", "n_components",
    "pca", "prefix", "scale", "whiten",
})
# fmt: on


# -- values of a configuration -----------------------------------------------------------------------------------


def shown(value: Any) -> Any:
    """Return options, or a path or URL, with ``***`` for all that may be secrets."""
    return _shown(value, True, [])


def shown_at(key: str, value: Any) -> Any:
    """Return what is found at a key of a configuration, such as ``data.source``, and may be wrong in any way."""
    section, *path = key.split(".")
    if section in _WITHOUT_SECRETS:
        return value
    if section == "data" and not path and isinstance(value, Mapping):
        return {
            name: shown_at(f"data.{name}", inner) if name in IN_DATA else _shown(inner, False, [])
            for name, inner in value.items()
        }
    if section == "data" and path[:1] == ["transform"]:
        is_harmless = all(name.isdigit() or name in IN_TRANSFORM for name in path[1:])
        return _shown_of_transform(value, path[-1], is_harmless)
    if path[:1] not in _OPTIONS:
        return shown(value)
    is_harmless = all(map(_is_harmless, path[1:])) if path[1:] else isinstance(value, Mapping)
    return _shown(value, is_harmless, [])


def _shown_of_transform(value: Any, key: str, is_harmless: bool) -> Any:
    """Return what is found at a key within ``data.transform``: the values of the keys that steps have."""
    if isinstance(value, Mapping):
        # the numbers of a cofactor are by column
        return {
            name: _shown_of_transform(
                inner,
                name,
                is_harmless and (name in IN_TRANSFORM or (key == "cofactor" and isinstance(inner, int | float))),
            )
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_shown_of_transform(inner, key, is_harmless) for inner in value]
    return _shown(value, is_harmless, [])


def literals(value: Any, key: str) -> Iterator[str]:
    """Yield the keys of options, or the key of a URL, in which what may be a secret is written out."""
    if not isinstance(value, Mapping):
        yield from [key] if _hidden_in(value) else []
        return
    for name, inner in value.items():
        within = f"{key}.{name}"
        if _is_harmless(name):
            yield from literals(inner, within)
        elif _hidden_in({name: inner}):
            yield within


def _hidden_in(value: Any) -> list[str]:
    """Return the texts that are hidden where a value is shown."""
    hidden: list[str] = []
    _shown(value, True, hidden)
    return hidden


def _is_harmless(name: Any) -> bool:
    return str(name) in _HARMLESS


def _is_no_token(name: Any, value: Any) -> bool:
    return name == "token" and isinstance(value, str) and value in _NO_TOKENS


def _shown(value: Any, is_harmless: bool, hidden: list[str]) -> Any:
    """Return a value with ``***`` for what may be secrets, which is added to ``hidden``."""
    if isinstance(value, Mapping):
        return {
            name: _shown(inner, is_harmless and (_is_harmless(name) or _is_no_token(name, inner)), hidden)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_shown(inner, is_harmless, hidden) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if is_harmless:
        return _shown_url(value, hidden) if isinstance(value, str) else value
    return _unless_variable(str(value), hidden)


def _unless_variable(text: str, hidden: list[str]) -> str:
    if not text or _VARIABLES.fullmatch(text):
        return text
    hidden.append(text)
    return HIDDEN


def require_known(value: Any, key: str) -> None:
    """Raise :class:`UserError` if ``***`` of a stored or sent configuration stands where the value is needed."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            require_known(inner, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for inner in value:
            require_known(inner, key)
    elif isinstance(value, str) and _WITHOUT.search(value):
        raise UserError(
            f"{key}: {HIDDEN} stands for a value that was not stored, as it may be a secret. Give it again, as a "
            f"variable of the environment: '{key}=${{NAME}}' (--set, or the configuration)."
        )


# -- URLs --------------------------------------------------------------------------------------------------------


def _shown_url(text: str, hidden: list[str]) -> str:
    return "::".join(_shown_link(part, hidden) for part in _CHAIN.split(text))


def _shown_link(text: str, hidden: list[str]) -> str:
    """Return one URL of a chain; a path as it is."""
    match = _URL.fullmatch(text)
    if match is None:
        return text
    scheme = match["scheme"].lower()
    user, at, rest = _cut_user(match["rest"])
    if at and not (scheme in _CONTAINER_SCHEMES and ":" not in user):
        user = _unless_variable(user, hidden)
    path, *parameters = re.split(r"([?&;#])", rest)
    pairs = zip(parameters[::2], parameters[1::2], strict=True)
    tail = "".join(mark + _shown_parameter(text, scheme in _FILE_SCHEMES, hidden) for mark, text in pairs)
    return f"{match['scheme']}://{user}{at}{path}{tail}"


def _cut_user(rest: str) -> tuple[str, str, str]:
    """Cut a URL after the scheme into user and password, ``@``, and the rest; a password may hold ``/?#@`` itself."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        end = authority.rindex("@")
    elif re.search(r":(?!\d*$)", re.sub(r"\[.*\]", "", authority)):
        end = rest.rfind("@")
        if end < 0:
            return authority, "@", rest[len(authority) :]
    else:
        return "", "", rest
    return rest[:end], "@", rest[end + 1 :]


def _shown_parameter(text: str, of_files: bool, hidden: list[str]) -> str:
    name, equals, value = text.partition("=")
    if of_files and not (equals and name.isidentifier()):
        return text
    if not equals:
        return _unless_variable(text, hidden)
    return text if name.lower() in _HARMLESS_IN_URL else f"{name}={_unless_variable(value, hidden)}"


# -- texts -------------------------------------------------------------------------------------------------------


def hide(text: str, *origins: Any) -> str:
    """Return a text, such as a library's error, without what may be secrets.

    Parameters
    ----------
    text : str
    *origins : str or mapping
        URLs and options of the configuration: what they hide is replaced, and the values of their variables by
        ``${NAME}``. In any other URL, what may be a secret is hidden.
    """
    remote = [origin for origin in origins if not isinstance(origin, str) or "://" in origin]
    replaced: dict[str, str] = {}
    for origin in remote:
        for name, value in variables_in(origin):
            replaced |= dict.fromkeys(_spellings(value), f"${{{name}}}")
        for secret in _hidden_in(origin):
            replaced |= {form: HIDDEN for part in _parts(secret) for form in _spellings(part)}
    for form in sorted(filter(None, replaced), key=len, reverse=True):
        text = _replaced(text, form, replaced[form])
    return shown_text(text)


def shown_text(text: str) -> str:
    """Return a text in which URLs have ``***`` for what may be secrets."""
    return _URL_IN_TEXT.sub(lambda match: str(shown(match.group())), text)


def _replaced(text: str, secret: str, by: str) -> str:
    if len(secret) >= _LONG:
        return text.replace(secret, by)
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", lambda _: by, text)


def _parts(secret: str) -> Iterator[str]:
    """Yield a secret with its variables filled in, and its words between them, which an error may show alone."""
    yield filled_in_where_set(secret)
    for inner in _hidden_in(secret):
        yield from _parts(inner)
    yield from (word for word in re.split(r"[\s:]", VARIABLE.sub(" ", secret)) if len(word) >= _LONG)


def _spellings(value: str) -> set[str]:
    """Return the ways in which a library may write a value."""
    written = {value, repr(value)[1:-1], json.dumps(value)[1:-1]}
    return written | {quote(value), quote(value, ""), quote_plus(value), unquote(value)}


@contextmanager
def secrets_hidden(*origins: Any) -> Iterator[None]:
    """Raise an error in place of one that has secrets in its message or in that of a cause.

    Parameters
    ----------
    *origins : str or mapping
        As of :func:`hide`.
    """
    try:
        yield
    except Exception as error:
        if all(hide(text, *origins) == text for text in map(str, _with_causes(error))):
            raise
        if isinstance(error, UserError):
            raise UserError(hide(str(error), *origins)) from None
        name = "" if isinstance(error, FaultError) else f"{type(error).__name__}: "
        raise FaultError(hide(f"{name}{error}", *origins)) from None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that a traceback shows with it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
