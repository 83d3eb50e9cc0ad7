"""Zarr's store of a place on an object store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore

from pipeline.store.places.base import METADATA
from pipeline.store.places.objects.requests import requests

if TYPE_CHECKING:
    from pipeline.store.places.objects.place import ObjectPlace


class ZarrStore(ObjectStore[Any]):
    """Zarr's store of a place: writes as long as the run holds its lease, and with errors for the user.

    It lives as long as a few arrays are read or written. Meanwhile it asks for no metadata twice, and not for what was
    absent when it emptied a folder, as only the run that holds the lease writes there.
    """

    def __init__(self, store: Any, *, place: ObjectPlace, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._place = place
        self._kept: dict[str, bytes] = {}
        self._written: dict[str, set[str]] = {}

    def with_read_only(self, read_only: bool = False) -> ZarrStore:
        return ZarrStore(self.store, place=self._place, read_only=read_only)

    def stored_bytes(self, key: str) -> int:
        """Return the bytes of an object, which the next read of it takes from here."""
        self._kept[key] = self._place.read(key)
        return len(self._kept[key])

    # -- reading ---------------------------------------------------------------------------------------------
    def _is_there(self, key: str) -> bool | None:
        """Whether an object is there; None if that is not known without a request."""
        if key in self._kept:
            return True
        found = [key in written for folder, written in self._written.items() if key.startswith(folder)]
        return all(found) if found else None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if self._is_there(key) is False:
            return None
        if byte_range is None and key in self._kept:
            is_metadata = key.endswith(METADATA)
            return prototype.buffer.from_bytes(self._kept[key] if is_metadata else self._kept.pop(key))
        with requests(self._place.path):
            found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None and key.endswith(METADATA):
            self._kept[key] = found.to_bytes()
        return found

    async def exists(self, key: str) -> bool:
        known = self._is_there(key)
        if known is not None:
            return known
        with requests(self._place.path):
            return await super().exists(key)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        with requests(self._place.path):
            async for name in super().list_dir(prefix):
                yield name

    # -- writing ---------------------------------------------------------------------------------------------
    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._place.require_lease()
        with requests(self._place.path, "write"):
            yield

    async def set(self, key: str, value: Any) -> None:
        with self._writing():
            await super().set(key, value)
        if key.endswith(METADATA):
            self._kept[key] = value.to_bytes()
        for written in self._written.values():
            written.add(key)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        self._kept.pop(key, None)
        with self._writing():
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        folder = f"{prefix.rstrip('/')}/"
        self._kept = {key: data for key, data in self._kept.items() if not key.startswith(folder)}
        with self._writing():
            await super().delete_dir(prefix)
        self._written[folder] = set()
