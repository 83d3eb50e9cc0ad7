"""The formats that rows are read from. A new one is a module in ``pipeline/sources`` and its value here.

Which endings are taken, the messages that list them, and the descriptions of the configuration's keys derive from
:data:`FORMATS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Format:
    """A format that rows are read from.

    Attributes
    ----------
    name : str
        As the result store holds it.
    label : str
        Its name in messages.
    endings : tuple of str
        What a path ends in.
    opener : str
        The function that opens it, as ``module:function``; imported when it is needed, since each format brings a
        library.
    layout : str
        What such a path may hold, where that needs saying.
    chunking : str
        What becomes of ``data.chunk_rows``, where it is not taken exactly.
    metadata : frozenset of str
        Of a store, which is a folder that a path may go into: the files that say what it holds.
    has_datasets : bool
        Whether a file may hold several, of which ``data.dataset`` names one.
    missing_chunks : bool
        Whether chunks may be left out, see ``data.missing_chunks``.
    key_opener : str or None
        The function that opens columns of any type, to copy them beside the rows' values.
    """

    name: str
    label: str
    endings: tuple[str, ...]
    opener: str
    layout: str = ""
    chunking: str = ""
    metadata: frozenset[str] = frozenset()
    has_datasets: bool = False
    missing_chunks: bool = False
    key_opener: str | None = None

    @property
    def is_store(self) -> bool:
        """Whether it is a folder of many files that make one data set."""
        return bool(self.metadata)

    @property
    def description(self) -> str:
        """The endings, and what such a path may hold."""
        return " or ".join(self.endings) + (f" ({self.layout})" if self.layout else "")


CSV = Format(
    "csv",
    "CSV",
    (".csv",),
    "pipeline.sources.formats.csv:open_csv",
    chunking="cut by bytes, so that the number of rows is approximate",
)
NPY = Format("npy", "NPY", (".npy",), "pipeline.sources.formats.npy:open_npy")
ZARR = Format(
    "zarr",
    "Zarr",
    (".zarr",),
    "pipeline.sources.formats.zarr:open_zarr",
    layout="an array, or a group with one array per column",
    chunking="whole storage chunks, or parts of one that is too large",
    metadata=frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}),
    missing_chunks=True,
)
PARQUET = Format(
    "parquet",
    "Parquet",
    (".parquet",),
    "pipeline.sources.formats.parquet:open_parquet",
    layout="a file, a folder of files or a glob",
    chunking="whole row groups, and none spans two files",
    key_opener="pipeline.sources.formats.parquet:open_keys",
)
HDF5 = Format(
    "hdf5",
    "HDF5",
    (".h5", ".hdf5"),
    "pipeline.sources.formats.hdf5:open_hdf5",
    chunking="whole storage chunks, or parts of one that is too large",
    has_datasets=True,
)
FORMATS = (CSV, NPY, ZARR, PARQUET, HDF5)
ENDINGS = tuple(ending for each in FORMATS for ending in each.endings)
# of a folder or a glob
MANY_FILES = PARQUET


def format_of(path: str) -> Format | None:
    """Return the format that a path's ending tells, or the store that it goes into; None if there is none."""
    parts = PurePosixPath(path).parts
    within = (each for each in FORMATS if each.is_store and any(part.endswith(each.endings) for part in parts))
    ending = PurePosixPath(path).suffix
    return next(within, None) or next((each for each in FORMATS if ending in each.endings), None)


def having(feature: str) -> str:
    """Return the labels of the formats that have a feature, such as ``"HDF5"`` for ``has_datasets``."""
    return ", ".join(each.label for each in FORMATS if getattr(each, feature))


def chunking() -> str:
    """Return what becomes of ``data.chunk_rows`` in each format, for its description."""
    texts = dict.fromkeys(each.chunking for each in FORMATS if each.chunking)
    return "; ".join(f"{', '.join(each.label for each in FORMATS if each.chunking == text)}: {text}" for text in texts)
