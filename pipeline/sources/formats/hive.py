"""Columns in the names of folders, as Hive partitions its tables: ``year=2026/month=3/part-0.parquet``."""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from pipeline.sources.location import Location

# what Hive and Spark write for a missing value
_MISSING = "__HIVE_DEFAULT_PARTITION__"

Constants = tuple[tuple[str, pa.Scalar], ...]


def partition_columns(location: Location, files: Sequence[str]) -> list[Constants]:
    """Return the columns that the folders below a path, or in a glob, tell of each file.

    A column is of whole numbers if all its values are, else of numbers, else of texts.
    """
    texts = [_texts(PurePosixPath(location.path), PurePosixPath(file)) for file in files]
    names = dict.fromkeys(name for each in texts for name in each)
    typed = {name: iter(_typed([each[name] for each in texts if name in each])) for name in names}
    return [tuple((name, next(typed[name])) for name in each) for each in texts]


def _texts(path: PurePosixPath, file: PurePosixPath) -> dict[str, str | None]:
    """Return the value that each folder of a file names; of a glob from its first part with a pattern on."""
    base = list(path.parts)
    pattern = next((i for i, part in enumerate(base) if glob.has_magic(part)), len(base))
    found: dict[str, str | None] = {}
    for part in file.parts[pattern:-1]:
        name, equals, value = part.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == _MISSING else unquote(value)
    return found


def is_number(text: str) -> bool:
    """Whether the name of a folder tells a number; Python takes 2026_01 as one, too."""
    with suppress(ValueError):
        return "_" not in text and math.isfinite(float(text))
    return False


def _typed(texts: Sequence[str | None]) -> list[pa.Scalar]:
    plain = not any(text is not None and "_" in text for text in texts)  # Python takes 2026_01 as a number
    for convert, kind in ((int, pa.int64()), (float, pa.float64())) if plain else ():
        with suppress(ValueError, OverflowError, pa.ArrowInvalid):
            values: list[Any] = [None if text is None else convert(text) for text in texts]
            return [pa.scalar(value, kind) for value in values]
    return [pa.scalar(text, pa.string()) for text in texts]
