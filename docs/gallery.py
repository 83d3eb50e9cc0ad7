"""Write the reports that the documentation shows, by running their jobs: ``python docs/gallery.py``.

They go to ``docs/_build/extra/gallery``, which the site takes over.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipeline.config.job import load_config
from pipeline.fit.job import run

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs/_build/extra/gallery"
QUICKSTART = ROOT / "configs/quickstart.yaml"
JOBS = {
    "old-faithful": (QUICKSTART, []),
    "iris": (
        QUICKSTART,
        ["name=iris", "data.columns=null", f"data.source={ROOT / 'tests/data/iris.csv'}", "search.reg_covar=auto"],
    ),
    "blobs": (ROOT / "configs/blobs.yaml", []),
}


def main() -> None:
    """Run the jobs whose reports are not there."""
    for name, (config, overrides) in JOBS.items():
        if (GALLERY / name).exists():
            continue
        print(f"running the job of the report {name}")
        with tempfile.TemporaryDirectory() as folder:
            summary = run(load_config(config, [*overrides, f"output.store={folder}/{name}.zarr"]))
            shutil.copytree(summary.report, GALLERY / name)


if __name__ == "__main__":
    main()
