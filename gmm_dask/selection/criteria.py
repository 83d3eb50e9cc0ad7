"""The criteria that candidates are compared by: each is one value, and everything else derives from :data:`CRITERIA`.

Tables, the arrays of a result store, the choices of a configuration, reports, plots and exports read the names, labels,
formulas and scales of evidence from there. A new criterion is a new entry, with its test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gmm_dask.em.loop import Status
from gmm_dask.passes.model_batch import Totals

# criteria closer than this, relatively, are equal: more than rounding, less than any evidence
TIE = 1e-9


@dataclass(frozen=True)
class Level:
    """One level of a scale of evidence.

    Attributes
    ----------
    upper : float
        The largest difference of the criterion that still is of this level.
    label : str
        A few words, for tables and plots.
    clause : str
        The level as part of a sentence about the candidate with the larger criterion.
    """

    upper: float
    label: str
    clause: str


@dataclass(frozen=True)
class EvidenceScale:
    """A convention for how strong a difference of a criterion is as evidence for the smaller one.

    Attributes
    ----------
    levels : tuple of Level
        In ascending order; the last one has no upper end.
    source : str
        Who proposed it, as it is cited in reports.
    graded : bool
        Whether tables and plots show the labels; otherwise only sentences use the scale.
    """

    levels: tuple[Level, ...]
    source: str
    graded: bool = True

    def level(self, difference: float) -> Level:
        """Return the level of a difference of two candidates' criteria."""
        return self.levels[self.position(difference)]

    def position(self, difference: float) -> int:
        """Return the position of a difference's level, the weakest being 0."""
        return next(i for i, level in enumerate(self.levels) if difference <= level.upper)


@dataclass(frozen=True)
class Criterion:
    """A criterion of model selection; the candidate with the smallest value wins, or one that is as good.

    Attributes
    ----------
    name : str
        In configurations, tables and stores.
    label : str
        In reports and plots.
    formula : callable
        ``formula(totals, n_parameters, total_weight)`` returns the value, with the :class:`Totals` of the final pass,
        the number of free parameters and the weight of the fitted rows.
    description : str
        The definition and its source, in one sentence.
    scale : EvidenceScale or None
        The conventional scale of evidence; None where there is none.
    of_likelihood : bool or None
        Whether it is one of mixtures that are estimated by their likelihood; otherwise of variational ones, or of all
        (None).
    needs_held_out : bool
        Whether it is computed from rows that are held out of the fit.
    error : str or None
        Name of the column, and of the attribute of an outcome, that holds the standard error of the value's difference
        to the smallest: within one, the candidate with the fewest parameters wins. None where the smallest wins.
    """

    name: str
    label: str
    formula: Callable[[Totals, int, float], float]
    description: str
    scale: EvidenceScale | None = None
    of_likelihood: bool | None = True
    needs_held_out: bool = False
    error: str | None = None

    @property
    def graded_scale(self) -> EvidenceScale | None:
        """The scale, if tables and plots show its labels."""
        return self.scale if self.scale and self.scale.graded else None


def _bic(totals: Totals, n_parameters: int, total_weight: float) -> float:
    return -2.0 * totals.log_likelihood + n_parameters * math.log(total_weight)


def _aic(totals: Totals, n_parameters: int, total_weight: float) -> float:
    return -2.0 * totals.log_likelihood + 2.0 * n_parameters


def _icl(totals: Totals, n_parameters: int, total_weight: float) -> float:
    # log_top is sum_i w_i log max_k r_ik: 0 where every label is sure, and the more negative, the more rows lie between
    # components
    return _bic(totals, n_parameters, total_weight) - 2.0 * totals.log_top


def _elbo(totals: Totals, n_parameters: int, total_weight: float) -> float:
    return -2.0 * totals.log_evidence


def _held_out_deviance(totals: Totals, n_parameters: int, total_weight: float) -> float:
    return -2.0 * totals.held_out


# for twice the logarithm of the Bayes factor (their section 3.2), which a difference of two BICs approximates
KASS_RAFTERY = EvidenceScale(
    (
        Level(2.0, "bare mention", "no more than a bare mention"),
        Level(6.0, "positive", "positive evidence against it"),
        Level(10.0, "strong", "strong evidence against it"),
        Level(math.inf, "very strong", "very strong evidence against it"),
    ),
    "Kass and Raftery 1995",
)
# how much support a candidate has beside the one with the smallest AIC (their section 2.6); they leave gaps between the
# ranges (2 to 4, 7 to 10), which are levels of their own here
BURNHAM_ANDERSON = EvidenceScale(
    (
        Level(2.0, "substantial", "it has substantial support too"),
        Level(4.0, "some", "it has some support"),
        Level(7.0, "less", "it has considerably less support"),
        Level(10.0, "little", "it has little support"),
        Level(math.inf, "none", "it has essentially no support"),
    ),
    "Burnham and Anderson 2002",
    graded=False,
)

CRITERIA = {
    criterion.name: criterion
    for criterion in (
        Criterion(
            "bic",
            "BIC",
            _bic,
            "-2 log-likelihood + n_parameters log(total weight) (Schwarz 1978).",
            KASS_RAFTERY,
        ),
        Criterion("aic", "AIC", _aic, "-2 log-likelihood + 2 n_parameters (Akaike 1974).", BURNHAM_ANDERSON),
        Criterion(
            "icl",
            "ICL",
            _icl,
            "BIC - 2 sum_i w_i log max_k r_ik (Biernacki, Celeux and Govaert 2000, in the form of mclust, negated).",
        ),
        Criterion(
            "elbo",
            "-2 ELBO",
            _elbo,
            "-2 times the lower bound on the logarithm of the evidence of variational mixtures, with all constants "
            "(Bishop 2006, section 10.2).",
            KASS_RAFTERY,
            of_likelihood=False,
        ),
        Criterion(
            "held_out",
            "held-out deviance",
            _held_out_deviance,
            "-2 times the log-likelihood of the rows that are held out of the fits. The candidate with the fewest "
            "parameters wins of those within one standard error of the smallest value.",
            of_likelihood=None,
            needs_held_out=True,
            error="held_out_error",
        ),
    )
}


def criteria_of(of_likelihood: bool) -> list[str]:
    """Names of the criteria of mixtures that are estimated by their likelihood, or of variational ones; its own first.

    The first is the default.
    """
    return [name for name, criterion in CRITERIA.items() if criterion.of_likelihood in (of_likelihood, None)]


def best_position(
    values: Sequence[float],
    n_parameters: Sequence[int],
    trusted: Sequence[bool],
    errors: Sequence[float] | None = None,
) -> int | None:
    """Return the position of the winner among those that may win (:func:`eligible`); None if there are none.

    It is the one with the fewest parameters among those that are as good as the smallest value: within one standard
    error of it, where ``errors`` are given (Breiman et al. 1984), and but for rounding otherwise. Candidates may be one
    model in two forms (full and tied with one component), whose values differ by rounding alone.
    """
    known = eligible(values, trusted)
    if not known:
        return None
    least = min(values[i] for i in known)
    rounding = TIE * max(1.0, abs(least))
    margins = [rounding] * len(values) if errors is None else [max(rounding, error) for error in errors]
    good = [i for i in known if values[i] - least <= margins[i]]
    fewest = min(n_parameters[i] for i in good)
    smallest = [i for i in good if n_parameters[i] == fewest]
    best = min(values[i] for i in smallest)
    return next(i for i in smallest if values[i] - best <= rounding)


def eligible(values: Sequence[float], trusted: Sequence[bool]) -> list[int]:
    """Return the positions that may win: criteria that are known, with a trusted status unless none has one."""
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    return [i for i in known if trusted[i]] or known


def differences(values: Sequence[float], statuses: Sequence[str]) -> list[float]:
    """Return each criterion minus the smallest; NaN for candidates that may not win."""
    may_win = eligible(values, [Status(status).trusted for status in statuses])
    least = min((values[i] for i in may_win), default=math.nan)
    return [value - least if i in may_win else math.nan for i, value in enumerate(values)]
