"""A loss of power: what was not synchronized is empty afterwards, as on file systems that write contents late."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class Power:
    """Records which files are on the disk, by their inodes, while ``monkeypatch`` holds."""

    def __init__(self, monkeypatch):
        self._on_disk, fsync = set(), os.fsync

        def recording(descriptor):
            self._on_disk.add(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", recording)

    def lost(self, path, copy):
        """Copy a folder as a loss of power leaves it; returns the copy."""
        shutil.copytree(path, copy)
        for file in Path(path).rglob("*"):
            if file.is_file() and file.stat().st_ino not in self._on_disk:
                copy.joinpath(file.relative_to(path)).write_bytes(b"")
        return copy
