"""An estimator in a notebook: scikit-learn's diagram, and compact tables below it once it is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from gmm_dask.formatting import counted, decimals, number
from gmm_dask.plotting.feature_pairs import components_of, separating_features
from gmm_dask.selection.criteria import CRITERIA

MOST_COMPONENTS = 12
MOST_FEATURES = 8
MOST_CANDIDATES = 6

# colours come from the notebook, light or dark
_STYLE = """<style>
.gmm-dask { font-size: 0.9em; margin-top: 0.6em }
.gmm-dask table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.gmm-dask caption { caption-side: top; white-space: nowrap; text-align: left; padding: 0.3em 0; font-weight: 600 }
.gmm-dask th, .gmm-dask td { text-align: right; padding: 0.15em 0.7em }
.gmm-dask tr { border-bottom: 1px solid rgba(128, 128, 128, 0.3) }
.gmm-dask th:first-child { text-align: left; padding-left: 0 }
.gmm-dask p { margin: 0.3em 0; opacity: 0.75 }
</style>"""


def estimator_html(diagram: str, estimator: Any) -> str:
    """Return scikit-learn's diagram of an estimator; once it is fitted, with tables below it.

    A search has its best candidates and the winner's components, a mixture its components.
    """
    mixture = getattr(estimator, "best_estimator_", estimator)
    if not hasattr(mixture, "weights_"):
        return diagram
    candidates = [] if mixture is estimator else _candidates_html(estimator)
    return f'{diagram}{_STYLE}<div class="gmm-dask">{"".join([*candidates, *_components_html(mixture)])}</div>'


def _components_html(mixture: Any) -> list[str]:
    """Return a table with one row per component: its weight, and its mean and standard deviation by feature."""
    components = components_of(mixture)
    features = np.sort(separating_features(components)[:MOST_FEATURES])
    shown = np.argsort(-components.weights, kind="stable")[:MOST_COMPONENTS]
    head = ["component", "weight", *(components.names[d] for d in features)]
    digits = [decimals(components.deviations[d]) for d in features]
    body = []
    for k in shown:
        pairs = zip(components.means[k, features], np.sqrt(components.variances[k, features]), digits, strict=True)
        values = [f"{number(mean, places)} ± {number(deviation, places)}" for mean, deviation, places in pairs]
        body.append([str(k), f"{components.weights[k]:.1%}", *values])
    if (noise := mixture._model[1].noise) is not None:
        body.append(["noise", f"{noise.weight:.1%}", *[""] * len(features)])
    n_components, n_features = components.means.shape
    how = "converged" if mixture.converged_ else "stopped"
    caption = (
        f"{counted(n_components, 'component')}, {mixture.covariance_type} covariance; {how} after "
        f"{counted(mixture.n_iter_, 'iteration')} at a mean log-likelihood of {mixture.lower_bound_:.4f} per row"
    )
    parts = [_table(caption, head, body), "<p>mean ± standard deviation of each component</p>"]
    left_out = []
    if n_components > len(shown):
        left_out.append(f"the {len(shown)} heaviest of {n_components} components")
    if n_features > len(features):
        left_out.append(f"the {len(features)} of {n_features} features that separate the components best")
    return [*parts, f"<p>Shown: {', '.join(left_out)}.</p>"] if left_out else parts


def _candidates_html(search: Any) -> list[str]:
    table = search.results_.sort_values("delta", kind="stable")
    criterion = CRITERIA[search.criterion_]
    label, scale = criterion.label, criterion.graded_scale
    head = ["covariance", "K", label, f"Δ{label}", "evidence", "iterations", "status"]
    body = []
    for row in table.head(MOST_CANDIDATES).to_dict("records"):
        words = scale.level(row["delta"]).label if scale and row["delta"] > 0.0 else ""
        values = ["-", "-"] if math.isnan(row["delta"]) else [f"{row[criterion.name]:,.2f}", f"{row['delta']:,.2f}"]
        kind, k, status = row["covariance_type"], str(row["n_components"]), row["status"]
        body.append([kind, k, *values, words, str(row["n_iter"]), status])
    caption = f"{counted(len(table), 'candidate')}, the best first"
    parts = [_table(caption, head, body)]
    if scale and len(table) > 1:
        parts.append(f"<p>Evidence: against the candidate, beside the best ({scale.source}).</p>")
    return parts


def _table(caption: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    rows = []
    for first, *cells in body:
        values = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(first)}</th>{values}</tr>')
    head_row = f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
    return f"<table>{head_row}<tbody>{''.join(rows)}</tbody></table>"
