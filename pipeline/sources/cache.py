"""The cache of a run: the rows of a source that is slow to read, decoded by the first pass, for those that follow.

A chunk is a file of its own, which its task writes and reads. The cache lasts as long as the run: one that a killed run
left may be damaged, and the next run removes it.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from dask.base import tokenize
from dask.utils import format_bytes

from gmm_dask.errors import UserError
from pipeline.config.formats import CSV
from pipeline.config.job import JobConfig
from pipeline.sources.base import Block, Chunks, ReadCount, Source
from pipeline.sources.overlap import require_apart
from pipeline.sources.rows import fits_in_memory

# a folder with this file is a cache
_MARK = ".gmm-dask-cache"
# of the free space, what an automatic cache takes at most
SHARE = 0.5


def cache_folder(config: JobConfig) -> Path:
    """Where the cache of a run is: in the folder that the configuration names, or beside its result.

    For a result on an object store, it is in the folder for temporary files.
    """
    store = config.output.store
    name, parent = posixpath.basename(store), Path(store).parent
    if "://" in store:
        name, parent = f"{name}-{tokenize(store)[:12]}", Path(tempfile.gettempdir())
    if config.data.cache not in ("auto", "none"):
        parent = Path(config.data.cache)
    return parent / f"{name}-cache"


@dataclass(frozen=True)
class CacheChoice:
    """Whether a run caches its rows, and why.

    Attributes
    ----------
    n_bytes : int
        What the cache may take; 0 without one.
    reason : str
        Empty if there is nothing to tell.
    folder : Path
        Where the cache is, if the run has one.
    """

    n_bytes: int
    reason: str
    folder: Path

    @property
    def text(self) -> str:
        """What a user should know; empty if nothing."""
        if self.n_bytes:
            size = format_bytes(self.n_bytes)
            return f"{self.folder} keeps the rows until the run ends, up to {size}: {self.reason}"
        return self.reason and f"each pass reads the data anew: {self.reason}"


def choose_by_kind(config: JobConfig, source: Source) -> CacheChoice | None:
    """Whether a run caches its rows, as far as the configuration and the header of the data tell.

    None if a cache is allowed, and the data are of no kind that is slow to read: their reads must be timed.
    """
    folder, needed, slow = cache_folder(config), cache_bytes(source), _why_slow(source)
    none = CacheChoice(0, "", folder)
    if config.data.cache == "none" or fits_in_memory(source):
        return none
    if config.data.cache != "auto":
        return CacheChoice(needed, "data.cache names the folder", folder)
    if config.cluster.kind not in ("threads", "local"):
        why = f"{slow}, but the workers may see no disk in common; if they do, data.cache can name a folder on it"
        return replace(none, reason=why) if slow else none
    if needed > SHARE * _free_bytes(folder):
        why = f"{slow}, but a cache would take more than {SHARE:.0%} of the free space of {folder.parent}"
        return replace(none, reason=why) if slow else none
    return CacheChoice(needed, slow, folder) if slow else None


def _why_slow(source: Source) -> str:
    """What makes a kind of source slow to read; empty if nothing does."""
    if not source.location.is_local:
        return "they come over a network"
    if source.format is CSV:
        return "they are parsed from text"
    return f"a pass would decode their storage chunks {source.decodes} times" if source.decodes > 1 else ""


def cache_bytes(source: Source) -> int:
    """Bytes of the rows of a source in a cache."""
    n_rows = source.chunk_rows * len(source.chunks.pieces) if source.n_rows is None else source.n_rows
    return n_rows * len(source.selection.fields) * source.selection.block_dtype.itemsize


def _free_bytes(folder: Path) -> int:
    found = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(found).free


@contextmanager
def caching(config: JobConfig) -> Iterator[None]:
    """Let the stages of a run have a cache (:func:`make_cache`), which is removed, as is one of a killed run."""
    folder = cache_folder(config)
    _remove(folder)
    try:
        yield
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    if _is_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a cache of this user; others may write to the folder for temporary files."""
    return (folder / _MARK).exists() and folder.stat().st_uid == os.getuid()


def make_cache(config: JobConfig) -> None:
    """Make an empty cache.

    Raises
    ------
    UserError
        If there is another folder in its place, if none can be made, or if it would lie within the data.
    """
    folder = cache_folder(config)
    require_apart(config.data.source, [folder])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700 if "://" in config.output.store else 0o777)
        (folder / _MARK).touch()
    except OSError as error:
        raise UserError(
            f"data.cache: cannot make the folder {folder}: {error.strerror}. Set data.cache to a folder on a local "
            "disk, or to none."
        ) from None


def through_cache(config: JobConfig, source: Source) -> Source:
    """The source, read through the cache of the run if that has one."""
    folder = cache_folder(config)
    if not _is_ours(folder):
        return source
    reader = CachedReader(source.chunks.reader, str(folder))
    chunks = replace(source.chunks, reader=reader)
    return replace(source, chunks=chunks, reads=_UncachedCount(chunks))


class _UncachedCount(ReadCount):
    """Counts the chunks that are not read from the cache."""

    def __init__(self, chunks: Chunks) -> None:
        super().__init__()
        self._all = chunks

    def add(self, n_chunks: int) -> None:
        """Count chunks that are read."""
        missing = sum(not self._all.reader.path_of(piece).exists() for piece in self._all.pieces)
        super().add(min(n_chunks, missing))


@dataclass(frozen=True)
class CachedReader:
    """Reads a piece from its file in a cache; one that is not there from the source, which then is written."""

    reader: Any
    folder: str

    def path_of(self, piece: Any) -> Path:
        """The file of a piece."""
        return Path(self.folder, f"{tokenize(piece)}.npy")

    def read(self, piece: Any) -> Block:
        """Return the piece's rows, (n_rows, n_fields)."""
        path = self.path_of(piece)
        with suppress(OSError):  # not there, or another user's: the source has it
            found: Block = np.load(path)
            return found
        block: Block = self.reader.read(piece)
        with suppress(OSError):  # a full disk costs time, and nothing else
            _write(path, block)
        return block

    def count_rows(self, piece: Any) -> int:
        """Return the number of rows of a piece of text."""
        with suppress(OSError):
            return len(np.load(self.path_of(piece), mmap_mode="r"))
        found: int = self.reader.count_rows(piece)
        return found


def _write(path: Path, block: Block) -> None:
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.save(file, block)
        except OSError:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)
