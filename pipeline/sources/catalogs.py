"""Tables of Iceberg by their names in a catalogue: ``iceberg://CATALOG/NAMESPACE.TABLE``."""

from __future__ import annotations

from typing import Any

from gmm_dask.errors import UserError
from pipeline.config.secrets import hide
from pipeline.sources.retries import UnreachableError

CATALOG_SCHEME = "iceberg://"
# the properties of a catalogue for S3, and the options of fsspec's file system that say the same
_S3_PROPERTIES = {
    "s3.endpoint": "endpoint_url",
    "s3.access-key-id": "key",
    "s3.secret-access-key": "secret",
    "s3.session-token": "token",
    "s3.region": "region_name",
}
# the same of all services, which count where there is none of S3
_OF_ALL_SERVICES = {name: name.replace("s3.", "client.") for name in _S3_PROPERTIES if name != "s3.endpoint"}
# options that say who reads: whoever sets one sets them all
_WHO = frozenset({"key", "secret", "token", "anon", "profile"})


def require_pyiceberg() -> None:
    """Raise :class:`UserError` if the package that reads Iceberg tables is not installed."""
    try:
        import pyiceberg  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "data.source: Iceberg tables need the package pyiceberg, which is not installed: pip install "
            '"gmm-dask[iceberg]".'
        ) from None


def metadata_in_catalog(source: str, shown: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the location of the newest metadata file of a table in a catalogue, and its options for the file system.

    Parameters
    ----------
    source : str
        Name of the catalogue, as pyiceberg's configuration has it, and of the table.
    shown : str
        The same for messages.
    options : dict
        Of fsspec's file system, which count where the catalogue has others.

    Raises
    ------
    UserError
        If the catalogue is not configured, or has no such table.
    UnreachableError
        If it does not answer.
    """
    require_pyiceberg()
    from pyiceberg.catalog import load_catalog
    from pyiceberg.exceptions import NoSuchTableError, NotInstalledError
    from pyiceberg.utils.config import Config

    catalog, _, name = source.removeprefix(CATALOG_SCHEME).partition("/")
    if not catalog or "." not in name:
        raise UserError(f"data.source: expected {CATALOG_SCHEME}CATALOG/NAMESPACE.TABLE; got {shown}.")
    # as it is now: pyiceberg reads it once, when it is imported
    configured: dict[str, Any] = Config().get_catalog_config(catalog) or {}
    flat = {**options, **options.get("client_kwargs", {})}
    given = {name: str(flat[option]) for name, option in _S3_PROPERTIES.items() if flat.get(option)}
    # the file systems that read the data, too, and find what the environment says in the same way
    properties = {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO", **configured, **given}
    try:
        with load_catalog(catalog, **properties) as opened:  # one of SQL holds connections
            table = opened.load_table(name)
            # those of the configuration, and what the catalogue hands out with the table, which counts more
            location, told = str(table.metadata_location), dict(table.io.properties)
    except NoSuchTableError:
        raise UserError(f"data.source: the catalogue {catalog} has no table {name}. Correct the name.") from None
    except (ValueError, NotInstalledError) as error:
        raise UserError(
            f"data.source: cannot open the catalogue {catalog}: {_words(error, properties)}. Configure it in "
            f"~/.pyiceberg.yaml, or by variables such as PYICEBERG_CATALOG__{catalog.upper()}__URI."
        ) from None
    except Exception as error:  # each kind of catalogue has its own errors
        raise UnreachableError(
            f"data.source: the catalogue {catalog} does not give the table {name}: {_words(error, properties)}. Check "
            "its address and its credentials."
        ) from None
    is_on_s3 = location.startswith(("s3://", "s3a://"))
    told = {name: told.get(name) or told.get(_OF_ALL_SERVICES.get(name, "")) for name in _S3_PROPERTIES}
    set_by_user = {*flat, *(_WHO if _WHO & flat.keys() else ())}
    added = {
        option: told[name]
        for name, option in _S3_PROPERTIES.items()
        if is_on_s3 and told[name] and option not in set_by_user
    }
    if "region_name" in added:
        added["client_kwargs"] = {**options.get("client_kwargs", {}), "region_name": added.pop("region_name")}
    return location, added


def _words(error: Exception, properties: dict[str, Any]) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return hide(words, properties).rstrip(".")
