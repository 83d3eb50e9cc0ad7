"""The page of a report: sentences, tables and pictures in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from dask.utils import format_bytes
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gmm_dask.formatting import counted, number
from gmm_dask.selection.criteria import CRITERIA
from pipeline.config.yaml_file import to_yaml
from pipeline.printable import printable
from pipeline.report import figures, phrases, tables
from pipeline.report.contents import ReportContents, read_contents
from pipeline.report.figures import Picture
from pipeline.sources.overlap import require_apart_from_stored
from pipeline.store import RowSummary, place_of
from pipeline.store.arrays import writing
from pipeline.store.paths import report_folder

PAGE = "index.html"
_PICTURES = (*CRITERIA, *(f"{name}-close" for name in CRITERIA), "clusters", "clusters-2", "clusters-3")
_PICTURES += ("means", "uncertainty", "log-likelihood")


def has_report(path: str | Path) -> bool:
    """Whether a store has its report."""
    return place_of(report_folder(path)).has(PAGE)


def clear_report(path: str | Path) -> None:
    """Remove a store's report, the page first; other files in its folder stay."""
    names = (PAGE, *(f"{name}.png" for name in _PICTURES))
    place_of(report_folder(path)).remove(*names, *(f"{name}.partial" for name in names))


def write_report(path: str | Path) -> str:
    """Write the report of a complete result store; an earlier one stays until all of this one is written.

    Parameters
    ----------
    path : str or Path
        The result store.

    Returns
    -------
    str
        Path of the page; PNGs of its pictures lie beside it.

    Raises
    ------
    UserError
        If there is no result store, or one that is not complete; if the report would lie within the data.
    FaultError
        If the disk is full.
    """
    report = read_contents(str(path))
    require_apart_from_stored(report.store.config["data"]["source"], [report_folder(path)])
    drawn = {
        "choice": figures.draw_choice(report),
        "others": figures.draw_other_criteria(report),
        "clusters": figures.draw_components(report),
        "means": figures.draw_means(report),
        "uncertainty": figures.draw_uncertainty(report),
        "bounds": figures.draw_bounds(report),
    }
    files = {f"{picture.name}.png": picture.png for group in drawn.values() for picture in group}
    files[PAGE] = render(report, drawn).encode()
    folder = report_folder(path)
    obsolete = {f"{name}.png" for name in _PICTURES} - files.keys()
    with writing(folder, key="", resumes=False):
        place_of(folder).replace_files(files, obsolete)
    return f"{folder}/{PAGE}"


def render(report: ReportContents, drawn: dict[str, list[Picture]]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = _data_url
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        report=report,
        phrases=phrases,
        tables=tables,
        pictures=drawn,
        hero=drawn["choice"][:1] + drawn["clusters"][:1],
        style=Markup(style),
        tiles=_tiles(report),
        data=_data(report),
        run=_run(report),
        settings=to_yaml(report.store.config),
    )


def _shown(value: Any) -> Any:
    """Escape control characters in what comes from the data, such as names of columns."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _data_url(picture: Picture) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.svg).decode()


def _tiles(report: ReportContents) -> list[tuple[str, str, str]]:
    """The numbers that a reader looks for first: name, value and remark."""
    store, second = report.store, report.runner_up
    troubled = sum(map(len, report.troubled.values()))
    tiles = [
        ("rows", f"{report.n_rows:,}", counted(len(report.components.names), "feature")),
        ("candidates", f"{len(report.table):,}", f"{troubled} did not converge" if troubled else "all converged"),
    ]
    if second is not None and second["delta"] >= report.winner["delta"]:
        criterion = CRITERIA[report.criterion]
        scale = criterion.graded_scale
        remark = f"{scale.level(second['delta']).label} evidence" if scale else "over the runner-up"
        lead = f"lead in {criterion.label}"
        tiles.append((lead, phrases.difference(second["delta"]), remark.replace("mention evidence", "mention")))
    if len(report.components.weights) > 1:
        tiles.append(("sure labels", f"{phrases.sure_share(report):.0%}", "at least 90% probable"))
    tiles.append(("passes", f"{store.passes:,}", f"{format_bytes(store.bytes_read)} read"))
    tiles.append(("time", phrases.duration(store.seconds or 0.0), _attempts(store.attempts)))
    return tiles


def _attempts(attempts: int) -> str:
    return "in one run" if attempts == 1 else f"the last of {attempts} runs"


def _data(report: ReportContents) -> dict[str, str]:
    """The data of the run, by name; empty texts are not shown."""
    store, sample = report.store, report.sample
    data: dict[str, Any] = store.data
    missing, held_out = store.data["missing"]["rows"], store.held_out_rows
    share = held_out / (held_out + report.n_rows)
    return {
        "source": f"{data['path']} ({data['kind']})",
        "rows": f"{report.n_rows:,}",
        "left out": f"{counted(missing, 'row')} with missing values" if missing else "",
        "held out": f"{counted(held_out, 'more row')} ({share:.1%} of all)" if held_out else "",
        "total weight": f"{store.total_weight:,.6g}" if store.total_weight != store.n_rows else "",
        "a pass reads": format_bytes(data["bytes_per_pass"]),
        "chunks": f"{sample.n_chunks:,}, of up to {counted(sample.chunk_rows, 'row')}",
        "shown in pictures": f"{counted(len(sample.rows), 'row')} drawn at random",
    }


def _run(report: ReportContents) -> dict[str, str]:
    """The run, by name; empty texts are not shown."""
    store = report.store
    return {
        "store": store.store,
        "started": store.started or "",
        "finished": store.finished or "",
        "took": f"{phrases.duration(store.seconds or 0.0)}, {_attempts(store.attempts)}",
        "passes": f"{store.passes:,} over the data",
        "read": format_bytes(store.bytes_read),
        "fits": store.effort_note,
        "starts": phrases.starts(report),
        "grid": store.widening_note,
        "mean log-likelihood": f"{number(store.mean_log_likelihood, 4)} per row",
        "of held-out rows": f"{number(store.held_out_log_likelihood, 4)} per row" if store.held_out_rows else "",
        "anomalies": _anomalies(report.rows),
    }


def _anomalies(rows: RowSummary | None) -> str:
    """Describe the marked rows, and their threshold."""
    if rows is None or rows.anomalies is None or rows.anomaly_threshold is None:
        return ""
    return (
        f"{counted(rows.anomalies, 'row')} with a log density below {number(rows.anomaly_threshold, 4)}, the "
        f"{rows.anomaly_quantile:.4g} quantile (within {rows.anomaly_rank_error:.2g} of the rows)"
    )
