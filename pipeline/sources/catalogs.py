"""Tables of Iceberg by their names in a catalogue: ``iceberg://CATALOG/NAMESPACE.TABLE``."""

from __future__ import annotations

from typing import Any

from gmm_dask.errors import UserError
from pipeline.sources.patience import UnreachableError

CATALOG_SCHEME = "iceberg://"


def require_pyiceberg() -> None:
    """Raise :class:`UserError` if the package that reads Iceberg tables is not installed."""
    try:
        import pyiceberg  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "data.source: Iceberg tables need the package pyiceberg, which is not installed: pip install "
            '"gmm-dask[iceberg]".'
        ) from None


def metadata_in_catalog(source: str, shown: str) -> str:
    """Return the location of the newest metadata file of a table in a catalogue.

    Parameters
    ----------
    source : str
        Name of the catalogue, as pyiceberg's configuration has it, and of the table.
    shown : str
        The same for messages.

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
    try:
        with load_catalog(catalog, **configured) as opened:  # one of SQL holds connections
            return str(opened.load_table(name).metadata_location)
    except NoSuchTableError:
        raise UserError(f"data.source: the catalogue {catalog} has no table {name}. Correct the name.") from None
    except (ValueError, NotInstalledError) as error:
        raise UserError(
            f"data.source: cannot open the catalogue {catalog}: {_words(error)}. Configure it in ~/.pyiceberg.yaml, or "
            f"by variables such as PYICEBERG_CATALOG__{catalog.upper()}__URI."
        ) from None
    except Exception as error:  # each kind of catalogue has its own errors
        raise UnreachableError(
            f"data.source: the catalogue {catalog} does not give the table {name}: {_words(error)}. Check its address "
            "and its credentials."
        ) from None


def _words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
