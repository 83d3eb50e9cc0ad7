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
from io import BytesIO
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

import httpx
from PIL import Image
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
from gmm_dask.formatting import counted
from gmm_dask.selection.criteria import CRITERIA
from gmm_dask.selection.distinct import distinct, same_models
from pipeline.printable import printable
from pipeline.progress import ChunksDone, Event, GroupsDone, PassDone
from pipeline.store import GroupsResult
from pipeline.store.places import Place, place_of

if TYPE_CHECKING:
    from uuid import UUID

    from pipeline.fit.job import GroupsSummary, Summary
    from pipeline.fit.refresh import Refreshed
    from pipeline.score.new_rows import ScoreSummary

SECONDS_BETWEEN_UPDATES = 2.0
# of a picture on a run's page: Prefect keeps every run's artifacts in its database
IMAGE_PIXELS = 720
IMAGE_COLORS = 32
# of a search for each group, rows of the table on a run's page
GROUPS_SHOWN = 200


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
        if due and isinstance(event, PassDone | ChunksDone | GroupsDone):
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


def publish_job(name: str, summary: Summary | GroupsSummary) -> None:
    """Create the artifacts of a finished job: candidates, the criterion's picture, and a short report.

    Of a search for each group it is a table of the groups.
    """
    if isinstance(summary, GroupsResult):
        _publish_groups(name, summary)
        return
    criterion = CRITERIA[summary.criterion].label
    noise = ["noise"] if summary.table["noise"].any() else []
    columns = ["n_components", "covariance_type", *noise, "status", summary.criterion, "delta", "n_iter"]
    models = distinct(summary.table, summary.criterion, len(summary.data["columns"]))
    rows = models.sort_values("delta")[columns].round(2).to_numpy(dtype=object)
    same = same_models(summary.table, len(summary.data["columns"]))
    create_table_artifact(
        [dict(zip(columns, row, strict=True)) for row in rows],
        key=artifact_key(name, "candidates"),
        description=" ".join(filter(None, [f"{_choice(summary)}.", same, f"Stored in {as_code(summary.store)}."])),
    )
    report = place_of(summary.report)
    if picture := data_url(report, f"{summary.criterion}.png"):
        key = artifact_key(name, summary.criterion.replace("_", "-"))
        create_image_artifact(picture, key=key, description=f"{criterion} by candidate")
    create_markdown_artifact(_short_report(name, summary), key=artifact_key(name, "report"), description="Short report")


def _publish_groups(name: str, summary: GroupsResult) -> None:
    """Create the table of groups, as many as a page shows."""
    columns = ["group", "n_rows", "status", "best", "n_components", summary.criterion]
    rows = summary.overview[columns].head(GROUPS_SHOWN).round(2).to_dict("records")
    more = len(summary.overview) - len(rows)
    rest = f" The first {len(rows):,} are shown." if more else ""
    create_table_artifact(
        [{name: None if row[name] != row[name] else row[name] for name in columns} for row in rows],
        key=artifact_key(name, "groups"),
        description=f"{as_text(summary.headline)}.{rest} Stored in {as_code(summary.store)}.",
    )


def publish_refresh(name: str, result: Refreshed) -> None:
    """Create the artifact with a refresh's decision, its store and the stores that it has removed."""
    reason = as_text(result.decision.reason)
    lines = [f"{reason[:1].upper()}{reason[1:]}."]
    lines += [f"Stored in {as_code(result.summary.store)}; {as_code(result.link)} links to it."]
    lines += [f"Removed: {as_code(path)}." for path in result.removed]
    create_markdown_artifact("\n\n".join(lines), key=artifact_key(name, "refresh"), description="Refresh decision")


def publish_scores(name: str, summary: ScoreSummary) -> None:
    """Create the table of the components' shares among new rows, with the drift in its description."""
    drift = [f"drift: {as_text(line)}" for line in summary.drift] or ["no drift"]
    drift += [as_text(line) for line in summary.missing_lines]
    page = f" Report: {as_code(summary.page)}." if summary.page else ""
    create_table_artifact(
        [
            {
                "component": printable(one.title),
                "share here": f"{one.share:.2%}",
                "in the fit": f"{one.fit_share:.2%}",
                "moved": printable(", ".join(one.moved)),
            }
            for one in summary.components
        ]
        + _noise_shares(summary),
        key=artifact_key(name, "scores"),
        description=f"{counted(summary.rows.n_rows, 'row')} by **{summary.model}**, in {as_code(summary.out)}; "
        f"{'; '.join(drift)}.{page}",
    )


def _noise_shares(summary: ScoreSummary) -> list[dict[str, str]]:
    """The line of the noise in the table of shares, where the model has it."""
    if (noise := summary.noise) is None:
        return []
    shares = {"share here": f"{noise.share:.2%}", "in the fit": f"{noise.fit_share:.2%}"}
    return [{"component": "noise", **shares, "moved": ", ".join(noise.moved)}]


def data_url(folder: Place, name: str) -> str | None:
    """Return a PNG file, with fewer pixels and colours, as a data URL; None if there is no such file."""
    if not folder.has(name):
        return None
    with Image.open(BytesIO(folder.read(name))) as picture:
        small = picture.convert("RGB")
        small.thumbnail((IMAGE_PIXELS, IMAGE_PIXELS))
        data = BytesIO()
        small.quantize(IMAGE_COLORS, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _choice(summary: Summary) -> str:
    """Say why a model is the winner: a refresh kept it, or its criterion is the best of all candidates."""
    label, count = CRITERIA[summary.criterion].label, len(summary.table)
    if summary.keeps_winner:
        return f"**{summary.best}** is the last winner, fitted to these rows"
    if count == 1:
        return f"**{summary.best}** is the only candidate"
    return f"**{summary.best}** is the best of {count:,} candidates by {label}"


def _short_report(name: str, summary: Summary) -> str:
    named = zip(summary.best_model.titles, summary.weights, strict=True)
    weights = "\n".join(f"| {as_text(title)} | {weight:.3f} |" for title, weight in named)
    if summary.noise_weight is not None:
        weights += f"\n| noise | {summary.noise_weight:.3f} |"
    paragraphs = [
        f"# {name}",
        f"{_choice(summary)}, with a mean log-likelihood of {summary.mean_log_likelihood:.4f} per row.",
        f"| component | weight |\n|---|---|\n{weights}",
    ]
    if summary.held_out_rows:
        paragraphs.append(
            f"The {summary.held_out_rows:,} held-out rows have a mean log-likelihood of "
            f"{summary.held_out_log_likelihood:.4f} per row."
        )
    cost = f"{summary.passes} passes over the data in {summary.seconds:.1f} s"
    paragraphs.append(f"{cost}. Store: {as_code(summary.store)}")
    report = place_of(summary.report)
    if summary.page:
        where = f"on the machine that ran the job: {as_code(os.path.abspath(summary.page))}"
        paragraphs.append(f"The full report is {where if report.is_local else as_code(summary.page)}")
    if picture := data_url(report, "clusters.png"):  # that of the criterion is an artifact of its own
        paragraphs.append(f"![clusters]({picture})")
    return "\n\n".join(paragraphs)
