"""The sentences of a report: the decision, and what to check before trusting it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gmm_dask.em.loop import Status
from gmm_dask.families import get_family
from gmm_dask.formatting import capital, counted, joined, listed, number
from gmm_dask.init.starts import STARTS
from gmm_dask.passes.data_summary import sample_limit
from gmm_dask.plotting.drawing import UNCERTAINTY
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY
from gmm_dask.selection.diagnostics import starts_compared
from pipeline.report.contents import ReportContents

# a component is worth a look with fewer rows than this
FEW_ROWS = 10
# a label is sure if another component has at most this probability
SURE = UNCERTAINTY[1].upper
NOTHING = "–"  # noqa: RUF001


def mixture_words(row: dict[str, Any]) -> str:
    """A candidate in words: ``3 components with tied covariance``."""
    return f"{counted(int(row['n_components']), 'component')} with {row['covariance_type']} covariance"


def difference(value: float) -> str:
    """A difference of criteria, short enough for a cell."""
    if math.isnan(value):
        return NOTHING
    if value >= 1e5:
        return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value / 1e3:,.0f} k"
    return f"{value:,.1f}" if value < 1e3 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in words: ``2.3 s``, ``13 min 20 s``, ``5 h 2 min``."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


# -- the decision --------------------------------------------------------------------------------------------


def headline(report: ReportContents) -> str:
    """The decision in a sentence."""
    verb = "describes" if report.model.n_components == 1 else "describe"
    return f"{mixture_words(report.winner)} {verb} these data best"


def decision(report: ReportContents) -> list[str]:
    """The decision in sentences: by how much, how strong that is, and what the covariance type means."""
    count, name = len(report.table), CRITERIA[report.criterion].label
    value, kind = number(report.winner[report.criterion], 1), report.model.covariance_type
    first = f"This was the only candidate tried; its {name} is {value}."
    if count > 1:
        first = f"Of {counted(count, 'candidate')}, this mixture {_chosen(report, value)}"
    return [first.strip(), *_held_out(report), f"{kind.capitalize()}: {get_family(kind).description}."]


def _chosen(report: ReportContents, value: str) -> str:
    """Say why the winner was chosen: its criterion is the smallest, or nearly, with fewer parameters."""
    criterion, winner, second = CRITERIA[report.criterion], report.winner, report.runner_up
    if criterion.error is None or second is None or second["delta"] >= winner["delta"]:
        return f"has the smallest {criterion.label} ({value}). {_lead(report)}"
    return (
        f"has the fewest parameters ({winner['n_parameters']:,}) of those within one standard error of the smallest "
        f"{criterion.label}: its {value} is {difference(winner['delta'])} above that of {second['name']} "
        f"({second['n_parameters']:,} parameters), give or take {difference(winner[criterion.error])}. "
        f"{_by_bic(report, second)}"
    )


def _held_out(report: ReportContents) -> Iterator[str]:
    """Compare the winner's likelihood of the held-out rows with that of the fitted ones."""
    n_rows, row = report.store.held_out_rows, report.winner
    if n_rows:
        yield (
            f"{counted(n_rows, 'row')} {'was' if n_rows == 1 else 'were'} held out of the fits: their mean "
            f"log-likelihood is {number(row['held_out_log_likelihood'], 4)}, that of the fitted rows "
            f"{number(report.store.mean_log_likelihood, 4)}."
        )


def _lead(report: ReportContents) -> str:
    second = report.runner_up
    equals = [row["name"] for row in report.equals]
    verb = "is" if len(equals) == 1 else "are"
    same = f"({listed(equals)} {verb} the same mixture in another form.) " if equals else ""
    if second is None:
        only = "No other candidate could be fitted." if len(report.table) > 1 and not same else ""
        return same + only
    label = CRITERIA[report.criterion].label
    name = f"{'an' if label[0] in 'AI' else 'a'} {label}"
    has = f"{same}The runner-up, {mixture_words(second)}, has {name} {difference(second['delta'])} higher"
    return f"{has}{_strength(report, second)}"


def _strength(report: ReportContents, second: dict[str, Any]) -> str:
    """How strong the winner's lead is by the criterion's convention, and what BIC says of it."""
    criterion = CRITERIA[report.criterion]
    mean = report.winner["held_out_log_likelihood"] - second["held_out_log_likelihood"]
    per_row = f", {mean:.2g} per row in log-likelihood" if criterion.needs_held_out else ""
    if criterion.scale is None:
        lead = f"{per_row}; there is no convention for the strength of that."
    else:
        lead = f"{per_row}: {criterion.scale.level(second['delta']).clause}, by convention ({criterion.scale.source})."
    return lead if criterion.scale is KASS_RAFTERY else f"{lead} {_by_bic(report, second)}"


def _by_bic(report: ReportContents, second: dict[str, Any]) -> str:
    """Describe the evidence of BIC for one of the two."""
    lead = second["bic"] - report.winner["bic"]
    preferred = "prefers this mixture too," if lead > 0.0 else "prefers the runner-up,"
    label = KASS_RAFTERY.level(abs(lead)).label
    evidence = label if label == "bare mention" else f"{label} evidence"
    return f"BIC {preferred} by {difference(abs(lead))}: {evidence}, by convention ({KASS_RAFTERY.source})."


def other_criteria(report: ReportContents) -> str:
    """Describe which of the other criteria agree with the choice."""
    chosen = {name: report.choice(name) for name in report.criteria if name != report.criterion}
    agree = [CRITERIA[name].label for name, found in chosen.items() if found == report.best]
    differ = [f"{CRITERIA[name].label} would choose {found}" for name, found in chosen.items() if found != report.best]
    said = [f"{joined(agree)} {'agree' if len(agree) > 1 else 'agrees'}"] if agree else []
    habits = " AIC tends to choose more components than BIC, and ICL fewer where they overlap." if differ else ""
    return capital(f"{', and '.join([*said, *differ])}.{habits}")


def sure_share(report: ReportContents) -> float:
    """Return the part of the sampled rows whose label is sure."""
    return float(np.mean(report.sample.uncertainty <= SURE))


def starts(report: ReportContents) -> str:
    """Describe the starts of the fits, and which of the winner's starts agreed."""
    said = starts_compared(report.winner)
    if not STARTS[report.store.config["search"]["init_params"]].is_search:
        return said
    most = min(report.n_rows, sample_limit(len(report.components.names)))
    begin = f"each is the best of many short fits to an in-memory sample of {most:,} rows (no passes over the data)"
    return "; ".join(filter(None, [begin, said]))


# -- worth a look ------------------------------------------------------------------------------------


def notices(report: ReportContents) -> list[str]:
    """Return what a reader should know before trusting the result."""
    return [
        *_about_the_choice(report),
        *_about_the_candidates(report),
        *_about_the_components(report),
        *_about_rows(report),
    ]


def _about_the_choice(report: ReportContents) -> Iterator[str]:
    yield from report.store.remarks
    close = [row["name"] for row in report.others if row["delta"] <= 2.0 and row not in report.equals]
    if close and report.criterion == "bic":
        yield f"About as good by BIC, within 2 of the winner: {listed(close)}. Other reasons may decide between them."


def _about_the_candidates(report: ReportContents) -> Iterator[str]:
    status = report.model.status
    if not status.trusted:
        yield f"No candidate can be trusted, and the winner is {status}: {status.remedy}"
    elif status is not Status.CONVERGED:
        yield f"The winner did not converge: {status.remedy}"
    failed = [name for status, names in report.troubled.items() if not status.usable for name in names]
    if failed:
        yield f"{counted(len(failed), 'candidate')} could not be fitted: causes and remedies are listed in The fit."
    doubtful = [
        name for status, names in report.troubled.items() if status.usable and not status.trusted for name in names
    ]
    if doubtful:
        of = counted(len(doubtful), "candidate")
        yield f"{of} cannot win, being degenerate or spurious: see The fit."


def _about_the_components(report: ReportContents) -> Iterator[str]:
    few = [f"{k} (about {size:,.0f} {report.size_unit})" for k, size in enumerate(report.sizes) if size < FEW_ROWS]
    if few:
        yield f"Components of very few rows: {listed(few)}. They may describe outliers."
    held_open = [f"{k} {_where_held_open(report, columns)}" for k, columns in report.held_open.items()]
    if held_open:
        yield (
            f"Components that only search.reg_covar ({report.store.config['search']['reg_covar']}) keeps from "
            f"collapsing: {listed(held_open)}. They are as narrow there as the resolution of the data, or the value "
            "that their rows share, lets them be, and their likelihood depends on it."
        )
    if report.winner["slim_component"] >= 0:
        yield _about_the_slim(report.winner)


def _where_held_open(report: ReportContents, columns: list[int]) -> str:
    """Name the columns in which a component is held open, with the steps that their values are rounded to."""
    names, steps = report.components.names, report.resolution.step
    found = [names[i] + (f", rounded to {steps[i]:.3g}" if steps[i] else "") for i in columns]
    return f"({'; '.join(found) or 'in a direction across the columns'})"


def _about_the_slim(winner: dict[str, Any]) -> str:
    k, gain, price = (winner[name] for name in ("slim_component", "slim_gain", "slim_price"))
    paid = "a tight group that pays" if gain >= price else "it may be chance"
    return (
        f"Component {k} is far narrower than the others and has few rows. It raises the log-likelihood by {gain:,.0f}, "
        f"and has to raise it by {price:,.0f}, the price of its parameters and of the choice of its place: {paid}."
    )


def _about_rows(report: ReportContents) -> Iterator[str]:
    for note in report.store.data.get("notes", []):
        yield f"{note[:1].upper()}{note[1:].rstrip('.')}."
    sure = sure_share(report)
    if sure < 0.5:
        yield f"Only {sure:.0%} of the sampled rows have a sure label: the components overlap strongly."
