"""The page of a report: sentences, tables and pictures in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask.utils import format_bytes
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from gmm_dask.families.candidate import Candidate
from gmm_dask.formatting import counted, number
from gmm_dask.plotting.marks import color_of, style_number
from gmm_dask.selection.criteria import CRITERIA
from pipeline.config.yaml_file import to_yaml
from pipeline.printable import printable
from pipeline.report import figures, phrases, tables
from pipeline.report.anomalies import read_anomalies
from pipeline.report.contents import ReportContents, read_contents
from pipeline.report.figures import Picture
from pipeline.report.maps import LabelMap, read_map
from pipeline.sources.overlap import require_apart_from_stored
from pipeline.store import GroupsResult, open_result, place_of
from pipeline.store.arrays import writing
from pipeline.store.paths import GROUP_PREFIX, PAGE, file_name, report_folder

_CLUSTERS = ("clusters", "clusters-2", "clusters-3", "cluster-tree", "cluster-entropy")
_PICTURES = (*CRITERIA, *_CLUSTERS, "means", "map", "log-likelihood")
# the sections of the page in their order: the name of the template in templates/sections/, which is the anchor too, and
# the title; a section whose template gives no text is left out
SECTIONS = {
    "components": "The components",
    "map": "The map",
    "choice": "The choice",
    "clusters": "Clusters of components",
    "anomalies": "Unlikely rows",
    "fit": "The fit",
    "data": "Data and settings",
}


@dataclass(frozen=True)
class Section:
    """A section of a page: its anchor, its title and its HTML."""

    anchor: str
    title: str
    body: Markup


def has_report(path: str | Path) -> bool:
    """Whether a store has its report."""
    return place_of(report_folder(path)).has(PAGE)


def clear_report(path: str | Path) -> None:
    """Remove a store's reports, the page first; other files in their folder stay."""
    folder, names = place_of(report_folder(path)), (PAGE, *(f"{name}.png" for name in _PICTURES))
    of_models = [name for name in folder.names() if Candidate.parse(name) or name.startswith(GROUP_PREFIX)]
    folder.remove(*names, *(f"{name}.partial" for name in names), *of_models)


def write_report(path: str | Path, model: str | None = None, group: str | None = None) -> str:
    """Write the report of a complete result store; an earlier one stays until all of this one is written.

    Parameters
    ----------
    path : str or Path
        The result store.
    model : str, optional
        Name of a model, such as ``tied-k3``, whose report lies in a folder of this name within that of the chosen one;
        by default the chosen one.
    group : str, optional
        Of a store with a search for each group (``data.by``), the value of one, whose report lies in a folder of this
        name within that of all groups.

    Returns
    -------
    str
        Path of the page; PNGs of its pictures lie beside it.

    Raises
    ------
    UserError
        If there is no result store, one that is not complete, or no such model in it; if the report would lie within
        the data.
    FaultError
        If the disk is full.
    """
    if model is None and group is None and isinstance(result := open_result(path), GroupsResult):
        from pipeline.report.groups import write_groups_report  # few stores need it

        return write_groups_report(result)
    report = read_contents(str(path), model, group)
    require_apart_from_stored(report.store.config["data"]["source"], [report_folder(path)])
    label_map = read_map(report)
    drawn = {
        "choice": figures.draw_choice(report),
        "clusters": figures.draw_components(report),
        "means": figures.draw_means(report),
        "merges": figures.draw_clusters(report),
        "bounds": figures.draw_bounds(report),
        "map": figures.draw_labels(report, label_map),
    }
    files = {f"{picture.name}.png": picture.png for group in drawn.values() for picture in group}
    files[PAGE] = render(report, drawn, label_map).encode()
    within = [*(() if group is None else (file_name(group),)), *(() if report.is_winner else (report.name,))]
    folder = "/".join([report_folder(path), *within])
    obsolete = {f"{name}.png" for name in _PICTURES} - files.keys()
    with writing(folder, key="", resumes=False):
        place_of(folder).replace_files(files, obsolete)
    return f"{folder}/{PAGE}"


def render(report: ReportContents, drawn: dict[str, list[Picture]], label_map: LabelMap | None = None) -> str:
    """The page as HTML."""
    environment = page_environment()
    known = {
        "report": report,
        "phrases": phrases,
        "tables": tables,
        "pictures": drawn,
        "label_map": label_map,
        "groups": phrases.groups(report),
        "anomalies": read_anomalies(report),
        "hero": drawn["choice"] + drawn["clusters"][:1],
        "tiles": _tiles(report),
        "data": _data(report),
        "run": _run(report),
        "settings": to_yaml(report.store.config),
    }
    bodies = {name: environment.get_template(f"sections/{name}.html").render(known).strip() for name in SECTIONS}
    sections = [Section(name, title, Markup(bodies[name])) for name, title in SECTIONS.items() if bodies[name]]
    return environment.get_template("page.html").render(known, sections=sections)


def page_environment() -> Environment:
    """Return the environment of the templates: text is escaped, control characters of data are shown as escapes."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_url=_data_url, breakable=_breakable)
    style = Path(__file__).with_name("templates") / "style.css"
    environment.globals.update(color_of=color_of, style_number=style_number)
    environment.globals["style"] = Markup(style.read_text(encoding="utf-8"))
    return environment


def _shown(value: Any) -> Any:
    """Escape control characters in what comes from the data, such as names of columns."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """Let a line break after the marks that join the words of a column's name."""
    return Markup(re.sub(r"([_./])(?=\w)", r"\1<wbr>", str(escape(printable(text)))))


def _data_url(picture: Picture) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.svg).decode()


def _tiles(report: ReportContents) -> list[tuple[str, str, str]]:
    """The numbers that a reader looks for first: name, value and remark."""
    second = report.runner_up
    troubled = sum(map(len, report.troubled.values()))
    tiles = [
        ("rows", f"{report.n_rows:,}", counted(len(report.components.names), "feature")),
        ("candidates", f"{len(report.table):,}", f"{troubled} did not converge" if troubled else "all converged"),
    ]
    criterion = CRITERIA[report.criterion]
    scale = criterion.graded_scale
    if not report.is_winner:
        tiles.append((f"{criterion.label} above", phrases.difference(report.row["delta"]), f"that of {report.best}"))
    elif second is not None and second["delta"] >= report.winner["delta"]:
        remark = f"{scale.level(second['delta']).label} evidence" if scale else "over the runner-up"
        lead = f"lead in {criterion.label}"
        tiles.append((lead, phrases.difference(second["delta"]), remark.replace("mention evidence", "mention")))
    if len(report.components.weights) > 1:
        tiles.append(("sure labels", f"{phrases.sure_share(report):.0%}", "at least 90% probable"))
    return tiles


def _attempts(attempts: int) -> str:
    return "in one run" if attempts == 1 else f"the last of {attempts} runs"


def _data(report: ReportContents) -> dict[str, str]:
    """The data of the run, by name; empty texts are not shown."""
    store, sample = report.store, report.sample
    data: dict[str, Any] = store.data
    missing, held_out = store.data["missing"]["rows"], store.held_out_rows
    incomplete = store.data["missing"].get("incomplete", 0)
    share = held_out / (held_out + report.n_rows)
    return {
        "source": f"{data['path']} ({data['kind']})",
        "rows": f"{report.n_rows:,}",
        "rows with gaps": f"{incomplete:,} ({incomplete / data['contents']['n_rows']:.1%})" if incomplete else "",
        "left out": f"{counted(missing, 'row')} with {'nothing but ' * bool(incomplete)}missing values"
        if missing
        else "",
        "held out": f"{counted(held_out, 'more row')} ({share:.1%} of all)" if held_out else "",
        "total weight": f"{store.total_weight:,.6g}" if store.total_weight != store.n_rows else "",
        "a pass reads": format_bytes(data["bytes_per_pass"]),
        "chunks": f"{sample.n_chunks:,}, of up to {counted(sample.chunk_rows, 'row')}",
        "shown in pictures": f"{counted(len(sample.rows), 'row')} drawn at random",
    }


def _run(report: ReportContents) -> dict[str, str]:
    """The run, by name; empty texts are not shown."""
    store = report.store
    held_out = report.row["held_out_log_likelihood"]
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
        "mean log-likelihood": f"{number(store.mean_log_density(report.name), 4)} per row",
        "of held-out rows": f"{number(held_out, 4)} per row" if store.held_out_rows else "",
    }
