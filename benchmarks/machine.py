"""What a measurement was made on, and how much memory a process has held."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path


def describe_machine() -> str:
    """Date, processor and number of cores."""
    processor = _found(r"model name\s*: (.*)", "/proc/cpuinfo") or platform.processor() or platform.machine()
    return f"{datetime.now(UTC):%Y-%m-%d}, {processor}, {os.cpu_count()} cores"


def peak_mib() -> float:
    """The most memory that was resident in this process; unlike getrusage's figure, never its parent's."""
    found = _found(r"VmHWM:\s+(\d+)", "/proc/self/status")
    return int(found) / 1024 if found else float("nan")


def _found(pattern: str, file: str) -> str:
    path = Path(file)
    match = re.search(pattern, path.read_text()) if path.exists() else None
    return match.group(1) if match else ""
