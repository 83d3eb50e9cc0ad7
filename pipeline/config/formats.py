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
        What a path ends in; capital letters count as small ones. None of a table, whose folder has a log.
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
    has_filter : bool
        Whether a condition may choose among the rows, see ``data.filter``.
    has_versions : bool
        Whether ``data.version`` may name an earlier state of the data.
    log : str
        Of a table that is a folder: the folder or the files within it that hold its log, as a glob.
    variables : str or None
        The function that finds variables with named dimensions, where there may be some, see ``data.variables``.
    joins_files : bool
        Whether a glob may match several files of a grid, which are joined along a dimension.
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
    has_filter: bool = False
    has_versions: bool = False
    log: str = ""
    variables: str | None = None
    joins_files: bool = False
    key_opener: str | None = None

    @property
    def has_grids(self) -> bool:
        """Whether it may hold variables on a grid."""
        return self.variables is not None

    @property
    def is_store(self) -> bool:
        """Whether it is a folder of many files that make one data set."""
        return bool(self.metadata)

    @property
    def description(self) -> str:
        """The endings, and what such a path may hold."""
        if not self.endings:
            return self.layout
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
    layout="an array, or a group with one array per column or variable",
    chunking="whole storage chunks, or parts of one that is too large",
    metadata=frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}),
    missing_chunks=True,
    variables="pipeline.sources.formats.zarr_grids:find_variables",
)
PARQUET = Format(
    "parquet",
    "Parquet",
    (".parquet", ".parq", ".pq"),
    "pipeline.sources.formats.parquet:open_parquet",
    layout="a file, a folder of files or a glob",
    chunking="whole row groups, and none spans two files",
    has_filter=True,
    key_opener="pipeline.sources.formats.parquet:open_keys",
)
DELTA = Format(
    "delta",
    "Delta",
    (),
    "pipeline.sources.formats.delta:open_delta",
    layout="the folder of a Delta table",
    chunking=PARQUET.chunking,
    has_filter=True,
    has_versions=True,
    log="_delta_log",
    key_opener=PARQUET.key_opener,
)
ICEBERG = Format(
    "iceberg",
    "Iceberg",
    (".metadata.json",),
    "pipeline.sources.formats.iceberg:open_iceberg",
    layout="of an Iceberg table, or its folder, or iceberg://CATALOG/NAMESPACE.TABLE",
    chunking=PARQUET.chunking,
    has_filter=True,
    has_versions=True,
    log="metadata/*.metadata.json",
    key_opener=PARQUET.key_opener,
)
HDF5 = Format(
    "hdf5",
    "HDF5",
    (".h5", ".hdf5", ".nc", ".nc4"),
    "pipeline.sources.formats.hdf5:open_hdf5",
    layout="netCDF-4 is HDF5; of a grid, a glob of files, too",
    chunking="whole storage chunks, or parts of one that is too large",
    has_datasets=True,
    variables="pipeline.sources.formats.hdf5_grids:find_variables",
    joins_files=True,
)
FORMATS = (CSV, NPY, ZARR, PARQUET, DELTA, ICEBERG, HDF5)
ENDINGS = tuple(ending for each in FORMATS for ending in each.endings)
# of a folder or a glob
MANY_FILES = PARQUET


def format_of(path: str) -> Format | None:
    """Return the format that a path's ending tells, or the store that it goes into; None if there is none."""
    parts = PurePosixPath(path).parts
    within = (each for each in FORMATS if each.is_store and any(part.endswith(each.endings) for part in parts))
    name = PurePosixPath(path).name.lower()
    found = (each for each in FORMATS if name.endswith(each.endings) and name not in each.endings)
    return next(within, None) or next(found, None)


def having(feature: str) -> str:
    """Return the labels of the formats that have a feature, such as ``"HDF5"`` for ``has_datasets``."""
    return ", ".join(each.label for each in FORMATS if getattr(each, feature))


def chunking() -> str:
    """Return what becomes of ``data.chunk_rows`` in each format, for its description."""
    texts = dict.fromkeys(each.chunking for each in FORMATS if each.chunking)
    return "; ".join(f"{', '.join(each.label for each in FORMATS if each.chunking == text)}: {text}" for text in texts)
