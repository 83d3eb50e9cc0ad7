"""The page of a store with a search for each group: a table of all groups, and a small picture of each."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gmm_dask.formatting import counted, listed, number
from gmm_dask.selection.criteria import CRITERIA
from pipeline.config.yaml_file import to_yaml
from pipeline.printable import printable
from pipeline.report import phrases
from pipeline.report.group_pictures import choose_axes, draw_group
from pipeline.report.page import page_environment
from pipeline.sources.overlap import require_apart_from_stored
from pipeline.store import GroupsResult, place_of
from pipeline.store.arrays import writing
from pipeline.store.groups.models import GroupModel
from pipeline.store.groups.result import FAILED
from pipeline.store.paths import PAGE, report_folder

# pictures of a page, and of a part of it that is opened by itself; lines of its table
MOST_PICTURES, PICTURES_OF_PART = 240, 60
MOST_LINES = 5000
_EXPLAINED = 20


@dataclass(frozen=True)
class Small:
    """A small picture: the group's name, what stands below it, and the picture."""

    title: str
    below: str
    svg: Markup


def write_groups_report(result: GroupsResult) -> str:
    """Write the report of a complete store with a search for each group; returns the path of the page.

    Raises
    ------
    UserError
        If the report would lie within the data.
    FaultError
        If the disk is full.
    """
    folder = report_folder(result.store)
    require_apart_from_stored(result.config["data"]["source"], [folder])
    page = page_environment().get_template("groups.html").render(_known(result))
    with writing(folder, key="", resumes=False):
        place_of(folder).replace_files({PAGE: page.encode()}, ())
    return f"{folder}/{PAGE}"


def _known(result: GroupsResult) -> dict[str, Any]:
    overview = result.overview.to_dict("records")
    label = CRITERIA[result.criterion].label
    pictures, note = _pictures(result)
    failed = [row for row in overview if row["message"]]
    return {
        "job": result.config["name"],
        "finished": result.finished,
        "store": result.store,
        "headline": result.headline,
        "by": printable(str(result.by)),
        "tiles": _tiles(result, overview),
        "criterion": label,
        "rows": [_line(row, result.criterion) for row in overview[:MOST_LINES]],
        "n_more": max(0, len(overview) - MOST_LINES),
        "winners": _winners(overview),
        "parts": [pictures[i : i + PICTURES_OF_PART] for i in range(0, len(pictures), PICTURES_OF_PART)],
        "pictures_note": note,
        "failed": [(printable(row["group"]), row["message"]) for row in failed[:_EXPLAINED]],
        "n_failed_more": max(0, len(failed) - _EXPLAINED),
        "facts": _facts(result),
        "settings": to_yaml(result.config),
        "script": Markup(_script()),
        # the page's policy lets this script run, and no other
        "script_hash": Markup(f"sha256-{base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()}"),
    }


@cache
def _script() -> str:
    """Return the script by which the table is sorted."""
    return (Path(__file__).with_name("templates") / "sort.js").read_text(encoding="utf-8")


def _tiles(result: GroupsResult, overview: list[dict[Any, Any]]) -> list[tuple[str, str, str]]:
    rows = [row["n_rows"] for row in overview if row["n_rows"]]
    least, most = min(rows, default=0), max(rows, default=0)
    size = f"{least:,} a group" if least == most else f"{least:,} to {most:,} a group"
    troubled = {name: count for name, count in result.statuses.items() if name != "converged"}
    counts = listed([f"{count:,} {name}" for name, count in troubled.items()])
    common, n_common = Counter(row["best"] for row in overview if row["best"]).most_common(1)[0]
    return [
        ("groups", f"{len(overview):,}", counts or "all converged"),
        ("rows", f"{sum(rows):,}", size),
        ("most frequent winner", common, f"of {counted(n_common, 'group')}"),
    ]


def _line(row: dict[Any, Any], criterion: str) -> list[tuple[str, str]]:
    """Return the cells of a group's line: what is shown, and what it is sorted by."""
    has_model = row["status"] != FAILED
    value, mean = row[criterion], row["log_likelihood"] / row["n_rows"] if has_model else float("nan")
    return [
        (printable(row["group"]), row["group"]),
        (f"{row['n_rows']:,}", str(row["n_rows"])),
        (row["best"] or phrases.NOTHING, row["best"]),
        (str(row["n_components"] or phrases.NOTHING), str(row["n_components"])),
        (number(value, 1) if has_model else phrases.NOTHING, repr(value) if has_model else ""),
        (number(mean, 4) if has_model else phrases.NOTHING, repr(mean) if has_model else ""),
        (row["status"], row["status"]),
    ]


def _winners(overview: list[dict[Any, Any]]) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """Return how many groups each number of components and each kind of covariance has won."""
    won = Counter((row["best"].rpartition("-k")[0], row["n_components"]) for row in overview if row["best"])
    counts = sorted({count for _, count in won})
    kinds = dict.fromkeys(kind for kind, _ in sorted(won))
    return counts, [(kind, [won[kind, count] for count in counts]) for kind in kinds]


def _pictures(result: GroupsResult) -> tuple[list[Small], str]:
    found = result.found
    drawn = [pair for pair in zip(found.keys, found.results, strict=True) if pair[1].model is not None]
    axes = choose_axes(found)
    pictures = [
        Small(
            printable(key),
            f"{one.model.state.candidate.name}, {counted(one.n_rows, 'row')}",
            draw_group(key, one, axes),
        )
        for key, one in drawn[:MOST_PICTURES]
        if one.model is not None
    ]
    names = [printable(found.features[d]) for d in axes.features]
    shown = names[0] if len(names) == 1 else f"{names[0]} across, {names[1]} up"
    scale = "all on the same axes" if axes.low is not None else "each on axes of its own"
    what = "lines are the components' densities" if len(names) == 1 else "ellipses hold 90% of a component's rows"
    note = f"{shown}, {scale}: the columns that separate the components most, on average; {what}."
    if len(drawn) > MOST_PICTURES:
        note += f" The first {MOST_PICTURES:,} of {len(drawn):,} groups are drawn."
    return pictures, note


def _below(model: GroupModel, n_rows: int) -> str:
    return f"{model.state.candidate.name}, {counted(n_rows, 'row')}"


def _facts(result: GroupsResult) -> dict[str, str]:
    """The run, by name; empty texts are not shown."""
    counts, attempts = result.groups, result.attempts
    without = counts.n_without if counts else 0
    left_out = int(sum(one.n_left_out for one in result.found.results))
    return {
        "source": f"{result.data['path']} ({result.data['kind']})",
        "columns": listed([printable(name) for name in result.found.columns]),
        "candidates": f"{len(result.found.candidates):,} in each group",
        "without a group": counted(without, "row") if without else "",
        "left out": f"{counted(left_out, 'row')} with missing values" if left_out else "",
        "store": result.store,
        "started": result.started,
        "finished": result.finished or "",
        "took": f"{phrases.duration(result.seconds or 0.0)}, "
        + ("in one run" if attempts == 1 else f"the last of {attempts} runs"),
        "reads": f"{result.passes:,} of the data",
    }
