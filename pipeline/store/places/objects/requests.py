"""Requests of an object store: with credentials from the environment, repeated, and with errors for the user."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from io import RawIOBase
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import from_url

from gmm_dask.errors import FaultError, UserError
from pipeline.config.secrets import shown_text

# how often a request is made again that failed for the moment: half a minute long where nobody answers
RETRIES, PAUSE_SECONDS, RETRY_SECONDS = 25, 5, 120
# of an open file, the least that is requested
READ_BYTES = 1 << 16

_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>|\"message\": *\"(.*?)\"", re.DOTALL)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
# where credentials are looked for last
_NO_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google|[Mm]issing ?[Aa]ccount|Account must be specified")
_CREDENTIALS = (
    "Give credentials in the environment: for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL "
    "for other servers than Amazon's), for gs:// GOOGLE_APPLICATION_CREDENTIALS, for az:// AZURE_STORAGE_ACCOUNT_NAME "
    "and AZURE_STORAGE_ACCOUNT_KEY"
)


def connect(url: str) -> Any:
    """Return the object store below a URL, with credentials from the environment."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT)))
    with requests(url):
        return _connect(url, environment)


@lru_cache(maxsize=64)
def _connect(url: str, environment: tuple[tuple[str, str], ...]) -> Any:
    is_plain = any(name.startswith("AWS_ENDPOINT") and value.startswith("http://") for name, value in environment)
    return from_url(
        url,
        client_options={"allow_http": True} if is_plain else None,
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {"max_backoff": timedelta(seconds=PAUSE_SECONDS)},
        },
        **(_found_by_botocore() if url.startswith("s3://") else {}),
    )


def _found_by_botocore() -> dict[str, Any]:
    """Return credentials and region of S3 from where sources have theirs: the environment, ~/.aws, the machine's role.

    Nothing, without botocore or where it finds none: obstore then looks for others.
    """
    try:
        from botocore.session import get_session
    except ImportError:
        return {}
    session = get_session()
    region = session.get_config_variable("region")
    found = {"region": region} if region else {}
    return found | ({"credential_provider": _aws_credentials} if session.get_credentials() else {})


def _aws_credentials() -> dict[str, Any]:
    """Return credentials for some minutes; botocore renews those that expire."""
    from botocore.session import get_session

    found = get_session().get_credentials().get_frozen_credentials()
    return {
        "access_key_id": found.access_key,
        "secret_access_key": found.secret_key,
        "token": found.token,
        "expires_at": datetime.now(UTC) + timedelta(minutes=10),
    }


@contextmanager
def requests(path: str, doing: str = "read") -> Iterator[None]:
    """Turn errors of an object store into messages for the user; an object that is not there to be read passes.

    Raises
    ------
    UserError
        If there is no such bucket, or it refuses.
    FaultError
        If it does not answer.
    FileNotFoundError
    """
    try:
        yield
    except FileNotFoundError as error:
        if doing == "read" and not _NO_BUCKET.search(str(error)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename or path) from None
        raise _explained(path, doing, error) from None
    except (exceptions.BaseError, PermissionError) as error:
        raise _explained(path, doing, error) from None


@contextmanager
def missing_ignored() -> Iterator[None]:
    """Some object stores say that what is to be deleted is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)):
            raise


def _explained(path: str, doing: str, error: Exception) -> Exception:
    text = str(error)
    message = _MESSAGE.search(text)
    words = next(filter(None, message.groups())) if message else text.split("\n")[0].rpartition(" - ")[2]
    what = f"cannot {doing} {path}: {shown_text(' '.join(words.split())).rstrip('.')}."
    if isinstance(error, FileNotFoundError) or _NO_BUCKET.search(text):
        bucket = path.split("/")[2]
        return UserError(f"cannot {doing} {path}: there is no bucket {bucket}. Make it, or correct the URL.")
    if _NO_CREDENTIALS.search(text):
        return UserError(f"cannot {doing} {path}: there are no credentials. {_CREDENTIALS}.")
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError | PermissionError):
        return UserError(f"{what} {_CREDENTIALS}, of somebody who may {doing} there.")
    return FaultError(
        f"{what} Check the network and the address (of S3, AWS_ENDPOINT_URL), then run the same command again; a run "
        "resumes from what is written."
    )


class StoredObject:
    """An object that is written on condition that it is as it was."""

    def __init__(self, path: str) -> None:
        self.path = path
        folder, _, self._name = path.rpartition("/")
        self._store = connect(folder)

    def read(self) -> tuple[bytes, Any] | None:
        """Return what is stored, and its version; None if nothing is."""
        try:
            with requests(self.path):
                found = obstore.get(self._store, self._name)
                return bytes(found.bytes()), _version(found.meta)
        except FileNotFoundError:
            return None

    def write(self, data: bytes, version: Any) -> Any:
        """Write if the version is still this one, or, for None, nothing is there; returns the new one, or None."""
        with requests(self.path, "write"):
            try:
                return _version(obstore.put(self._store, self._name, data, mode=version or "create"))
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                pass
        # where an answer was lost, a request that is made again meets what it wrote itself
        found = self.read()
        return found[1] if found and found[0] == data else None

    def require_conditions(self) -> None:
        """Raise :class:`UserError` if the store writes whatever the condition: it could not keep two runs apart."""
        if self.write(b"{}", None) is not None:
            raise UserError(
                f"{self.path}: this object store has no conditional writes (If-None-Match), without which two runs "
                "could write one result. Choose another output.store."
            )


def _version(found: Any) -> dict[str, Any]:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


class ObjectFile(RawIOBase):
    """An object as a file, of which only the parts are requested that are read."""

    def __init__(self, path: str) -> None:
        self._path = path
        folder, _, self._name = path.rpartition("/")
        self._store = connect(folder)
        with requests(path):
            self._size = int(obstore.head(self._store, self._name)["size"])
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, target: Any) -> int:
        stop = min(self._position + len(target), self._size)
        if stop <= self._position:
            return 0
        with requests(self._path):
            found = obstore.get_range(self._store, self._name, start=self._position, end=stop)
        target[: len(found)] = found
        self._position += len(found)
        return len(found)
