"""The sentences of a report: the decision, and what to check before trusting it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmm_dask.em.loop import Status
from gmm_dask.families import get_family
from gmm_dask.formatting import capital, counted, decimals, joined, listed, number
from gmm_dask.init.starts import STARTS
from gmm_dask.passes.data_summary import sample_limit
from gmm_dask.passes.row_outputs import NOISE_LABEL
from gmm_dask.plotting.drawing import UNCERTAINTY
from gmm_dask.selection.criteria import CRITERIA, KASS_RAFTERY
from gmm_dask.selection.diagnostics import starts_compared
from gmm_dask.selection.grid import noise_choices
from pipeline.config.transforms import TransformStep
from pipeline.printable import printable
from pipeline.report.contents import ReportContents
from pipeline.report.profiles import Trait, profile

# a component is worth a look with fewer rows than this
FEW_ROWS = 10
# a label is sure if another component has at most this probability
SURE = UNCERTAINTY[1].upper
NOTHING = "–"  # noqa: RUF001
# relative: sums over the rows may change by this much without a cause
ROUNDING = 1e-13
# of more components, the smaller ones are described in a part of the page that is folded away
MOST_GROUPS = 8
# names of a model's other forms
MOST_FORMS = 3
# components of less weight are not listed as those that a variational mixture uses
CARRYING = 0.01
GROUPS_NOTE = (
    "The features in which the mean of a component is furthest from that of all other rows, and both means. Slightly: "
    "at least half a pooled standard deviation apart, very: at least two."
)


def mixture_words(row: dict[str, Any]) -> str:
    """A candidate in words: ``3 components with tied covariance``, ``3 components with full covariance and noise``."""
    noise = " and noise" if row["noise"] else ""
    return f"{counted(int(row['n_components']), 'component')} with {row['covariance_type']} covariance{noise}"


def with_forms(row: dict[str, Any]) -> str:
    """A model of the ranking with its other forms: ``full-k1 (also tied-k1)``."""
    return f"{row['name']} (also {listed(row['also'], MOST_FORMS)})" if row["also"] else str(row["name"])


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
    """The decision in a sentence, or that this mixture is another."""
    if not report.is_winner:
        return f"{mixture_words(report.row)}: not the mixture that was chosen"
    verb = "describes" if report.model.n_components == 1 else "describe"
    return f"{mixture_words(report.winner)} {verb} these data best"


def decision(report: ReportContents) -> list[str]:
    """The decision in sentences: by how much, how strong that is, and what the covariance type means."""
    kind = report.model.covariance_type
    first = _decided(report) if report.is_winner else _not_chosen(report)
    meaning = f"{capital(kind)}: {get_family(kind).description}."
    return [first, *_carrying(report), *_noise(report), *_held_out(report), meaning]


def _carrying(report: ReportContents) -> Iterator[str]:
    """How many components of a variational mixture carry weight: its number of components is an upper bound."""
    if report.model.priors is None:
        return
    weights, n = report.model.model[1].weights, report.store.total_weight or math.inf
    carrying = np.sort(weights[weights > CARRYING])[::-1]
    listed_weights = joined([f"{weight:.1%}" for weight in carrying])
    yield (
        f"Variational: of at most {counted(len(weights), 'component')}, {len(carrying)} have more than {CARRYING:.0%} "
        f"of the weight ({listed_weights}), and {np.count_nonzero(weights > 1.0 / n)} more than one row."
    )


def _noise(report: ReportContents) -> Iterator[str]:
    """How many rows belong to no component, and what their density is."""
    noise = report.components.noise
    if noise is None:
        return
    box = "the box around the rows" if noise_choices(report.store.config["search"]["noise"])[1] is None else "a box"
    box += "" if report.model.transform.folds else " in the features of the fit"
    yield (
        f"Noise: {noise.weight:.1%} of the weight, {size_words(report, report.noise_size)}, belongs to no component. "
        f"Its density is the same everywhere, one over the volume of {box} ({_power(noise.log_volume)}), and its rows "
        f"have the label {NOISE_LABEL}."
    )


def _power(log: float) -> str:
    """The number of a natural logarithm, which may be beyond the range of numbers: ``1.23e+400``."""
    if abs(log) < 600.0:
        return f"{math.exp(log):.4g}"
    exponent = math.floor(log / math.log(10.0))
    return f"{10.0 ** (log / math.log(10.0) - exponent):.4g}e{exponent:+d}"


def _decided(report: ReportContents) -> str:
    count, name = len(report.table), CRITERIA[report.criterion].label
    value = number(report.winner[report.criterion], 1)
    if report.store.keeps_winner:
        assert report.store.refresh is not None
        return f"No search was made: {report.store.refresh.reason}. Its {name} is {value}."
    if count == 1:
        return f"This was the only candidate tried; its {name} is {value}."
    return f"Of {counted(count, 'candidate')}, this mixture {_chosen(report, value)}".strip()


def _not_chosen(report: ReportContents) -> str:
    """Compare a mixture that was not chosen with the winner."""
    criterion, row, winner = CRITERIA[report.criterion], report.row, report.winner
    chosen = f"{report.best}, {mixture_words(winner)}, was chosen of {counted(len(report.table), 'candidate')}"
    lead = row[criterion.name] - winner[criterion.name]
    if math.isnan(row["delta"]):
        status = Status(row["status"])
        return f"{chosen}. This mixture cannot win: it is {status}. {capital(status.remedy)}"
    has = f"The {criterion.label} of this mixture, {number(row[criterion.name], 1)}, is {difference(abs(lead))}"
    if lead < 0.0:
        return f"{chosen}, with fewer parameters. {has} lower."
    scale = criterion.scale
    strength = f": {scale.level(lead).clause}, by convention ({scale.source})" if scale else ""
    return f"{chosen}. {has} higher{strength}."


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
    """Compare the likelihood of the held-out rows with that of the fitted ones."""
    n_rows, row = report.store.held_out_rows, report.row
    if n_rows:
        yield (
            f"{counted(n_rows, 'row')} {'was' if n_rows == 1 else 'were'} held out of the fits: their mean "
            f"log-likelihood is {number(row['held_out_log_likelihood'], 4)}, that of the fitted rows "
            f"{number(report.store.mean_log_density(report.name), 4)}."
        )


def _lead(report: ReportContents) -> str:
    second = report.runner_up
    first = report.ranking[0]
    also = [name for name in (first["name"], *first["also"]) if name != report.best]
    verb = "is" if len(also) == 1 else "are"
    same = f"({listed(also, MOST_FORMS)} {verb} the same model in another form.) " if also else ""
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
    if not chosen:
        return ""
    agree = [CRITERIA[name].label for name, found in chosen.items() if found == report.best]
    differ = [f"{CRITERIA[name].label} would choose {found}" for name, found in chosen.items() if found != report.best]
    said = [f"{joined(agree)} {'agree' if len(agree) > 1 else 'agrees'}"] if agree else []
    habits = " AIC tends to choose more components than BIC, and ICL fewer where they overlap." if differ else ""
    return capital(f"{', and '.join([*said, *differ])}.{habits}")


# -- the components ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TraitWords:
    """A feature that sets a component apart: its name, and the words before and after it."""

    before: str
    feature: str
    after: str


@dataclass(frozen=True)
class Group:
    """A component in words.

    Attributes
    ----------
    title : str
        Its number, with its name if it has one.
    number : int
        Which its mark in pictures follows.
    share, size : str
        Its weight, and the rows that it stands for.
    traits : list of TraitWords
        What sets it apart.
    """

    title: str
    number: int
    share: str
    size: str
    traits: list[TraitWords]


def groups(report: ReportContents) -> list[Group]:
    """Describe the components, the heaviest first; empty for a single one, which nothing sets apart."""
    components = report.components
    if len(components.weights) < 2:
        return []
    return [
        Group(
            report.titles[k],
            components.numbers[k],
            f"{components.weights[k]:.1%}",
            size(report, k),
            [_trait_words(report, trait) for trait in profile(components, k)]
            or [TraitWords("near the other rows in each feature", "", "")],
        )
        for k in np.argsort(-components.weights, kind="stable").tolist()
    ]


def size(report: ReportContents, k: int) -> str:
    """Return the rows, or the weight, that a component stands for: ``≈ 129 rows``."""
    return size_words(report, report.sizes[k])


def size_words(report: ReportContents, rows: float) -> str:
    """Return a number of rows, or their weight, in words: ``≈ 129 rows``."""
    return f"≈ {rows:,.0f} {report.size_unit}"


def _trait_words(report: ReportContents, trait: Trait) -> TraitWords:
    name = report.components.names[trait.feature]
    places = decimals(report.components.deviations[trait.feature])
    mean, others = number(trait.mean, places), number(trait.others_mean, places)
    if trait.degree is None:
        places = decimals(min(trait.deviation, trait.others_deviation))
        spread = f"± {number(trait.deviation, places)}; others ± {number(trait.others_deviation, places)}"
        width = "wide" if trait.deviation > trait.others_deviation else "narrow"
        return TraitWords(f"near the other rows, {width} in ", name, f" ({mean} {spread})")
    side = "high" if trait.distance > 0.0 else "low"
    return TraitWords(f"{trait.degree} {side} ".lstrip(), name, f" ({mean}; others {others})")


def sure(report: ReportContents) -> str:
    """Describe how many labels are sure; empty for a single component."""
    if len(report.components.weights) < 2:
        return ""
    share = sure_share(report)
    of = "All of" if share == 1.0 else f"{share:.{1 if share >= 0.995 else 0}%} of"
    return f"{of} the sampled rows have a sure label: one that is at least 90% probable."


def sure_share(report: ReportContents) -> float:
    """Return the part of the sampled rows whose label is sure."""
    return float(np.mean(report.sample.uncertainty <= SURE))


def starts(report: ReportContents) -> str:
    """Describe the starts of the fits, and which of this candidate's starts agreed."""
    said = starts_compared(report.row, "the winner's" if report.is_winner else f"{report.name}'s")
    if not STARTS[report.store.config["search"]["init_params"]].is_search:
        return said
    most = min(report.n_rows, sample_limit(len(report.components.names)))
    begin = f"each is the best of many short fits to an in-memory sample of {most:,} rows (no passes over the data)"
    return "; ".join(filter(None, [begin, said]))


def convergence(report: ReportContents) -> str:
    """Describe how the best start converged, and why its log-likelihood fell if it did."""
    bounds, search = report.model.lower_bounds, report.store.config["search"]
    if len(bounds) < 2:
        return ""
    steps = np.diff(bounds)
    said = (
        f"The best start of {report.name} took {counted(len(bounds), 'iteration')}; the last one changed the "
        f"{report.bound_words} by {abs(steps[-1]):.1g} (tol is {search['tol']:g})."
    )
    if steps.min() >= 0.0:
        return said
    is_rounding = search["reg_covar"] == 0.0 or -steps.min() <= ROUNDING * np.abs(bounds).max()
    cause = "rounding" if is_rounding else "reg_covar, which widens the covariances after each M-step,"
    return f"{said} It fell by up to {-steps.min():.1g} on the way: {cause} may lower it a little."


# -- the rows ------------------------------------------------------------------------------------------------


def marked(report: ReportContents) -> str:
    """Describe the marked rows and their threshold, or how to mark rows."""
    rows = report.rows
    if rows is None or rows.anomalies is None or rows.anomaly_threshold is None:
        return "output.anomaly_quantile marks the rows with the lowest log densities; this job marks none."
    within = f" (within {rows.anomaly_rank_error:.2g} of the rows)" if rows.anomaly_rank_error else ""
    return (
        f"Anomalies: {counted(rows.anomalies, 'row')} with a log density below {number(rows.anomaly_threshold, 4)}, "
        f"the {rows.anomaly_quantile:.4g} quantile{within}."
    )


# -- worth a look ------------------------------------------------------------------------------------


def caveats(report: ReportContents) -> list[str]:
    """Return the reasons to doubt the choice, which stand beside the headline."""
    return list(_about_the_choice(report))


def notices(report: ReportContents) -> list[str]:
    """Return what else a reader should know before trusting the result."""
    return [
        *_about_the_candidates(report),
        *_about_the_components(report),
        *_about_rows(report),
    ]


def _about_the_choice(report: ReportContents) -> Iterator[str]:
    if not report.is_winner:
        return
    yield from report.store.remarks
    close = [with_forms(row) for row in report.ranking[1:] if row["delta"] <= 2.0]
    if close and report.criterion == "bic":
        yield f"About as good by BIC, within 2 of the winner: {listed(close)}. Other reasons may decide between them."


def _about_the_candidates(report: ReportContents) -> Iterator[str]:
    status = report.model.status
    if not status.trusted and report.is_winner:
        yield f"No candidate can be trusted, and the winner is {status}: {status.remedy}"
    elif status.trusted and status is not Status.CONVERGED:
        yield f"{'The winner' if report.is_winner else report.name} did not converge: {status.remedy}"
    failed = [name for status, names in report.troubled.items() if not status.usable for name in names]
    if failed:
        yield f"{counted(len(failed), 'candidate')} could not be fitted: causes and remedies are listed in The fit."
    doubtful = [
        name for status, names in report.troubled.items() if status.usable and not status.trusted for name in names
    ]
    if doubtful:
        of = counted(len(doubtful), "candidate")
        why = joined([str(status) for status in report.troubled if status.usable and not status.trusted])
        yield f"{of} cannot win, being {why}: see The fit."


def about_the_transform(report: ReportContents) -> str:
    """What the features of the fit are, and what its densities refer to."""
    transform, steps = report.model.transform, report.store.config["data"]["transform"]
    shown = ", ".join(TransformStep.model_validate(step).shown for step in steps)
    text = f"The columns were transformed before the fit ({shown}): {report.store.transform_note}."
    if not transform.keeps_density:
        text += " Log-likelihoods, criteria and densities are of these coordinates, in the units that pca was given."
    elif transform.is_clipped:
        text += " Log-likelihoods, criteria and densities are of the clipped values."
    else:
        text += " Log-likelihoods, criteria and densities refer to the columns as they are stored."
    return printable(text)


def _about_the_components(report: ReportContents) -> Iterator[str]:
    titled = zip(report.titles, report.sizes, strict=True)
    few = [f"{title} (about {size:,.0f} {report.size_unit})" for title, size in titled if size < FEW_ROWS]
    if few:
        yield f"Components of very few rows: {listed(few)}. They may describe outliers."
    held_open = [f"{report.titles[k]} {_where_held_open(report, columns)}" for k, columns in report.held_open.items()]
    if held_open:
        yield (
            f"Components that only search.reg_covar ({report.store.config['search']['reg_covar']}) keeps from "
            f"collapsing: {listed(held_open)}. They are as narrow there as the resolution of the data, or the value "
            "that their rows share, lets them be, and their likelihood depends on it."
        )
    if report.slim_component:
        yield _about_the_slim(report.slim_component, report.row)


def _where_held_open(report: ReportContents, columns: list[int]) -> str:
    """Name the columns in which a component is held open, with the steps that their values are rounded to."""
    names = report.components.names
    steps = report.resolution.step if report.model.transform.folds else np.zeros(len(names))
    found = [names[i] + (f", rounded to {steps[i]:.3g}" if steps[i] else "") for i in columns]
    return f"({'; '.join(found) or 'in a direction across the columns'})"


def _about_the_slim(title: str, row: dict[str, Any]) -> str:
    gain, price = row["slim_gain"], row["slim_price"]
    paid = "a tight group that pays" if gain >= price else "it may be chance"
    return (
        f"Component {title} is far narrower than the others and has few rows. It raises the log-likelihood by "
        f"{gain:,.0f}, and has to raise it by {price:,.0f}, the price of its parameters and of the choice of its "
        f"place: {paid}."
    )


def _about_rows(report: ReportContents) -> Iterator[str]:
    for note in report.store.data.get("notes", []):
        yield f"{note[:1].upper()}{note[1:].rstrip('.')}."
    sure = sure_share(report)
    if sure < 0.5:
        yield f"Only {sure:.0%} of the sampled rows have a sure label: the components overlap strongly."


def clusters(report: ReportContents) -> str:
    """Which components are one cluster, and what that means."""
    merged = [joined(list(titles)) for titles in report.store.cluster_titles if len(titles) > 1]
    tree = report.cluster_tree
    assert tree is not None
    counts = f"{counted(tree.n_clusters, 'cluster')} of {counted(tree.n_components, 'component')}"
    return (
        f"Components that overlap are taken for one cluster: {'; '.join(map(printable, merged))}. That makes {counts}. "
        "Each merge is the one that lowers the entropy of the rows' probabilities the most (Baudry et al. 2010). The "
        "number of clusters is that at the elbow of the entropy, but components that hardly overlap are not merged."
    )
