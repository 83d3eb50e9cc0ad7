"""The artifacts on a run's Prefect page: progress, tables, pictures, and a short report.

Pictures are embedded as data URLs: the browser that shows the page has no access to the results' files.
"""

from __future__ import annotations

import base64
import contextvars
import os
import re
import threading
import time
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

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

from flows.markdown import as_code, as_text
from flows.progress import describe
from gmm_dask.selection.criteria import CRITERIA
from pipeline.printable import printable
from pipeline.progress import ChunksDone, Event, PassDone
from pipeline.store.places import Place, place_of

if TYPE_CHECKING:
    from uuid import UUID

    from pipeline.fit.job import Summary
    from pipeline.fit.refresh import Refreshed
    from pipeline.score.new_rows import ScoreSummary

SECONDS_BETWEEN_UPDATES = 2.0
MAX_IMAGE_BYTES = 2**21


def artifact_key(name: str, kind: str) -> str:
    """Return the key under which Prefect collects a job's artifacts of one kind: lower case, digits and dashes."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{kind}"


class ProgressArtifact:
    """A progress listener that updates a bar and a line of text on the run's page. A context manager.

    A thread of its own sends the updates, since the server may be slow or gone: the fit does not wait for it, and an
    interrupt of the fit does not hit a request, where it would be lost or leave an open connection that the end of the
    run waits for. A ``with`` block that ends without an error waits until the server has every update.
    """

    def __init__(self, name: str, kind: str = "progress") -> None:
        created = create_progress_artifact(0.0, key=artifact_key(name, kind), description="starting")
        self._id = cast("UUID", created)  # a coroutine in asynchronous callers only
        self._sent = time.monotonic()
        self._updates: SimpleQueue[tuple[float, str] | None] = SimpleQueue()
        # Prefect finds the server and the run in the context, which threads do not inherit
        send = partial(contextvars.copy_context().run, self._send)
        self._sender = threading.Thread(target=send, name="progress artifact", daemon=True)

    def __enter__(self) -> ProgressArtifact:
        self._sender.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._updates.put(None)
        if error is None:
            self._sender.join()

    def __call__(self, event: Event) -> None:
        """Update the bar, unless the last update is recent or still on its way."""
        due = time.monotonic() - self._sent >= SECONDS_BETWEEN_UPDATES and self._updates.empty()
        if due and isinstance(event, PassDone | ChunksDone):
            done = event.finished if isinstance(event, PassDone) else event.done
            self._updates.put((100.0 * done / max(1, event.total), describe(event)))
            self._sent = time.monotonic()

    def finish(self, description: str) -> None:
        """Fill the bar."""
        self._updates.put((100.0, description))

    def _send(self) -> None:
        for percent, description in iter(self._updates.get, None):
            update = ArtifactUpdate(data=percent, description=description)
            # A server that has gone must not end the fit: the run reports it at its end, with its result stored. A
            # client with settings of its own is not the run's, which may be closed by now.
            with suppress(httpx.HTTPError, ObjectNotFound), get_client({}, sync_client=True) as client:
                client.update_artifact(self._id, update)


def publish_job(name: str, summary: Summary) -> None:
    """Create the artifacts of a finished job: candidates, the criterion's picture, and a short report."""
    criterion = CRITERIA[summary.criterion].label
    columns = ["n_components", "covariance_type", "status", summary.criterion, "delta", "n_iter"]
    rows = summary.table.sort_values("delta")[columns].round(2).to_numpy(dtype=object)
    create_table_artifact(
        [dict(zip(columns, row, strict=True)) for row in rows],
        key=artifact_key(name, "candidates"),
        description=f"Best by {criterion}: **{summary.best}**. Stored in {as_code(summary.store)}.",
    )
    report = place_of(summary.report)
    if picture := data_url(report, f"{summary.criterion}.png"):
        key = artifact_key(name, summary.criterion.replace("_", "-"))
        create_image_artifact(picture, key=key, description=f"{criterion} by candidate")
    create_markdown_artifact(_short_report(name, summary), key=artifact_key(name, "report"), description="Short report")


def publish_refresh(name: str, result: Refreshed) -> None:
    """Create the artifact with a refresh's decision, its store and the stores that it has removed."""
    reason = as_text(result.decision.reason)
    lines = [f"{reason[:1].upper()}{reason[1:]}."]
    lines += [f"Stored in {as_code(result.summary.store)}; {as_code(result.link)} links to it."]
    lines += [f"Removed: {as_code(path)}." for path in result.removed]
    create_markdown_artifact("\n\n".join(lines), key=artifact_key(name, "refresh"), description="Refresh decision")


def publish_scores(name: str, summary: ScoreSummary) -> None:
    """Create the table of the components' shares among new rows, with the drift in its description."""
    lines = enumerate(zip(summary.rows.label_shares, summary.fit_shares, summary.components, strict=True))
    drift = [f"drift: {as_text(line)}" for line in summary.drift] or ["no drift"]
    create_table_artifact(
        [
            {
                "component": k,
                "share here": f"{new:.2%}",
                "in the fit": f"{fit:.2%}",
                "moved": printable(", ".join(change.moved)),
            }
            for k, (new, fit, change) in lines
        ],
        key=artifact_key(name, "scores"),
        description=f"{summary.rows.n_rows:,} rows by **{summary.model}**, in {as_code(summary.out)}; "
        f"{'; '.join(drift)}.",
    )


def data_url(folder: Place, name: str) -> str | None:
    """Return a PNG file as a data URL, or None if there is no such file or it is too large for a page."""
    data = folder.read(name) if folder.has(name) else b""
    if not 0 < len(data) <= MAX_IMAGE_BYTES:
        return None
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _short_report(name: str, summary: Summary) -> str:
    weights = "\n".join(f"| {k} | {weight:.3f} |" for k, weight in enumerate(summary.weights))
    paragraphs = [
        f"# {name}",
        f"**{summary.best}** has the smallest {CRITERIA[summary.criterion].label} of {len(summary.table)} candidates, "
        f"with a mean log-likelihood of {summary.mean_log_likelihood:.4f} per row.",
        f"| component | weight |\n|---|---|\n{weights}",
    ]
    if summary.held_out_rows:
        paragraphs.append(
            f"The {summary.held_out_rows:,} held-out rows have a mean log-likelihood of "
            f"{summary.held_out_log_likelihood:.4f} per row."
        )
    cost = f"{summary.passes} passes over the data in {summary.run_seconds:.1f} s"
    paragraphs.append(f"{cost}. Store: {as_code(summary.store)}")
    report = place_of(summary.report)
    if summary.page:
        where = f"on the machine that ran the job: {as_code(os.path.abspath(summary.page))}"
        paragraphs.append(f"The full report is {where if report.is_local else as_code(summary.page)}")
    order = {f"{summary.criterion}.png": 0, "clusters.png": 1}
    pictures = [name for name in report.names() if name.endswith(".png")]
    for name in sorted(pictures, key=lambda name: (order.get(name, 2), name)):
        if picture := data_url(report, name):
            paragraphs.append(f"![{name.removesuffix('.png')}]({picture})")
    return "\n\n".join(paragraphs)
