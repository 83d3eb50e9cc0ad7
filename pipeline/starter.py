"""A first configuration for data, from their header: complete, with comments, to be edited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gmm_dask.errors import UserError
from gmm_dask.formatting import counted
from pipeline.config.job import JobConfig, validated
from pipeline.config.yaml_file import Document, to_yaml
from pipeline.fit.chunking import open_job
from pipeline.sources import propose_grid
from pipeline.store.arrays import writing

# names of columns that number the rows, in whole or as the last word: id, row_id, passengerId
_IDENTIFIER = re.compile(r"(?i:(^|_)(id|ids|key|uuid|index|rownames)$)|[a-z](ID|Id)$|^Unnamed: 0$")

_TEMPLATE = """\
# A job of gmm-dask for {shown}: {size}.
# Check it: gmm-dask validate {file}. Run it: gmm-dask run {file}. All keys: gmm-dask schema --markdown.
name: {name}
{data}\
  missing: error      # or drop: leave out rows with missing values
  scale: none         # or standard: fit standardized columns; data.transform has logarithms, PCA and more
search:
  n_components: {{min: 1, max: 9}}
  covariance_types: [full, tied, diag, spherical]
  criterion: bic      # or aic, icl, held_out
  extend: false       # true: extend the grid while the best candidate is at its end
  random_state: 0
cluster:
  memory_limit: 1GiB
output:
  store: results/{{name}}.zarr
  labels: true
  log_density: false
  anomaly_quantile: null    # such as 0.001: mark the least likely rows
  report: true
"""


def write_starter(data: str, out: Path | None, overrides: Sequence[str] = ()) -> Path:
    """Write a first configuration to a new file.

    Parameters
    ----------
    data : str
        As ``data.source``.
    out : Path or None
        The file; None for the name of the data, with the ending ``.yaml``, in the current directory.
    overrides : sequence of str
        Values of the section ``data`` that opening the data takes, such as ``data.dataset=/rows``.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        If the data cannot be opened, or the file exists.
    """
    file = out or default_file(data)
    text = starter(data, str(file), overrides)
    with writing(file, key="", resumes=False):
        try:
            with file.open("x", encoding="utf-8") as written:
                written.write(text)
        except FileExistsError:
            raise UserError(f"{file} exists and is left as it is. Remove it, or choose another file with -o.") from None
    return file


def default_file(data: str) -> Path:
    """Return the file of a first configuration: named by the data, in the current directory."""
    return Path(f"{_name(data)}.yaml")


def starter(data: str, file: str, overrides: Sequence[str] = ()) -> str:
    """Return a first configuration as text; ``file`` is its name in the comments."""
    document = Document({"data": {"source": data}}).with_overrides(overrides)
    job = validated(document, "of the data")
    proposal = propose_grid(job.data)
    if proposal is not None:
        document = document.with_values(proposal.values, "")
        job = validated(document, "of the data")
    source = open_job(job)
    left_out = (
        [] if job.data.columns or job.data.variables else [name for name in source.columns if _IDENTIFIER.search(name)]
    )
    columns = [name for name in source.columns if name not in left_out] or list(source.columns)
    rows = "rows that only a read counts" if source.n_rows is None else counted(source.n_rows, "row")
    notes = [*([] if proposal is None else proposal.notes), *source.notes]
    notes += [f"left out, as its name is that of an identifier: {name}" for name in left_out]
    return _TEMPLATE.format(
        shown=job.data.shown,
        size=f"{rows}, {len(source.columns)} numeric columns",
        file=file,
        name=_name(data),
        data=_section(job, document.values["data"], columns, notes),
    )


def _section(job: JobConfig, values: dict[str, Any], columns: list[str], notes: list[str]) -> str:
    """Return the section ``data``, with notes as comments."""
    given = {name: value for name, value in values.items() if name not in ("missing", "scale")}
    chosen = {} if job.data.variables else {"columns": columns}
    text = to_yaml({"data": {**given, **chosen}})
    comments = "".join(f"  # {' '.join(note.split())}\n" for note in notes)
    return text + comments


def _name(data: str) -> str:
    """Return the name of a job for data: that of the file or folder, in the characters of a name."""
    stem = PurePosixPath(data.rstrip("/").partition("?")[0]).stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")
    return name or "job"
