"""Where things lie in this project."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
