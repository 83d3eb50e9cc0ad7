"""What a run leaves on its Prefect page: the candidates' table, its progress, the pictures, and the report in short.

Pictures are embedded, so that the page shows them wherever the browser is and the results are not.
"""

from __future__ import annotations

import base64
import contextvars
import re
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import httpx
from prefect import get_client
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
)
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import ObjectNotFound

from flows.progress import describe
from gmm_dask.selection.criteria import LABELS
from pipeline.progress import ChunksDone, Event, PassDone

if TYPE_CHECKING:
    from uuid import UUID

    from pipeline.report.summary import Summary

SECONDS_BETWEEN_UPDATES = 2.0
MOST_IMAGE_BYTES = 2**21


def key_of(name: str, kind: str) -> str:
    """The key of an artifact, which gathers the job's history: lower case, digits and dashes."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{kind}"


class ProgressArtifact:
    """A watcher that keeps a bar on the run's page: how many fits are done, and how it stands in words.

    A thread of its own tells the server, which may be slow or gone: the fit does not wait for it, and an interrupt of
    the fit does not hit a request, where it would be lost or leave a connection that the run's end waits for. At the
    end of a ``with`` block in which nothing went wrong the server has been told everything.
    """

    def __init__(self, name: str, kind: str = "progress") -> None:
        made = create_progress_artifact(0.0, key=key_of(name, kind), description="starting")
        self._id = cast("UUID", made)  # a coroutine in asynchronous callers only
        self._told = time.monotonic()
        self._news: SimpleQueue[tuple[float, str] | None] = SimpleQueue()
        # which server, and of which run, Prefect knows from the context
        tell = partial(contextvars.copy_context().run, self._tell)
        self._teller = threading.Thread(target=tell, name="progress artifact", daemon=True)

    def __enter__(self) -> ProgressArtifact:
        self._teller.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._news.put(None)
        if error is None:
            self._teller.join()

    def __call__(self, event: Event) -> None:
        """Bring the bar up to date, now and then."""
        due = time.monotonic() - self._told >= SECONDS_BETWEEN_UPDATES and self._news.empty()
        if due and isinstance(event, PassDone | ChunksDone):
            done = event.finished if isinstance(event, PassDone) else event.done
            self._news.put((100.0 * done / max(1, event.total), describe(event)))
            self._told = time.monotonic()

    def finish(self, words: str) -> None:
        """Fill the bar."""
        self._news.put((100.0, words))

    def _tell(self) -> None:
        for percent, words in iter(self._news.get, None):
            _update(self._id, percent, words)


def _update(artifact: UUID, percent: float, words: str) -> None:
    # with settings of its own the client is not the run's, which may be closed meanwhile; a server that has gone must
    # not take the fit with it: the run tells of it in the end, with its result stored
    with suppress(httpx.HTTPError, ObjectNotFound), get_client({}, sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=percent, description=words))


def publish(name: str, summary: Summary) -> None:
    """Leave the candidates' table, the picture of the criterion, and the report in short."""
    criterion = LABELS[summary.criterion]
    best = f"Best by {criterion}: **{summary.best}**. Stored in `{summary.store}`."
    create_table_artifact(_rows(summary), key=key_of(name, "candidates"), description=best)
    picture = embedded(Path(summary.report) / f"{summary.criterion}.png")
    if picture:
        kind = summary.criterion.replace("_", "-")
        create_image_artifact(picture, key=key_of(name, kind), description=f"{criterion} by candidate")
    create_markdown_artifact(_report(name, summary), key=key_of(name, "report"), description="The report in short")


def _rows(summary: Summary) -> list[dict[str, Any]]:
    columns = ["n_components", "covariance_type", "status", summary.criterion, "delta", "n_iter"]
    rows = summary.table.sort_values("delta")[columns].round(2).to_numpy(dtype=object)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _held_out(summary: Summary) -> list[str]:
    """What the rows held out say, if there are any."""
    if not summary.held_out_rows:
        return []
    return [f"{summary.held_out_log_likelihood:.4f} a row over the {summary.held_out_rows:,} rows held out."]


def embedded(path: Path) -> str | None:
    """A picture as a URL that holds it; None if there is none, or it is too large for a page."""
    if not path.is_file() or path.stat().st_size > MOST_IMAGE_BYTES:
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _report(name: str, summary: Summary) -> str:
    lines = [
        f"# {name}",
        f"**{summary.best}** has the smallest {LABELS[summary.criterion]} of {len(summary.table)} candidates, "
        f"with a mean log-likelihood of {summary.mean_log_likelihood:.4f} a row.",
        "| component | weight |\n|---|---|\n" + "\n".join(f"| {k} | {w:.3f} |" for k, w in enumerate(summary.weights)),
        *_held_out(summary),
        f"{summary.passes} passes over the data in {summary.seconds:.1f} s. Store: `{summary.store}`",
    ]
    page = Path(summary.report) / "index.html"
    if page.is_file():
        lines.append(f"The whole report, on the machine that ran the job: `{page.resolve()}`")
    first = {f"{summary.criterion}.png": 0, "clusters.png": 1}
    for file in sorted(Path(summary.report).glob("*.png"), key=lambda file: (first.get(file.name, 2), file.name)):
        if picture := embedded(file):
            lines.append(f"![{file.stem}]({picture})")
    return "\n\n".join(lines)
